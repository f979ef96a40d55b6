"""A pair, certificate chain and private key: one value, checked before anything serves it."""

import base64
import datetime as dt
import errno
import hashlib
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from app.settings import clients, rustls
from app.settings.config import PairFiles
from app.settings.errors import ConfigurationError, cut, shown
from app.settings.files import MIB, NamedFile
from app.settings.pem import certificates
from app.settings.sealed_file import SealedFile

OPENSSL = "OpenSSL's configuration (openssl.cnf, OPENSSL_CONF)"
REMEDY = "give both files readable (in a container, mount them), or name others (TLS_CERT, TLS_KEY)"
CLIENTS_REMEDY = "mount it readable, or remove client_authority and client_revocations"
Content = tuple[bytes, bytes, bytes | None, bytes | None]
"""What the files of a pair held: certificate, key, and, if they are set, clients' authority and revocations."""


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its private key, as PEM that rustls accepts, and which clients it is served to."""

    origin: str
    leaf: x509.Certificate
    chain_pem: bytes
    key_pem: bytes
    authority: Path
    """What a client may trust to verify the leaf (`curl --cacert`)."""
    client_authority_pem: bytes | None = None
    """Whose certificates clients need; None if they need none."""
    client_revocations_pem: tuple[bytes, ...] = ()
    """A revocation list of each authority; none at all if nothing is looked up."""
    content: Content | None = None
    """What the files held, byte for byte; None if there were none."""

    @property
    def names(self) -> list[str]:
        """The leaf's names, as `rustls.names_of` returns them."""
        return rustls.names_of(self.leaf)

    @property
    def served(self) -> tuple[object, ...]:
        """All that a worker is given: the same for two pairs that are written otherwise, but serve alike."""
        return self.chain_pem, self.key_pem, self.client_authority_pem, self.client_revocations_pem

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the leaf, in hexadecimal."""
        return self.leaf.fingerprint(SHA256()).hex()

    @property
    def pin(self) -> str:
        """The SHA-256 of the leaf's public key, in base64 (`curl --pinnedpubkey`)."""
        key = self.leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(key).digest()).decode()

    @property
    def expired(self) -> bool:
        """Whether now is outside the leaf's period of validity."""
        now = dt.datetime.now(dt.UTC)
        return not self.leaf.not_valid_before_utc <= now <= self.leaf.not_valid_after_utc


def read(files: PairFiles) -> Content:
    """Return what the files hold now, unchecked. Raises ConfigurationError if one cannot be read."""

    def of_clients(file: NamedFile | None) -> bytes | None:
        return None if file is None else file.read(MIB, CLIENTS_REMEDY)

    return (
        files.certificate.read(MIB, REMEDY),
        files.key.read(MIB, REMEDY),
        of_clients(files.client_authority),
        of_clients(files.client_revocations),
    )


def load(files: PairFiles) -> Pair:
    """Read and check a pair. Raises ConfigurationError as `read` and `check` do."""
    return check(files, read(files))


def check(files: PairFiles, content: Content) -> Pair:
    """Return the pair that the files held.

    Raises ConfigurationError: a file that is not PEM, an encrypted key, a key that rustls does not accept, a key that
    is not the certificate's; clients' authorities or revocations that rustls does not accept, or that do not match.
    """
    with rustls.unwarned():
        return _check(files, content)


def _check(files: PairFiles, content: Content) -> Pair:
    certificate_pem, key_pem, authority_pem, revocations_pem = content
    chain = certificates(
        files.certificate, certificate_pem, "is not a PEM certificate chain; give the leaf, then its issuers"
    )
    leaf = chain[0]
    private = _private_key(files, key_pem)
    if not rustls.accepts(private) or leaf.public_key_algorithm_oid == x509.oid.PublicKeyAlgorithmOID.RSASSA_PSS:
        raise ConfigurationError(f"{files.key} is of a type that rustls does not accept; use {rustls.KEYS}")
    try:
        same = leaf.public_key() == private.public_key()
        reason = rustls.why_rejected(chain)
    except rustls.UNREADABLE as error:
        what = f"{files.certificate} cannot be read ({cut(str(error))})"
        if "EncodedDefault" in str(error):
            raise ConfigurationError(
                f"{what}: an extension has a default value written out, which DER leaves out; have it issued without"
                f" (cA FALSE, for one)"
            ) from error
        raise ConfigurationError(
            f"{what}; have a certificate issued that OpenSSL prints (`openssl x509 -text -in ...`)"
        ) from error
    if reason:
        raise ConfigurationError(f"{files.certificate} {reason}, which rustls does not accept; have it issued anew")
    if not same:
        raise ConfigurationError(
            f"{files.key} is not the key of the certificate in {files.certificate};"
            f" give the two that were made together, the leaf before its issuers"
        )
    pair = Pair(
        origin=f"{files.certificate.path}, {files.key.path}",
        leaf=leaf,
        # Serialised again, so that Granian's parsers (OpenSSL and rustls) get what these parsers have read.
        chain_pem=b"".join(each.public_bytes(Encoding.PEM) for each in chain),
        key_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority=files.certificate.path,
        content=content,
    )
    _check_with_openssl(pair, str(files.certificate), "have it issued anew, or correct")
    return _with_clients(pair, files, authority_pem, revocations_pem)


def _with_clients(pair: Pair, files: PairFiles, authority_pem: bytes | None, revocations_pem: bytes | None) -> Pair:
    if files.client_authority is None or authority_pem is None:
        return pair
    authorities = clients.authorities(files.client_authority, authority_pem)
    revocations: list[x509.CertificateRevocationList] = []
    if files.client_revocations is not None and revocations_pem is not None:
        revocations = clients.revocations(
            files.client_revocations, revocations_pem, files.client_authority, authorities
        )
    return replace(
        pair,
        client_authority_pem=b"".join(each.public_bytes(Encoding.PEM) for each in authorities),
        client_revocations_pem=tuple(each.public_bytes(Encoding.PEM) for each in revocations),
    )


def _private_key(files: PairFiles, key_pem: bytes) -> Any:  # noqa: ANN401 - cryptography's key types have no common base
    try:
        return load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise ConfigurationError(f"{files.key} is encrypted; decrypt it (`openssl pkey -in ... -out ...`)") from error
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:  # InternalError: a seed of another length
        raise ConfigurationError(f"{files.key} is not a PEM private key; give one of {rustls.KEYS}") from error


def _check_with_openssl(pair: Pair, named: str, remedy: str) -> None:
    """Load the pair with OpenSSL, as Granian does before it starts: it refuses weak digests, for one.

    An error calls it `named`; `remedy` ends before "OpenSSL's configuration", which has its part in what is rejected.
    """
    with ExitStack() as stack:
        try:
            chain = SealedFile.of(pair.chain_pem)
            stack.callback(chain.close)
            key = SealedFile.of(pair.key_pem)
            stack.callback(key.close)
        except OSError as error:
            raise ConfigurationError(
                f"{named} cannot be held in memory ({error.strerror}); raise the limit on file sizes"
                f" (ulimit -f) or on open files (ulimit -n)"
            ) from error
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        except ssl.SSLError as error:
            raise ConfigurationError(f"OpenSSL cannot be used ({error.reason or error}); correct {OPENSSL}") from error
        try:
            context.load_cert_chain(chain, key)
        except ssl.SSLError as error:
            raise ConfigurationError(f"{named} is rejected by OpenSSL ({error.reason}); {remedy} {OPENSSL}") from error
        except OSError as error:
            remedy = "raise the limit on open files (ulimit -n)" if error.errno == errno.EMFILE else "mount /proc"
            raise ConfigurationError(f"{named} cannot be passed on ({error.strerror}: {chain}); {remedy}") from error


def _can_be_issued(authority: trustme.CA, name: str) -> bool:
    """Return whether a certificate can hold a name: a host may have one that is no DNS name (my_host)."""
    try:
        authority.issue_cert(name)
    except ValueError:  # idna's errors are, too
        return False
    return True


def self_signed(names: Sequence[str], directory: Path) -> Pair:
    """Return a pair for those of `names` that a certificate can hold, signed by an authority made for this process.

    The authority's certificate is written into `directory`; the private keys are never on a disk. Raises
    ConfigurationError if the directory cannot be written to, or if OpenSSL rejects every pair of this kind.
    """
    authority = trustme.CA(organization_name="self-signed for this run")
    leaf = authority.issue_cert(*dict.fromkeys(name for name in names if _can_be_issued(authority, name)))
    chain_pem = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    key = load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
    path = directory / "authority.crt"
    try:
        path.write_bytes(authority.cert_pem.bytes())
    except OSError as error:
        raise ConfigurationError(
            f"the self-signed pair's authority cannot be written to {shown(path)} ({error.strerror});"
            f" point TMPDIR at a writable directory, or set TLS_CERT and TLS_KEY"
        ) from error
    pair = Pair(
        origin="self-signed for this run",
        leaf=x509.load_pem_x509_certificates(chain_pem)[0],
        chain_pem=chain_pem,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority=path,
    )
    _check_with_openssl(pair, "a pair made for this run", "correct")
    return pair
