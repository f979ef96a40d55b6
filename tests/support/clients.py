"""Clients with certificates: their authority, their contexts, and what the authority has revoked."""

import datetime as dt
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.support.configuration import SERVER_TOML

KEY = 'key = "certs/server.key"'


def configuration(*, revocations: bool = False, interval: int = 1, more: str = "") -> str:
    """Return the text of a server.toml whose TLS listener wants certificates of certs/clients.crt."""
    text = SERVER_TOML.replace("certificate_interval = 5", f"certificate_interval = {interval}")
    lines = [KEY, 'client_authority = "certs/clients.crt"']
    if revocations:
        lines.append('client_revocations = "certs/clients.crl"')
    assert KEY in text
    return text.replace(KEY, "\n".join(lines)).replace("[listener.tls]", f"{more}\n[listener.tls]")


def write_authorities(folder: Path, *authorities: trustme.CA) -> None:
    (folder / "clients.crt").write_bytes(b"".join(each.cert_pem.bytes() for each in authorities))


def constrained(authority: trustme.CA, constraints: x509.NameConstraints, *, critical: bool = True) -> bytes:
    """Return the authority's certificate issued anew, with name constraints, as PEM."""
    former = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    builder = (
        x509.CertificateBuilder(former.subject, former.subject, former.public_key(), x509.random_serial_number())
        .not_valid_before(former.not_valid_before_utc)
        .not_valid_after(former.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(constraints, critical)
    )
    key = load_pem_private_key(authority.private_key_pem.bytes(), password=None)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def client_of(authority: trustme.CA, trust: trustme.CA, name: str = "client") -> tuple[ssl.SSLContext, int]:
    """Return a client's context with a certificate of `authority`, and the certificate's serial number."""
    leaf = authority.issue_cert(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.configure_trust(context)
    leaf.configure_cert(context)
    return context, x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number


def revoking(
    authority: trustme.CA,
    serials: Iterable[int] = (),
    *,
    signer: trustme.CA | None = None,
    digest: hashes.HashAlgorithm | None = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = ((x509.CRLNumber(1), False),),
    of_entries: Iterable[tuple[x509.ExtensionType, bool]] = (),
    form: padding.PSS | None = None,
) -> bytes:
    """Return the authority's list of what it has revoked, as PEM."""
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject,
        last_update=now,
        next_update=now + dt.timedelta(days=7),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder(serial, now)
        for extension, critical in of_entries:
            entry = entry.add_extension(extension, critical)
        builder = builder.add_revoked_certificate(entry.build())
    key = load_pem_private_key((signer or authority).private_key_pem.bytes(), password=None)
    signed = builder.sign(key, digest or hashes.SHA256(), rsa_padding=form)  # type: ignore[arg-type]
    return signed.public_bytes(Encoding.PEM)


def response(port: int, context: ssl.SSLContext) -> bytes:
    """Return the first line of the response to a request; ssl.SSLError if the handshake is refused."""
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="localhost"
    ) as connection:
        connection.sendall(b"GET /json/1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return connection.recv(65536).partition(b"\r\n")[0]


def refusal(port: int, context: ssl.SSLContext) -> str:
    """Return the alert that refuses a client: it comes after the client's part of the handshake (TLS 1.3)."""
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="localhost"
    ) as connection:
        try:
            data = connection.recv(1)
        except ssl.SSLError as error:
            return str(error.reason)
    raise AssertionError(f"{data!r} instead of an alert")
