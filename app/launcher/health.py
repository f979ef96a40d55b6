"""Ask listeners for a response. This module imports no other of ours, and little of Python's: that costs more than asking.

As a script it is the container's health check, `python -I -S app/launcher/health.py`: it asks every listener that the
launcher of its container lists (app/launcher/listing.py). A number names the process of another launcher.
"""

import os
import socket
import ssl
import sys
import time
from collections.abc import Callable

LISTING = "granian-json-listeners"
HTTP, H2C, HTTPS, HTTPS_FOR_CERTIFIED = "http", "h2c", "https", "https-for-certified"
"""How a listener is asked; the last is TLS that needs certificates of its clients."""
REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
# The same over HTTP/2: the preface, an empty SETTINGS frame, and a HEADERS frame that ends stream 1 (RFC 9113, sections
# 3.4, 6.5 and 6.2): GET, http and / from HPACK's static table, and :authority as a literal (RFC 7541, appendix A).
HTTP2_HEADERS = b"\x82\x86\x84\x41\x09localhost"
HTTP2_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0%c\x01\x05\0\0\0\x01" % len(HTTP2_HEADERS) + HTTP2_HEADERS
)
CERTIFICATE_REQUIRED = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def ask(
    how: str,
    address: tuple[str, int],
    *,
    leaf: bytes | None = None,
    timeout: float = 1.0,
    before_connect: Callable[[socket.socket], None] | None = None,
) -> bool:
    """Return whether a listener sends a response, with the certificate `leaf` (DER) if one is given.

    One that needs certificates of its clients responds with its alert for a client that has none.
    Each step may take `timeout` seconds, and so may all of HTTP/2 after the connect. `before_connect` gets the client's
    socket. Raises OSError: refused, reset, timed out, or no TLS.
    """
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as plain:
        plain.settimeout(timeout)
        if before_connect is not None:
            before_connect(plain)
        plain.connect(address)
        if how == H2C:
            return _responds_over_http2(plain, time.monotonic() + timeout)
        if how == HTTP:
            return _responds(plain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3  # whatever openssl.cnf has
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is our own; if it matters, the leaf itself is compared
        responds_over_tls = _wants_a_certificate if how == HTTPS_FOR_CERTIFIED else _responds
        with context.wrap_socket(plain) as encrypted:
            return leaf in (None, encrypted.getpeercert(binary_form=True)) and responds_over_tls(encrypted)


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


def listed(processes: list[str]) -> list[str]:
    """Return what a launcher lists, the first among `processes` that is in this container, hence has its files."""
    for each in processes:
        folder = f"/proc/{each}"
        try:
            if os.readlink(f"{folder}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
                continue
            for descriptor in os.listdir(f"{folder}/fd"):
                path = f"{folder}/fd/{descriptor}"
                if os.readlink(path).startswith(f"/memfd:{LISTING} "):
                    with open(path, encoding="utf-8") as file:
                        return file.read().splitlines()
        except OSError:  # it has ended, or is another user's
            continue
    return []


def main() -> int:
    """Ask every listener that the launcher lists; the exit status is 0 if all respond, else 1."""
    numbers = [each for each in os.listdir("/proc") if each.isdigit()]
    lines = listed(sys.argv[1:] or sorted(numbers, key=int))
    status = 0
    if not lines:
        sys.stderr.write("no launcher lists its listeners\n")
        status = 1
    for line in lines:
        how, host, port, name = line.split(" ", 3)
        try:
            responds = ask(how, (host, int(port)))
        except OSError:  # refused, reset, timed out, or no TLS: no response
            responds = False
        if not responds:
            sys.stderr.write(f"listener {name} does not respond\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
