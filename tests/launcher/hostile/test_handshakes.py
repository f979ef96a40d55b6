"""What comes to the TLS port and is no handshake, or no good one."""

import random
import re
import shutil
import socket
import ssl
import struct
import subprocess
import time

import pytest

from bench import oracle
from tests.support.hostile import DEADLINE, GOOD, Connect, send
from tests.support.http1 import get_on_new_connection, read_to_end
from tests.support.service import Service


def client_hello(context: ssl.SSLContext) -> bytes:
    """Return a ClientHello that the service would accept."""
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def record(kind: int, content: bytes, length: int | None = None) -> bytes:
    """Return a TLS record (RFC 8446, section 5.1), whose length may be wrong."""
    return struct.pack("!BHH", kind, 0x0303, len(content) if length is None else length) + content


HANDSHAKES = {
    "plaintext": GOOD + b"\r\n",
    "random bytes": random.Random(0).randbytes(20_000),
    "NULs": b"\0" * 5000,
    "a record of 64 KB": record(22, b"a" * 65_535),
    "a record a byte too long": record(22, b"a" * (2**14 + 2049)),
    "a hello of 16 MB": record(22, b"\x01\xff\xff\xff" + b"a" * 16_000) * 100,
    "a hello of nothing": record(22, b"\x01\0\0\0"),
    "empty records": record(22, b"") * 10_000,
    "10,000 changes of the cipher": record(20, b"\x01") * 10_000,
    "application data": record(23, b"a" * 100),
    "an alert": record(21, b"\x02\x28"),
    "an unknown record": record(99, b"a" * 100),
    "SSL 2": b"\x80\x2e\x01\x03\x01" + b"a" * 41,
}


@pytest.mark.parametrize("content", HANDSHAKES.values(), ids=HANDSHAKES.keys())
def test_an_invalid_handshake_is_closed(connect_tls_port: Connect, content: bytes) -> None:
    client = connect_tls_port()
    send(client, content)
    response = read_to_end(client)
    assert response == b"" or (len(response) == 7 and response[0] == 21), response  # nothing, or an alert


def test_random_bytes_after_a_hello_are_closed(connect_tls_port: Connect, trust: ssl.SSLContext) -> None:
    client = connect_tls_port()
    send(client, client_hello(trust) + random.Random(0).randbytes(1000))
    assert read_to_end(client).startswith(b"\x16\x03\x03")


@pytest.mark.parametrize("part", [0.01, 0.5, 1.0])
def test_a_half_closed_handshake_is_closed(connect_tls_port: Connect, trust: ssl.SSLContext, part: float) -> None:
    client, hello = connect_tls_port(), client_hello(trust)
    client.sendall(hello[: int(len(hello) * part)])
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client)[:1] == (b"\x16" if part == 1 else b"")


OLD_OR_WEAK = {
    "TLS 1.0": ["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
    "TLS 1.1": ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
    "TLS 1.2": ["-tls1_2", "-cipher", "ALL:eNULL:@SECLEVEL=0"],
    "a short tag": ["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"],
    "a finite field": ["-tls1_3", "-groups", "ffdhe2048"],
}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl")
@pytest.mark.parametrize("offer", OLD_OR_WEAK.values(), ids=OLD_OR_WEAK.keys())
def test_an_old_version_or_a_weak_suite_is_rejected(service: Service, offer: list[str]) -> None:
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"localhost:{service.tls_port}", *offer],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert result.returncode != 0
    assert re.search(r"SSL alert number (40|70)$", result.stderr, re.MULTILINE), result.stderr


@pytest.mark.usefixtures("many_files")
@pytest.mark.xdist_group("load")
def test_1000_stalled_handshakes_delay_a_good_one_by_less_than_a_second(
    service: Service, connect_tls_port: Connect, trust: ssl.SSLContext
) -> None:
    def fastest_of_five() -> float:
        def seconds() -> float:
            begin = time.monotonic()
            assert get_on_new_connection(service, trust, DEADLINE) == oracle.body(3, 2)
            return time.monotonic() - begin

        return min(seconds() for _ in range(5))

    before = fastest_of_five()
    hello = client_hello(trust)
    clients = [connect_tls_port() for _ in range(1000)]
    for number, client in enumerate(clients):
        client.sendall(hello[: number % (len(hello) + 1)])  # nothing, some of it, all of it
    assert fastest_of_five() < before + 1
    assert any(is_open(client) for client in clients)  # they stalled all the while
    for client in clients:
        read_to_end(client)


def is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
