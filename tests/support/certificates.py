"""Pairs for tests: written, replaced on disk, and seen in a handshake."""

import datetime as dt
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.service import Service

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


def issue(authority: trustme.CA, folder: Path, *names: str) -> Path:
    """Write server.crt and server.key for those names (localhost by default), over what is there; return the folder."""
    folder.mkdir(exist_ok=True)
    leaf = authority.issue_cert(*(names or ("localhost",)))
    leaf.private_key_pem.write_to_path(str(folder / "server.key"))
    (folder / "server.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return folder


def write_self_signed(
    folder: Path,
    key: PrivateKey,
    digest: hashes.HashAlgorithm | None = None,
    days: int = 1,
    names: tuple[str, str] = ("self.crt", "self.key"),
    critical: x509.ExtensionType | None = None,
    common_name: str = "localhost",
) -> dict[str, str]:
    """Write a self-signed pair of `key`, as `openssl req -x509` would; return the variables that name it."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name, _validate=False)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now + dt.timedelta(days=days))
    )
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    default = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = builder.sign(key, digest or default)  # type: ignore[arg-type]
    paths = {"TLS_CERT": folder / names[0], "TLS_KEY": folder / names[1]}
    paths["TLS_CERT"].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths["TLS_KEY"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {name: str(path) for name, path in paths.items()}


def leaf_of(folder: Path) -> bytes:
    """Return the first certificate of a folder's server.crt as DER."""
    return x509.load_pem_x509_certificates((folder / "server.crt").read_bytes())[0].public_bytes(Encoding.DER)


def handshake(service: Service, context: ssl.SSLContext, name: str = "localhost") -> ssl.SSLSocket:
    """Connect to the TLS listener; an end without close_notify raises ssl.SSLEOFError."""
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", service.tls_port), timeout=10),
        server_hostname=name,
        suppress_ragged_eofs=False,
    )


def served_leaf(service: Service, context: ssl.SSLContext, name: str = "localhost") -> bytes | None:
    with handshake(service, context, name) as connection:
        return connection.getpeercert(binary_form=True)


Replace = Callable[[Path, Path], None]


def in_place(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def by_renaming(source: Path, target: Path) -> None:
    shutil.copy(source, target.with_suffix(".new"))
    target.with_suffix(".new").rename(target)
