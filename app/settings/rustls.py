"""The rules by which rustls accepts a pair and clients' authorities: with any other a worker panics at its start."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID

KEYS = "RSA of 2048, 3072 or 4096 bits, ECDSA on P-256 or P-384, or Ed25519"
AUTHORITY_KEYS = "RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519"
CRITICAL = {"2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.37"}
"""Extensions that rustls-webpki knows, by number: a certificate in which another is critical is rejected."""
LARGEST_LEAF, LARGEST_CHAIN = 2**16 - 1, 2**16  # bytes of DER: webpki's limit, and what a client's OpenSSL accepts
SIGNATURES = {
    SignatureAlgorithmOID.RSA_WITH_SHA256,
    SignatureAlgorithmOID.RSA_WITH_SHA384,
    SignatureAlgorithmOID.RSA_WITH_SHA512,
    SignatureAlgorithmOID.RSASSA_PSS,
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ED25519,
}
"""What rustls' ring provider verifies, for keys of any type."""
UNREADABLE = (
    ValueError,
    TypeError,  # of a common name that is a BIT STRING
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for a certificate whose parts it cannot parse."""


def names_of(leaf: x509.Certificate) -> list[str]:
    """Return the DNS names and addresses that a leaf is for (RFC 6125); its common name if it has none.

    Raises one of UNREADABLE for extensions that cannot be parsed.
    """
    with unwarned():
        return _names_of(leaf)


@contextmanager
def unwarned() -> Iterator[None]:
    """Ignore what cryptography warns of meanwhile: odd names and numbers in certificates that are served anyhow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _names_of(leaf: x509.Certificate) -> list[str]:
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [str(attribute.value) for attribute in common]
    addresses = [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
    return alternative.get_values_for_type(x509.DNSName) + addresses


def accepts(key: object) -> bool:
    """Return whether rustls' ring provider can sign with `key` (ring::signature)."""
    match key:
        case rsa.RSAPrivateKey():
            return key.key_size in {2048, 3072, 4096} and 2**16 < key.public_key().public_numbers().e < 2**33
        case ec.EllipticCurvePrivateKey():
            return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
        case _:
            return isinstance(key, ed25519.Ed25519PrivateKey)


def verifies_with(key: object) -> bool:
    """Return whether rustls' ring provider can verify what was signed with the private key of `key`."""
    match key:
        case rsa.RSAPublicKey():
            return 2048 <= key.key_size <= 8192
        case ec.EllipticCurvePublicKey():
            return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
        case _:
            return isinstance(key, ed25519.Ed25519PublicKey)


def verifies(one: x509.CertificateRevocationList, key: object) -> bool:
    """Return whether rustls' ring provider verifies the signature of a list that was made with the private key of `key`.

    It has no ECDSA with SHA-512, and of RSASSA-PSS (RFC 4055) only that with a salt as long as the digest.
    """
    if one.signature_algorithm_oid not in SIGNATURES:
        return False
    digest = one.signature_hash_algorithm
    if one.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        return True
    if digest is None or not isinstance(key, rsa.RSAPublicKey):
        return False
    try:
        form = padding.PSS(padding.MGF1(digest), digest.digest_size)
        key.verify(one.signature, one.tbs_certlist_bytes, form, digest)
    except InvalidSignature:
        return False
    return isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512)


def why_rejected(chain: list[x509.Certificate]) -> str | None:
    """Return what rustls' parser (rustls-webpki) rejects in a chain that OpenSSL accepts; None if there is nothing.

    Parses all that is used of the leaf, so that it raises one of UNREADABLE now or never.
    """
    leaf = chain[0]
    names_of(leaf)
    if leaf.not_valid_before_utc > leaf.not_valid_after_utc:
        return "is never valid"
    if leaf.version != x509.Version.v3:
        return f"is an X.509 {leaf.version.name} certificate (with `openssl x509 -req`, give it extensions)"
    unknown = [each.oid.dotted_string for each in leaf.extensions if each.critical]
    if unknown := sorted(set(unknown) - CRITICAL):
        return f"has critical extensions ({', '.join(unknown)})"
    if len(leaf.public_bytes(Encoding.DER)) > LARGEST_LEAF:
        return f"is larger than {LARGEST_LEAF} bytes"
    if sum(len(each.public_bytes(Encoding.DER)) for each in chain) > LARGEST_CHAIN:
        return f"is a chain of more than {LARGEST_CHAIN} bytes"
    return None
