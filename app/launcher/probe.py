"""Whether a listener responds: asked before it counts as serving, and by the container's health check."""

import argparse
import errno
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable

from app.launcher.log import warn
from app.settings import config
from app.settings.errors import ConfigurationError

ANOTHER_LOOPBACK = "127.0.0.2"
REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
# The same over HTTP/2: the preface, an empty SETTINGS frame, and a HEADERS frame that ends stream 1 (RFC 9113, sections
# 3.4, 6.5 and 6.2): GET, http and / from HPACK's static table, and :authority as a literal (RFC 7541, appendix A).
HTTP2_HEADERS = b"\x82\x86\x84\x41\x09localhost"
HTTP2_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0%c\x01\x05\0\0\0\x01" % len(HTTP2_HEADERS) + HTTP2_HEADERS
)
CERTIFICATE_REQUIRED = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def responds(host: str, listener: config.Listener, timeout: float = 1.0) -> bool:
    """Return whether a listener sends a response; each step may take `timeout` seconds."""
    try:
        return ask(host, listener, timeout=timeout)
    except OSError:  # refused, reset, timed out, or no TLS: no response
        return False


def ask(
    host: str,
    listener: config.Listener,
    *,
    leaf: bytes | None = None,
    timeout: float = 1.0,
    before_connect: Callable[[socket.socket], None] | None = None,
) -> bool:
    """Return whether a listener sends a response, with the certificate `leaf` (DER) if one is given.

    One that needs certificates of its clients responds with its alert for a client that has none.
    Each step may take `timeout` seconds, and so may all of HTTP/2 after the connect. `before_connect` gets the client's
    socket, bound to the address that it connects from. Raises OSError: refused, reset, timed out, or no TLS.
    """
    address = config.reachable(host)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as plain:
        plain.settimeout(timeout)
        if before_connect is not None:
            _bind(plain, address)
            before_connect(plain)
        plain.connect((address, listener.port))
        if listener.protocol == "h2c":
            return _responds_over_http2(plain, time.monotonic() + timeout)
        if listener.tls is None:
            return _responds(plain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3  # whatever openssl.cnf has
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is our own; if it matters, the leaf itself is compared
        responds_over_tls = _wants_a_certificate if config.needs_client_certificate(listener) else _responds
        with context.wrap_socket(plain) as encrypted:
            return leaf in (None, encrypted.getpeercert(binary_form=True)) and responds_over_tls(encrypted)


def _bind(client: socket.socket, address: str) -> None:
    """Bind to a port that is wholly free: connect(2) would do with one that is used to other ports, as in TIME_WAIT.

    If a machine's own clients have used all of an address, another of loopback will do. Raises OSError.
    """
    try:
        client.bind((address, 0))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not address.startswith("127."):
            raise
        client.bind((ANOTHER_LOOPBACK, 0))


def _responds(connection: socket.socket) -> bool:
    connection.sendall(REQUEST)
    return connection.recv(9).startswith(b"HTTP/1.1")


def _wants_a_certificate(connection: ssl.SSLSocket) -> bool:
    """Return whether a client without a certificate is refused for just that reason.

    In TLS 1.3 the client's handshake ends before the server has looked at what it sent (RFC 8446, section 4.4.2.4). A
    request would cross the alert, and might reset the connection before the alert is read.
    """
    try:
        connection.recv(1)
    except ssl.SSLError as error:
        return error.reason == CERTIFICATE_REQUIRED
    return False


def _responds_over_http2(connection: socket.socket, end: float) -> bool:
    connection.sendall(HTTP2_REQUEST)
    # A frame begins with its length, type, flags and stream (RFC 9113, section 4.1).
    while len(head := _read(connection, 9, end)) == 9:
        if head[3] == 1:  # HEADERS
            return True
        _read(connection, int.from_bytes(head[:3]), end)
    return False


def _read(connection: socket.socket, number: int, end: float) -> bytes:
    """Return so many bytes, or fewer if the other side has closed. Raises TimeoutError at `end`, however much came."""
    data = b""
    while len(data) < number:
        if (left := end - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(left)
        if not (part := connection.recv(number - len(data))):
            break
        data += part
    return data


def main() -> int:
    """Ask every listener; the exit status is 0 if all respond, 1 if one does not, 2 for an invalid setting."""
    parser = argparse.ArgumentParser(prog="python -m app.launcher.probe", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="server.toml (CONFIG)")
    arguments = parser.parse_args()
    try:
        configuration = config.read(
            config.path_of(arguments.config, os.environ), os.environ | {config.SELF_SIGNED_VARIABLE: "1"}
        )
    except ConfigurationError as error:
        warn(f"configuration: {error}")
        return 2
    silent = [each.name for each in configuration.listeners if not responds(configuration.server.host, each)]
    for name in silent:
        warn(f"listener {name} does not respond")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
