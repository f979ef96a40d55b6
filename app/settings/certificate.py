"""A pair, certificate chain and private key: one value, checked before anything serves it."""

import datetime as dt
import os
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any

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

from app.settings.config import PairFiles
from app.settings.errors import ConfigurationError, shown
from app.settings.files import MIB

REMEDY = "mount both files readable, or unset TLS_CERT and TLS_KEY and remove the default pair"
KEYS = "RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519"
UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What cryptography raises for a certificate whose parts it cannot parse."""


class SealedFile(PosixPath):
    """A file in memory that this process and those forked from it can open, and no other process can change.

    Granian resolves the paths that it is given. A descriptor has no other name, so `resolve` returns this path.
    """

    @classmethod
    def of(cls, content: bytes) -> "SealedFile":
        """Return a file that lives as long as a process holds its descriptor. Raises OSError."""
        descriptor = os.memfd_create("pem")
        try:
            os.write(descriptor, content)
        except OSError:  # a limit on file sizes counts here, too
            os.close(descriptor)
            raise
        return cls(f"/proc/self/fd/{descriptor}")

    def resolve(self, strict: bool = False) -> "SealedFile":  # noqa: ARG002, FBT001, FBT002 - Path's signature
        """Return this path, unresolved."""
        return self

    def close(self) -> None:
        """Close the descriptor."""
        os.close(int(self.name))


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its private key, as PEM that rustls accepts."""

    origin: str
    leaf: x509.Certificate
    chain_pem: bytes
    key_pem: bytes
    authority: Path
    """What a client may trust to verify the leaf (`curl --cacert`)."""
    content: tuple[bytes, bytes] | None = None
    """What the two files held, byte for byte; None if there were none."""

    @property
    def names(self) -> list[str]:
        """The leaf's names, as `names_of` returns them."""
        return names_of(self.leaf)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the leaf, in hexadecimal."""
        return self.leaf.fingerprint(SHA256()).hex()

    @property
    def expired(self) -> bool:
        """Whether now is outside the leaf's period of validity."""
        now = dt.datetime.now(dt.UTC)
        return not self.leaf.not_valid_before_utc <= now <= self.leaf.not_valid_after_utc


def names_of(leaf: x509.Certificate) -> list[str]:
    """Return the DNS names and addresses that a leaf is for (RFC 6125); its common name if it has none.

    Raises one of UNREADABLE for extensions that cannot be parsed.
    """
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [str(attribute.value) for attribute in common]
    addresses = [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
    return alternative.get_values_for_type(x509.DNSName) + addresses


def read(files: PairFiles) -> tuple[bytes, bytes]:
    """Return what the two files hold now, unchecked. Raises ConfigurationError if one cannot be read."""
    return files.certificate.read(MIB, REMEDY), files.key.read(MIB, REMEDY)


def load(files: PairFiles) -> Pair:
    """Read and check a pair. Raises ConfigurationError as `read` and `check` do."""
    return check(files, read(files))


def check(files: PairFiles, content: tuple[bytes, bytes]) -> Pair:
    """Return the pair that the two files held.

    Raises ConfigurationError: a file that is not PEM, an encrypted key, a key that rustls does not accept, a key that
    is not the certificate's.
    """
    certificate_pem, key_pem = content
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
    except ValueError as error:
        raise ConfigurationError(
            f"{files.certificate} is not a PEM certificate chain; give the leaf, then its issuers"
        ) from error
    leaf = chain[0]
    private = _private_key(files, key_pem)
    if not _rustls_accepts(private) or leaf.public_key_algorithm_oid == x509.oid.PublicKeyAlgorithmOID.RSASSA_PSS:
        raise ConfigurationError(f"{files.key} is of a type that rustls does not accept; use {KEYS}")
    if leaf.version != x509.Version.v3:
        raise ConfigurationError(
            f"{files.certificate} is an X.509 {leaf.version.name} certificate, which rustls does not accept;"
            f" have a v3 certificate issued (with `openssl x509 -req`, one that has extensions)"
        )
    try:
        same = leaf.public_key() == private.public_key()
        names_of(leaf)
    except UNREADABLE as error:
        raise ConfigurationError(
            f"{files.certificate} cannot be read ({shown(error)}); have a certificate issued that OpenSSL prints"
            f" (`openssl x509 -text -in ...`)"
        ) from error
    if not same:
        raise ConfigurationError(
            f"{files.key} is not the key of the certificate in {files.certificate};"
            f" give the two that were made together"
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
    _check_with_openssl(pair, files)
    return pair


def _private_key(files: PairFiles, key_pem: bytes) -> Any:  # noqa: ANN401 - cryptography's key types have no common base
    try:
        return load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise ConfigurationError(f"{files.key} is encrypted; decrypt it (`openssl pkey -in ... -out ...`)") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{files.key} is not a PEM private key; give one of {KEYS}") from error


def _rustls_accepts(key: object) -> bool:
    """Return whether rustls' ring provider can sign with `key` (ring::signature)."""
    match key:
        case rsa.RSAPrivateKey():
            return 2048 <= key.key_size <= 4096
        case ec.EllipticCurvePrivateKey():
            return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
        case _:
            return isinstance(key, ed25519.Ed25519PrivateKey)


def _check_with_openssl(pair: Pair, files: PairFiles) -> None:
    """Load the pair with OpenSSL, as Granian does before it starts: it refuses weak digests, for one."""
    with ExitStack() as stack:
        try:
            chain, key = SealedFile.of(pair.chain_pem), SealedFile.of(pair.key_pem)
        except OSError as error:
            raise ConfigurationError(
                f"{files.certificate} cannot be held in memory ({error.strerror}); raise the limit on file sizes"
                f" (ulimit -f) or on open files (ulimit -n)"
            ) from error
        stack.callback(chain.close)
        stack.callback(key.close)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"{files.certificate} is rejected by OpenSSL ({error.reason}); have it issued anew"
            ) from error


def self_signed(names: Sequence[str], directory: Path) -> Pair:
    """Return a pair for `names`, signed by an authority made for this process.

    The authority's certificate is written into `directory`; the private keys are never on a disk. Raises
    ConfigurationError if the directory cannot be written to.
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
            f"the self-signed pair's authority cannot be written to {shown(path)} ({error.strerror});"
            f" point TMPDIR at a writable directory, or set TLS_CERT and TLS_KEY"
        ) from error
    return Pair(
        origin="self-signed for this run",
        leaf=x509.load_pem_x509_certificates(chain_pem)[0],
        chain_pem=chain_pem,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority=path,
    )
