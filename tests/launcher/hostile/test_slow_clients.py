"""Clients that never speak, never read, speak for ever, or go away."""

import re
import shutil
import socket
import ssl
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.hostile import DEADLINE, GOOD, HOST, Connect, send, send_on, statuses
from tests.support.http1 import HUNG_UP, read_to_end
from tests.support.processes import open_connections, wait_until
from tests.support.service import Service


def test_a_silent_client_is_disconnected(connection: socket.socket) -> None:
    assert read_to_end(connection) == b""


def test_a_client_silent_after_a_request_is_disconnected(connection: socket.socket) -> None:
    send(connection, GOOD + b"\r\n")
    assert statuses(read_to_end(connection)) == [200]


@pytest.mark.parametrize("piece", [b"\r\n", b"a: b\r\n", b"x"], ids=["empty lines", "headers", "letters"])
def test_an_endless_head_in_small_pieces_is_disconnected(connect: Connect, piece: bytes) -> None:
    client = connect()
    if piece != b"\r\n":
        client.sendall(GOOD)
    with pytest.raises(HUNG_UP):
        send_on(client, piece, pause=0.05)


@pytest.mark.parametrize("head", [b"", b"GET", GOOD], ids=["nothing", "a word", "a head"])
def test_half_closed_without_a_request_is_disconnected(connect: Connect, head: bytes) -> None:
    client = connect()
    client.sendall(head)
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b""


def test_half_closed_after_requests_gets_all_responses_but_the_last(connect: Connect) -> None:
    client = connect()
    client.sendall((GOOD + b"\r\n") * 20)
    client.shutdown(socket.SHUT_WR)
    assert statuses(read_to_end(client))[:19] == [200] * 19


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_a_client_that_never_reads_is_disconnected(service: Service, trust: ssl.SSLContext, listener: str) -> None:
    with ExitStack() as stack:
        clients = []
        for _ in range(20):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(DEADLINE)
            client.connect(("127.0.0.1", service.port_of(listener)))
            if listener == "json-tls":
                client = stack.enter_context(trust.wrap_socket(client, server_hostname="localhost"))
            clients.append(client)
        for client in clients:
            with pytest.raises(HUNG_UP):  # sooner or later: there are only so many buffers between
                send_on(client, (b"GET /json/50 HTTP/1.1\r\n" + HOST + b"\r\n") * 1000)


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_a_client_that_resets_amid_responses_harms_nobody(
    connect: Connect, connect_tls_port: Connect, trust: ssl.SSLContext, listener: str
) -> None:
    for number in range(300):
        client = connect() if listener == "json" else connect_tls_port()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
        if listener == "json-tls":
            client = trust.wrap_socket(client, server_hostname="localhost")
        with client:
            client.sendall((b"GET /json/50 HTTP/1.1\r\n" + HOST + b"\r\n") * (number % 50 + 1))
            if number % 3:
                client.recv(number % 1000 + 1)


SLOWHTTPTEST = ["slowhttptest", "-c", "300", "-r", "300", "-i", "1", "-p", "5", "-t", "GET"]
needs_slowhttptest = pytest.mark.skipif(
    shutil.which("slowhttptest") is None, reason="needs slowhttptest: apt-get install slowhttptest"
)


@needs_slowhttptest
@pytest.mark.parametrize("attack", ["-H", "-B", "-R"], ids=["headers", "body", "range"])
def test_slowhttptest_keeps_no_connection_open(service: Service, attack: str) -> None:
    result = subprocess.run(
        [*SLOWHTTPTEST, attack, "-l", "15", "-u", f"{service.url}/json/50"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)  # the report is in colour
    assert "No open connections left" in report, report
    assert set(re.findall(r"service available:\s+(\w+)", report)) == {"YES"}, report


@needs_slowhttptest
def test_slowhttptest_is_disconnected_while_it_reads_slowly(service: Service, tmp_path: Path) -> None:
    slowly = ["-w", "10", "-y", "20", "-n", "1", "-z", "10", "-k", "3", "-l", "60"]
    command = ["stdbuf", "-oL", *SLOWHTTPTEST, "-X", *slowly, "-u", f"{service.url}/json/50"]
    report = tmp_path / "report"

    def connected() -> int:
        """Return how many connections it has made, as it says every 5 s, in colour; it does not see their end."""
        found = re.findall(r"connected:\s+(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", report.read_text()))
        return int(found[-1]) if found else 0

    with report.open("wb") as output, subprocess.Popen(command, stdout=output) as attack:
        try:
            wait_until(lambda: connected() > 250, "the attack")
            wait_until(lambda: open_connections(service.port) < 50, "its end", DEADLINE)
            assert attack.poll() is None
        finally:
            attack.kill()
