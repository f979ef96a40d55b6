"""Certificate chain and private key: one value, checked before anything serves it."""

import datetime as dt
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PosixPath

import trustme
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from app.settings import files
from app.settings.errors import ConfigurationError

KEYS = "RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519"


class SealedFile(PosixPath):
    """A file in memory that processes forked from this one can open, and nobody else can change.

    Granian resolves the paths that it is given; a descriptor has no other name, so this stays as it is.
    """

    @classmethod
    def of(cls, content: bytes) -> "SealedFile":
        """Make one; it lives as long as a process holds its descriptor."""
        descriptor = os.memfd_create("pem")
        os.write(descriptor, content)
        return cls(f"/proc/self/fd/{descriptor}")

    def resolve(self, strict: bool = False) -> "SealedFile":  # noqa: ARG002, FBT001, FBT002 - Path's signature
        """Return itself."""
        return self

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(int(self.name))


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its private key, as PEM that rustls is known to take."""

    origin: str
    leaf: x509.Certificate
    chain_pem: bytes
    key_pem: bytes
    authority: Path
    """What a client may trust to verify the leaf (`curl --cacert`)."""
    as_read: tuple[bytes, bytes] | None = None
    """The two files as they were; None where there were none."""

    @property
    def names(self) -> list[str]:
        """The DNS names and addresses that the leaf is for (RFC 6125); its common name where it has none."""
        try:
            alternative = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            common = self.leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            return [str(attribute.value) for attribute in common]
        addresses = [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
        return alternative.get_values_for_type(x509.DNSName) + addresses

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the leaf, in hexadecimal."""
        return self.leaf.fingerprint(SHA256()).hex()

    @property
    def expired(self) -> bool:
        """Whether now is outside the leaf's period of validity."""
        now = dt.datetime.now(dt.UTC)
        return not self.leaf.not_valid_before_utc <= now <= self.leaf.not_valid_after_utc


def renewal(pair: Pair, certificate: tuple[str, Path], key: tuple[str, Path]) -> Pair | None:
    """Read the files of a pair anew; None where they hold what `pair` is.

    Raises ConfigurationError for whatever `load` does, and for a leaf outside its period of validity.
    """
    if pair.as_read == _read(certificate, key):  # most looks end here: to parse and check a key takes milliseconds
        return None
    new = load(certificate, key)
    if (new.chain_pem, new.key_pem) == (pair.chain_pem, pair.key_pem):
        return None
    if new.expired:
        raise ConfigurationError(
            f"{certificate[0]}={certificate[1]} is valid from {new.leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to"
            f" {new.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, which is not now; have it issued anew"
        )
    return new


def load(certificate: tuple[str, Path], key: tuple[str, Path]) -> Pair:
    """Read and check a pair, each file given with the setting that names it.

    Raises ConfigurationError: a file that cannot be read or is not PEM, an encrypted key, a key that rustls
    does not take, a key that is not the certificate's.
    """
    certificate_setting, certificate_path = certificate
    key_setting, key_path = key
    certificate_pem, key_pem = _read(certificate, key)
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
    except ValueError as error:
        raise ConfigurationError(
            f"{certificate_setting}={certificate_path} is not a PEM certificate chain; give the leaf, then what signed it"
        ) from error
    where = f"{key_setting}={key_path}"
    try:
        private = load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise ConfigurationError(f"{where} is encrypted; decrypt it (`openssl pkey -in ... -out ...`)") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{where} is not a PEM private key; give one of {KEYS}") from error
    leaf = chain[0]
    if not _rustls_takes(private) or leaf.public_key_algorithm_oid == x509.oid.PublicKeyAlgorithmOID.RSASSA_PSS:
        raise ConfigurationError(f"{where} is of a type that rustls does not take; use {KEYS}")
    if leaf.version != x509.Version.v3:
        raise ConfigurationError(
            f"{certificate_setting}={certificate_path} is an X.509 {leaf.version.name} certificate, which rustls does"
            f" not take; have a v3 certificate issued (with `openssl x509 -req`, one that has extensions)"
        )
    if leaf.public_key() != private.public_key():
        raise ConfigurationError(
            f"{where} is not the key of the certificate in {certificate_setting}={certificate_path};"
            f" give the two that were made together"
        )
    pair = Pair(
        origin=f"{certificate_path}, {key_path}",
        leaf=leaf,
        # Written anew, so that what these parsers read is what Granian's two parsers, OpenSSL and rustls, get to see.
        chain_pem=b"".join(each.public_bytes(Encoding.PEM) for each in chain),
        key_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority=certificate_path,
        as_read=(certificate_pem, key_pem),
    )
    _check_with_openssl(pair, f"{certificate_setting}={certificate_path}")
    return pair


def _read(certificate: tuple[str, Path], key: tuple[str, Path]) -> tuple[bytes, bytes]:
    remedy = "mount both files readable, or unset TLS_CERT and TLS_KEY and remove the default pair"
    return files.read(*certificate, remedy), files.read(*key, remedy)


def _rustls_takes(key: object) -> bool:
    """Say whether rustls' ring provider can sign with `key` (ring::signature)."""
    match key:
        case rsa.RSAPrivateKey():
            return 2048 <= key.key_size <= 4096
        case ec.EllipticCurvePrivateKey():
            return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
        case _:
            return isinstance(key, ed25519.Ed25519PrivateKey)


def _check_with_openssl(pair: Pair, where: str) -> None:
    """Let OpenSSL load the pair, as Granian does before it starts: it refuses weak digests, for one."""
    chain, key = SealedFile.of(pair.chain_pem), SealedFile.of(pair.key_pem)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{where} is refused by OpenSSL ({error.reason}); have it issued anew") from error
    finally:
        chain.close()
        key.close()


def self_signed(names: Sequence[str], directory: Path) -> Pair:
    """Make an authority and a leaf for `names` that last as long as the process.

    The authority's certificate goes into `directory`; the private keys are never written to a disk.
    """
    authority = trustme.CA(organization_name="self-signed for this run")
    leaf = authority.issue_cert(*names)
    chain_pem = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    key = load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
    path = directory / "authority.crt"
    try:
        path.write_bytes(authority.cert_pem.bytes())
    except OSError as error:
        raise ConfigurationError(
            f"the self-signed pair's authority cannot be written to {path} ({error.strerror});"
            f" point TMPDIR at a writable directory, or set TLS_CERT and TLS_KEY"
        ) from error
    return Pair(
        origin="self-signed for this run",
        leaf=x509.load_pem_x509_certificates(chain_pem)[0],
        chain_pem=chain_pem,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority=path,
    )
