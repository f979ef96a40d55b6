"""Which clients a TLS listener serves: the authority whose certificates they need, and what it has revoked.

rustls verifies clients by trust anchors and revocation lists (rustls-webpki), and Granian ends a worker with a panic if
it cannot load one. What it loads may still refuse every client, which is found here, too: if there is any list, the
status of each certificate has to be known, so that each authority needs a list that its own key has signed.
"""

import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from app.settings import rustls
from app.settings.errors import ConfigurationError, cut
from app.settings.files import NamedFile
from app.settings.pem import certificates

LARGEST_NAMES = 2**16 - 2**10
"""Bytes of all authorities' names, which each handshake sends in one extension (RFC 8446, section 4.2.4)."""
MOST_LISTS = 8  # each is an open file of every worker
LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
NUMBER, DELTA, PART, KEY = (
    x509.oid.ExtensionOID.CRL_NUMBER,
    x509.oid.ExtensionOID.DELTA_CRL_INDICATOR,
    x509.oid.ExtensionOID.ISSUING_DISTRIBUTION_POINT,
    x509.oid.ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
)
OTHER = x509.oid.CRLEntryExtensionOID.CERTIFICATE_ISSUER
ENTRY = {x509.oid.CRLEntryExtensionOID.CRL_REASON, x509.oid.CRLEntryExtensionOID.INVALIDITY_DATE}


def authorities(file: NamedFile, pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a file as trust anchors. Raises ConfigurationError."""
    found = certificates(file, pem, "is not a PEM file of certificates; give those of the authorities")
    for each in found:
        name = "a certificate"
        try:
            name = cut(each.subject.rfc4514_string())
            self_issued = each.issuer == each.subject
            public = each.public_key()
            extensions = each.extensions
        except rustls.UNREADABLE as error:
            raise ConfigurationError(
                f"{file} holds {name}, which cannot be read ({cut(str(error))}); remove it, or have it issued anew"
            ) from error
        if (
            not rustls.verifies_with(public)
            or each.public_key_algorithm_oid == x509.oid.PublicKeyAlgorithmOID.RSASSA_PSS
        ):
            raise ConfigurationError(
                f"{file} holds {name}, with whose type of key rustls verifies nothing; use {rustls.AUTHORITY_KEYS}"
            )
        if len(each.public_bytes(Encoding.DER)) > rustls.LARGEST_LEAF:
            raise ConfigurationError(
                f"{file} holds {name}, which is larger than {rustls.LARGEST_LEAF} bytes; remove it"
            )
        if not self_issued and not _is_authority(extensions):
            raise ConfigurationError(f"{file} holds {name}, which is no authority's certificate; give its issuer's")
    if sum(2 + len(each.subject.public_bytes()) for each in found) > LARGEST_NAMES:
        raise ConfigurationError(
            f"{file} holds {len(found)} authorities, whose names take more than {LARGEST_NAMES} bytes in a handshake;"
            f" give fewer"
        )
    if all(map(_has_directory_name, found)):
        raise ConfigurationError(
            f"{file} holds no authority without a directoryName among its name constraints, which rustls does not evaluate:"
            f" every client would be refused; have one issued anew without that"
        )
    return found


def _has_directory_name(authority: x509.Certificate) -> bool:
    try:
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return False
    names = (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ()))
    return any(isinstance(each, x509.DirectoryName) for each in names)


def _is_authority(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def revocations(
    file: NamedFile, pem: bytes, authority_file: NamedFile, trusted: Sequence[x509.Certificate]
) -> list[x509.CertificateRevocationList]:
    """Return the lists of a file, of which each authority in `trusted` has exactly one. Raises ConfigurationError."""
    found: dict[bytes, x509.CertificateRevocationList] = {}
    for block in _blocks(file, pem):
        try:
            one = x509.load_pem_x509_crl(block)
            issuer, name = one.issuer.public_bytes(), cut(one.issuer.rfc4514_string())
            reason = _rejected(one)
        except (*rustls.UNREADABLE, TypeError) as error:
            raise ConfigurationError(
                f"{file} holds a list that cannot be read ({cut(str(error))}); write it anew"
            ) from error
        if reason:
            raise ConfigurationError(f"{file} holds a list of {name} that {reason}")
        signers = [each for each in trusted if _is_signed(one, each)]
        if not signers:
            raise ConfigurationError(
                f"{file} holds a list of {name} that no authority in {authority_file.path} has signed; add that"
                f" authority, or remove the list"
            )
        if not any(rustls.verifies(one, each.public_key()) for each in signers):
            raise ConfigurationError(
                f"{file} holds a list of {name} that is signed in a way that rustls does not accept; sign it with SHA-256"
                f" (and if in RSASSA-PSS, with a salt of 32 bytes)"
            )
        if issuer in found:  # rustls would look at the first alone
            raise ConfigurationError(f"{file} holds two lists of {name}; remove the older one")
        found[issuer] = one
    for each in trusted:
        if not any(_is_signed(one, each) for one in found.values()):
            raise ConfigurationError(
                f"{file} holds no list of {cut(each.subject.rfc4514_string())} that its key has signed, so that its"
                f" clients would all be refused; add the list, or remove that authority from {authority_file.path}"
            )
    return list(found.values())


def _blocks(file: NamedFile, pem: bytes) -> list[bytes]:
    blocks = LIST.findall(pem)
    if not blocks or len(blocks) != pem.count(b"-----BEGIN X509 CRL-----"):
        raise ConfigurationError(f"{file} is not a PEM file of revocation lists; give those of the authorities, whole")
    if len(blocks) > MOST_LISTS:
        raise ConfigurationError(f"{file} holds {len(blocks)} lists, more than {MOST_LISTS}; give fewer authorities")
    return blocks


def _rejected(one: x509.CertificateRevocationList) -> str | None:
    """Return what webpki rejects in a list, with the way out; None if there is nothing. Reads all of it."""
    known = {each.oid for each in one.extensions}
    if not _has_version(one.tbs_certlist_bytes) or not known:
        return "is of version 1, which rustls does not accept; write it with extensions (openssl.cnf: crl_extensions)"
    if one.next_update_utc is None:
        return "has no next update, which rustls does not accept; write it with one"
    if DELTA in known or PART in known:
        return "is only a part (delta, or issuing distribution point), and others would be unknown; give a whole list"
    if unknown := {each.oid for each in one.extensions if each.critical} - {NUMBER, KEY} | _unknown_in_entries(one):
        names = ", ".join(sorted(each.dotted_string for each in unknown))
        return f"has extensions that rustls does not accept ({names}); leave them out"
    return None


def _unknown_in_entries(one: x509.CertificateRevocationList) -> set[x509.ObjectIdentifier]:
    """Return what is critical and unknown in entries, or says that a certificate is another authority's."""
    return {
        extension.oid
        for entry in one
        for extension in entry.extensions
        if extension.oid == OTHER or (extension.critical and extension.oid not in ENTRY)
    }


def _has_version(tbs: bytes) -> bool:
    """Return whether the first element of a list is its version (RFC 5280, section 5.1), which only version 2 has."""
    length = tbs[1] & 0x7F if tbs[1] & 0x80 else 0  # of the length, in its long form
    return tbs[2 + length] == 2  # INTEGER


def _is_signed(one: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if one.issuer.public_bytes() != authority.subject.public_bytes():  # rustls compares bytes
        return False
    try:
        return one.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (UnsupportedAlgorithm, TypeError, ValueError):  # by a key of another type
        return False
