"""Connections that never bring a request, with protocol = "auto": closed; all others are not."""

import errno
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Coroutine, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest

from app.launcher import silence as silence_module
from app.launcher.connections import SLICE
from app.launcher.descriptors import open_descriptors
from app.launcher.silence import Silence
from tests.support.certificates import handshake
from tests.support.configuration import SERVER_TOML, configured
from tests.support.http1 import read_to_end
from tests.support.http2 import Client
from tests.support.processes import wait_until
from tests.support.service import Launch

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SILENT_FOR = 21 + 5 + 2  # seconds: of header_read_timeout = 1 and a ping, between two looks, and for a busy machine


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.create_server(
        (request.param, 0), family=socket.AF_INET6 if ":" in request.param else socket.AF_INET
    ) as one:
        yield one


def accepted_by(one: socket.socket) -> socket.socket:
    """Accept a connection as Granian does: nobody waits in it."""
    accepted, _ = one.accept()
    accepted.setblocking(False)  # noqa: FBT003 - socket's signature
    return accepted


async def application(*_: object) -> None:
    return


def ask(silence: Silence, client: socket.socket) -> Coroutine[None, None, None]:
    """Return a request of a client, which is under way until it is closed."""
    host, port, *_ = client.getsockname()
    scope = {"type": "http", "client": (host, str(port))}
    request = silence(scope, application, application)  # type: ignore[arg-type]
    assert isinstance(request, Coroutine)
    return request


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_only_silent_connections_to_the_port_are_closed(listening: socket.socket) -> None:
    host, port, *_ = listening.getsockname()
    silence = Silence(application, port, 0.2)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((host, port))) for _ in range(7)]
        accepted = [stack.enter_context(accepted_by(listening)) for _ in clients]
        silent, who_asked, who_had_asked, who_sends, who_is_sent_to, who_reads_nothing, _ = clients
        elsewhere = stack.enter_context(socket.create_server((host, 0), family=listening.family))
        other = stack.enter_context(socket.create_connection(elsewhere.getsockname()[:2]))
        accepted.append(stack.enter_context(accepted_by(elsewhere)))
        request = ask(silence, who_asked)
        ask(silence, who_had_asked).close()
        with suppress(BlockingIOError):
            accepted[5].setblocking(False)  # noqa: FBT003 - socket's signature
            while True:
                accepted[5].send(b"x" * 65536)
        time.sleep(0.3)
        who_sends.sendall(b"x")
        accepted[4].sendall(b"x")
        before = open_descriptors()
        silence.close()
        assert open_descriptors() == before
        assert [is_closed(each) for each in (silent, who_had_asked)] == [True, True]
        assert not any(is_closed(each) for each in (who_asked, who_sends, who_is_sent_to, who_reads_nothing, other))
        request.close()
        del request
        who_asked.close()
        accepted[1].close()
        who_had_asked.close()
        accepted[2].close()
        silence.close()
        assert silence.requests == {}


def bound(family: int, address: tuple[str, int]) -> socket.socket:
    """Return a socket of an address that other such sockets may have, too."""
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    return made


def test_an_address_that_another_connection_had_is_no_excuse(listening: socket.socket) -> None:
    """A client that has asked, resets, and comes again from the same port is as silent as any."""
    host, port, *_ = listening.getsockname()
    silence = Silence(application, port, 0.2)
    with ExitStack() as stack:
        holder = stack.enter_context(bound(listening.family, (host, 0)))  # or another test might get the port meanwhile
        source = holder.getsockname()[:2]
        first = bound(listening.family, source)
        first.connect((host, port))
        accepted = accepted_by(listening)
        ask(silence, first).close()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        accepted.close()
        again = stack.enter_context(bound(listening.family, source))
        again.connect((host, port))
        stack.enter_context(accepted_by(listening))
        time.sleep(0.3)
        silence.close()
        assert is_closed(again)


def test_an_address_may_have_several_connections(listening: socket.socket) -> None:
    """To several addresses of the server, say: none is closed while one of them has a request under way."""
    host, port, *_ = listening.getsockname()
    silence = Silence(application, port, 0.2)
    with socket.create_connection((host, port)) as client, accepted_by(listening):
        request = ask(silence, client)
        ask(silence, client).close()
        time.sleep(0.3)
        silence.close()
        assert not is_closed(client)
        request.close()
        del request
        silence.close()
        assert is_closed(client)


def test_an_awaitable_that_cannot_be_referred_to_is_never_taken_for_ended(listening: socket.socket) -> None:
    class Awaitable:
        __slots__ = ()

        def __await__(self) -> Generator[None, None, None]:
            yield

    host, port, *_ = listening.getsockname()
    silence = Silence(lambda *_: Awaitable(), port, 0.2)
    with socket.create_connection((host, port)) as client, accepted_by(listening):
        silence({"type": "http", "client": client.getsockname()[:2]}, application, application)  # type: ignore[arg-type]
        time.sleep(0.3)
        silence.close()
        assert not is_closed(client)


def test_a_look_without_a_free_descriptor_is_not_the_last(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port, *_ = listening.getsockname()
    silence = Silence(application, port, 0.2)
    failures = [OSError(errno.EMFILE, "Too many open files")]
    listed = os.listdir

    def listdir(path: str) -> list[str]:
        if failures:
            raise failures.pop()
        return listed(path)

    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(silence_module, "INTERVAL", 0.01)

    def close_until_exit() -> None:
        with suppress(SystemExit):
            silence.close_for_ever()

    thread = threading.Thread(target=close_until_exit, daemon=True)
    with socket.create_connection((host, port)) as client, accepted_by(listening):
        thread.start()
        wait_until(lambda: is_closed(client), "the end of a silent connection")
    assert failures == []
    monkeypatch.setattr(silence, "close", sys.exit)
    thread.join()


@pytest.mark.usefixtures("many_files")
def test_many_connections_delay_nobody(listening: socket.socket) -> None:
    """While it looks, other threads get their turn."""
    host, port, *_ = listening.getsockname()
    silence = Silence(application, port, 60)
    with ExitStack() as stack:
        for _ in range(5 * SLICE):
            stack.enter_context(socket.create_connection((host, port)))
            stack.enter_context(accepted_by(listening))
        thread = threading.Thread(target=silence.close)
        thread.start()
        turns = 0
        while thread.is_alive():
            time.sleep(0.001)
            turns += 1
        thread.join()
    assert turns > 5


@pytest.mark.long
def test_of_a_listener(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, authority_context: ssl.SSLContext, tmp_path: Path
) -> None:
    """A response that takes longer, and a client of HTTP/2 that acknowledges pings, are not silent."""
    text = SERVER_TOML.replace('port_variable = "TLS_PORT"', 'port_variable = "TLS_PORT"\nprotocol = "auto"')
    text = text.replace("header_read_timeout = 30", "header_read_timeout = 1")
    service = launch(configured(tmp_path, text), APPLICATION="tests.support.echo_scope:app", **pair).ready()
    slow: list[int] = []

    def wait_for_a_slow_response(*, http2: bool) -> None:
        with httpx.Client(verify=trust, http2=http2, timeout=60, trust_env=False) as client:
            slow.append(client.get(f"{service.tls_url}/slow/{SILENT_FOR + 1}").status_code)

    threads = [threading.Thread(target=wait_for_a_slow_response, kwargs={"http2": http2}) for http2 in (True, False)]
    for thread in threads:
        thread.start()
    of_http2 = authority_context
    of_http2.set_alpn_protocols(["h2"])
    with ExitStack() as stack:
        idle = stack.enter_context(closing(Client(handshake(service, of_http2))))
        silent = [stack.enter_context(handshake(service, context)) for context in (trust, of_http2, of_http2)]
        silent[-1].sendall(PREFACE[:12])
        end = time.monotonic() + SILENT_FOR
        while time.monotonic() < end:
            idle.receive()  # acknowledges a ping each second
        assert not idle.closed
        for each in silent:
            each.settimeout(1)
            assert read_to_end(each) == b""
        stream = idle.request("/a")
        idle.until_whole([stream])
        assert idle.statuses[stream] == b"200"
    for thread in threads:
        thread.join()
    assert slow == [200, 200]
    service.stop()
    assert service.errors.read_text() == ""
