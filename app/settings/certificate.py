"""A pair, certificate chain and private key: one value, checked before anything serves it."""

import datetime as dt
import re
import ssl
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.utils import CryptographyDeprecationWarning

from app.settings import rustls
from app.settings.config import PairFiles
from app.settings.errors import ConfigurationError, shown
from app.settings.files import MIB
from app.settings.sealed_file import SealedFile

REMEDY = "mount both files readable, or unset TLS_CERT and TLS_KEY and remove the default pair"


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
        """The leaf's names, as `rustls.names_of` returns them."""
        return rustls.names_of(self.leaf)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the leaf, in hexadecimal."""
        return self.leaf.fingerprint(SHA256()).hex()

    @property
    def expired(self) -> bool:
        """Whether now is outside the leaf's period of validity."""
        now = dt.datetime.now(dt.UTC)
        return not self.leaf.not_valid_before_utc <= now <= self.leaf.not_valid_after_utc


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
    chain = _chain(files, certificate_pem)
    leaf = chain[0]
    private = _private_key(files, key_pem)
    if not rustls.accepts(private) or leaf.public_key_algorithm_oid == x509.oid.PublicKeyAlgorithmOID.RSASSA_PSS:
        raise ConfigurationError(f"{files.key} is of a type that rustls does not accept; use {rustls.KEYS}")
    try:
        same = leaf.public_key() == private.public_key()
        reason = rustls.rejected(chain)
    except rustls.UNREADABLE as error:
        raise ConfigurationError(
            f"{files.certificate} cannot be read ({shown(error)}); have a certificate issued that OpenSSL prints"
            f" (`openssl x509 -text -in ...`)"
        ) from error
    if reason:
        raise ConfigurationError(f"{files.certificate} {reason}, which rustls does not accept; have it issued anew")
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


def _chain(files: PairFiles, pem: bytes) -> list[x509.Certificate]:
    """Parse a chain. A certificate that is cut short is no part of it for the parser, but an error here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # of serial numbers that are served anyhow
            chain = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigurationError(
            f"{files.certificate} is not a PEM certificate chain; give the leaf, then its issuers"
        ) from error
    if len(chain) != len(re.findall(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----", pem)):
        raise ConfigurationError(f"{files.certificate} has a certificate that is cut short; write all of it")
    return chain


def _private_key(files: PairFiles, key_pem: bytes) -> Any:  # noqa: ANN401 - cryptography's key types have no common base
    try:
        return load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise ConfigurationError(f"{files.key} is encrypted; decrypt it (`openssl pkey -in ... -out ...`)") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{files.key} is not a PEM private key; give one of {rustls.KEYS}") from error


def _check_with_openssl(pair: Pair, files: PairFiles) -> None:
    """Load the pair with OpenSSL, as Granian does before it starts: it refuses weak digests, for one."""
    with ExitStack() as stack:
        try:
            chain = SealedFile.of(pair.chain_pem)
            stack.callback(chain.close)
            key = SealedFile.of(pair.key_pem)
            stack.callback(key.close)
        except OSError as error:
            raise ConfigurationError(
                f"{files.certificate} cannot be held in memory ({error.strerror}); raise the limit on file sizes"
                f" (ulimit -f) or on open files (ulimit -n)"
            ) from error
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"{files.certificate} is rejected by OpenSSL ({error.reason}); have it issued anew"
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"{files.certificate} cannot be passed on ({error.strerror}: {chain}); mount /proc"
            ) from error


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
    ConfigurationError if the directory cannot be written to.
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
    return Pair(
        origin="self-signed for this run",
        leaf=x509.load_pem_x509_certificates(chain_pem)[0],
        chain_pem=chain_pem,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority=path,
    )
