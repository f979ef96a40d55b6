"""The launcher's promises: order, signals, deaths, and that nothing of it is left."""

import asyncio
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from bench import oracle
from tests.conftest import (
    CONNECTIONS,
    ROOT,
    Launch,
    Service,
    children,
    clean_environment,
    free_ports,
    is_running,
    wait_until,
)


def test_each_listener_is_described_in_a_line(service: Service) -> None:
    lines = service.output.read_text().splitlines()
    tls, tls_curl, plain, plain_curl = lines
    assert re.fullmatch(
        rf"json-tls: https://127\.0\.0\.1:{service.tls_port} HTTP/1\.1 over TLS 1\.3, ALPN http/1\.1, 2 workers;"
        r" certificate for localhost, 127\.0\.0\.1 \(.*server\.crt, .*server\.key\);"
        r" SHA-256 [0-9a-f]{64}; expires \d{4}-\d\d-\d\d \d\d:\d\d UTC; records encrypted in user space",
        tls,
    )
    assert plain == f"json: http://127.0.0.1:{service.port} HTTP/1.1, plaintext, no ALPN, 2 workers"
    assert tls_curl.startswith("  curl --cacert ")
    assert plain_curl.startswith("  curl 'http")


def test_the_curl_lines_work_when_pasted(service: Service, launch: Launch) -> None:
    own = launch().ready()
    for each in (service, own):
        lines = [line for line in each.output.read_text().splitlines() if line.startswith("  curl ")]
        assert len(lines) == 2
        for line in lines:
            result = subprocess.run(
                ["sh", "-c", f"{line.strip()} --silent --show-error"],
                env=clean_environment(),
                capture_output=True,
                check=False,
                timeout=20,
            )
            assert result.returncode == 0, result.stderr
            assert result.stdout == oracle.body(5, 3)
    own.stop()


def test_tls_answers_before_plaintext_does(launch: Launch, pair: dict[str, str], trust: ssl.SSLContext) -> None:
    service = launch(**pair)

    def plaintext_answers() -> bool:
        try:
            return httpx.get(f"{service.url}/json/1", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(plaintext_answers, "an answer on the plaintext port", 30)
    assert httpx.get(f"{service.tls_url}/json/1", verify=trust, trust_env=False).content == oracle.body(1, 1)
    service.ready().stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_exit_0_and_leaves_nothing(launch: Launch, pair: dict[str, str], number: signal.Signals) -> None:
    service = launch(**pair).ready()
    with socket.create_connection(("127.0.0.1", service.port)):  # one that never speaks
        service.signal(number)
        assert service.wait() == 0, service.report()
        service.gone()
    assert service.errors.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_burst_of_signals_is_exit_0(launch: Launch, pair: dict[str, str], number: signal.Signals) -> None:
    service = launch(**pair).ready()

    def ended() -> bool:
        service.signal(number)
        return service.process.poll() is not None

    wait_until(ended, "the end")
    assert service.wait() == 0, service.report()
    assert "Traceback" not in service.errors.read_text()
    service.gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_anything_is_started_is_exit_0(
    launch: Launch, pair: dict[str, str], number: signal.Signals
) -> None:
    service = launch(**pair)

    def signals_are_blocked() -> bool:
        status = Path(f"/proc/{service.process.pid}/status").read_text()
        blocked = re.search(r"^SigBlk:\t([0-9a-f]+)$", status, re.MULTILINE)
        return blocked is not None and bool(int(blocked[1], 16) >> (number - 1) & 1)

    wait_until(signals_are_blocked, "the first line of the launcher")
    service.signal(number)
    assert service.wait() == 0, service.report()
    assert service.errors.read_text() == ""
    service.gone()


def test_a_stop_while_it_starts_is_exit_0(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair)
    wait_until(lambda: bool(service.granians), "the first Granian")
    service.remember()
    service.signal(signal.SIGTERM)
    assert service.wait() == 0, service.report()
    service.gone()


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_requests_in_flight_are_answered(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, listener: str
) -> None:
    service = launch(**pair).ready()
    port = service.port if listener == "json" else service.tls_port
    with ExitStack() as stack:
        connections = []
        for number in range(50):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            if listener == "json-tls":
                connection = stack.enter_context(trust.wrap_socket(connection, server_hostname="localhost"))
            connection.sendall(b"GET /json/%d?m=9 HTTP/1.1\r\nhost: local" % number)
            connections.append(connection)
        wait_until(lambda: all(has_been_read(connection) for connection in connections), "the requests' first halves")
        service.signal(signal.SIGTERM)
        wait_until(
            lambda: is_refused(service.port) and is_refused(service.tls_port),
            "no more connections taken on either port",
        )
        for connection in connections:
            connection.sendall(b"host\r\n\r\n")
        for number, connection in enumerate(connections):
            assert read_answer(connection) == oracle.body(number, 9)
            assert connection.recv(1) == b""
    assert service.wait() == 0, service.report()
    service.gone()


def has_been_read(connection: socket.socket) -> bool:
    """Whether the other end's process has taken all that was sent (proc(5), /proc/net/tcp: rx_queue)."""
    theirs, ours = (f":{end[1]:04X}" for end in (connection.getpeername(), connection.getsockname()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(theirs) and remote.endswith(ours):
            return queues.endswith(":00000000")
    return False


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def is_pending(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^(?:SigPnd|ShdPnd):\t([0-9a-f]+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def read_answer(connection: socket.socket) -> bytes:
    """Read one response to its end, and no byte beyond."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, f"closed after {received!r}"
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 200"), head
    assert length is not None
    while len(body) < int(length[1]):
        chunk = connection.recv(65536)
        assert chunk, f"closed in the middle of a body of {length[1]!r} bytes"
        body += chunk
    return body


def freeze(*pids: int) -> None:
    """Stop processes with SIGSTOP, and return when they have stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for task in [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]:
        wait_until(lambda task=task: "\nState:\tT" in (task / "status").read_text(), f"the stop of {task}")  # type: ignore[misc]


def test_the_signal_that_has_clients_told_does_not_end_the_launcher(launch: Launch) -> None:
    service = launch().ready()
    service.signal(signal.SIGUSR1)
    assert httpx.get(f"{service.url}/json/5?m=3", trust_env=False).content == oracle.body(5, 3)
    service.stop()


def test_a_second_signal_ends_it_at_once(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair).ready()
    granians = service.granians
    freeze(*granians)  # so that no drain comes to an end
    service.signal(signal.SIGTERM)
    wait_until(lambda: all(is_pending(granian, signal.SIGTERM) for granian in granians), "SIGTERM on its way")
    service.signal(signal.SIGTERM)
    assert service.wait(1.5) == 0
    service.gone()


def test_what_does_not_end_is_killed_at_the_deadline(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair).ready()
    freeze(service.granians[0])
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.gone()
    assert "listener json-tls is killed with its workers" in service.errors.read_text()


def test_a_worker_that_dies_is_replaced_and_the_others_go_on(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext
) -> None:
    service = launch(**pair).ready()
    for granian in service.granians:
        before = service.workers(granian)
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda granian=granian, before=before: (  # type: ignore[misc]
                len(service.workers(granian)) == 2 and before[0] not in service.workers(granian)
            ),
            "a new worker",
        )
        assert before[1] in service.workers(granian)
    assert service.process.poll() is None
    for url in (service.url, service.tls_url):
        for _ in range(20):  # a new connection each time, so that both workers get some
            with httpx.Client(verify=trust, trust_env=False) as client:
                assert client.get(f"{url}/json/3").content == oracle.body(3, 1)
    service.stop()


@pytest.mark.parametrize(("index", "name"), [(0, "json-tls"), (1, "json")])
def test_a_crash_loop_ends_it_with_1(launch: Launch, pair: dict[str, str], index: int, name: str) -> None:
    service = launch(**pair).ready()
    granian = service.granians[index]
    victims: set[int] = set()

    def killed_again() -> bool:
        for worker in children(granian):
            service.descendants.add(worker)
            if worker not in victims:
                victims.add(worker)
                os.kill(worker, signal.SIGKILL)
        return service.process.poll() is not None

    wait_until(killed_again, "the launcher's end", 15)
    assert service.wait() == 1
    service.gone()
    assert f"listener {name} ended (exit status 1); stopping the others" in service.errors.read_text()


@pytest.mark.parametrize(("index", "name"), [(0, "json-tls"), (1, "json")])
def test_a_listener_that_dies_ends_the_other_with_1(
    launch: Launch, pair: dict[str, str], index: int, name: str
) -> None:
    service = launch(**pair).ready()
    os.kill(service.granians[index], signal.SIGKILL)
    assert service.wait(5) == 1
    service.gone()
    assert f"listener {name} ended (killed by SIGKILL); stopping the others" in service.errors.read_text()


def test_nothing_outlives_a_launcher_that_was_killed(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(WORKERS="4", **pair).ready()
    freeze(service.workers(service.granians[0])[0])
    service.signal(signal.SIGKILL)
    assert service.wait() == -signal.SIGKILL
    service.gone(5)


def test_a_second_launcher_is_refused_the_ports(launch: Launch, pair: dict[str, str]) -> None:
    first = launch(**pair).ready()
    second = launch(**(pair | {"PORT": str(first.port), "TLS_PORT": str(first.tls_port)}))
    assert second.wait(20) == 2
    assert (
        f"TLS_PORT={first.tls_port} cannot be bound on 127.0.0.1 (Address already in use)" in second.errors.read_text()
    )
    assert first.process.poll() is None
    first.stop()


def test_a_low_limit_on_open_files_is_raised_and_a_low_hard_one_told(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair).ready()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    worker = service.workers(service.granians[0])[0]
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (hard, hard)
    service.stop()
    limited = subprocess.run(
        ["sh", "-c", f"ulimit -Sn 200; ulimit -Hn 300; exec {sys.executable} -m app --check"],
        cwd=ROOT,
        env=clean_environment() | pair | dict(zip(("PORT", "TLS_PORT"), map(str, free_ports(2)), strict=True)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 0
    assert "the hard limit is 300: each worker keeps 236 connections" in limited.stderr


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("listener", ["json", "json-tls"])
@pytest.mark.parametrize("workers", ["1", "3"])
def test_4096_open_connections_are_all_answered(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, listener: str, workers: str
) -> None:
    service = launch(WORKERS=workers, **pair).ready()
    tls = listener == "json-tls"
    port = service.tls_port if tls else service.port
    request = b"GET /json/1?m=2 HTTP/1.1\r\nhost: localhost\r\n\r\n"

    async def ask_twice(gate: asyncio.Barrier, opening: asyncio.Semaphore) -> bool:
        async with opening:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=trust if tls else None, server_hostname="localhost" if tls else None
            )
        bodies = []
        for _ in range(2):
            await gate.wait()  # each round begins when all connections are open
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            bodies.append(await reader.readexactly(int(length[1])))
        await gate.wait()
        writer.transport.abort()
        return bodies == [oracle.body(1, 2)] * 2

    async def ask_all() -> list[bool]:
        gate, opening = asyncio.Barrier(CONNECTIONS), asyncio.Semaphore(256)
        return await asyncio.gather(*(ask_twice(gate, opening) for _ in range(CONNECTIONS)))

    answered = asyncio.run(asyncio.wait_for(ask_all(), 60))
    assert answered == [True] * CONNECTIONS
    service.stop()


@pytest.mark.parametrize("interface", ["asgi", "asginl"])
def test_granian_alone_serves_the_application(tmp_path: Path, interface: str) -> None:
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "granian", "--interface", interface, "--port", str(port), "app:app"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=log, stderr=log)
    try:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/json/4?m=2", trust_env=False).content == oracle.body(4, 2)
            except httpx.TransportError:
                return False

        wait_until(answers, "an answer", 20)
        upgrade = {
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        assert httpx.get(f"http://127.0.0.1:{port}/json/4", headers=upgrade, trust_env=False).status_code == 403
        workers = children(process.pid)
        process.terminate()
        assert process.wait(10) == 0
        wait_until(lambda: not any(is_running(worker) for worker in workers), "the workers' end")
    finally:
        process.kill()
        process.wait()
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text
    assert "ERROR" not in log_text
    assert "WARN" not in log_text


def test_a_load_from_many_threads_is_answered_rightly(service: Service, trust: ssl.SSLContext) -> None:
    wrong: list[tuple[int, int]] = []

    def ask_on_one_connection(seed: int) -> None:
        url = service.url if seed % 2 else service.tls_url
        with httpx.Client(base_url=url, verify=trust, trust_env=False) as client:
            for step in range(100):
                count, multiplier = (seed * 7 + step) % 51, seed * 100 + step
                if client.get(f"/json/{count}?m={multiplier}").content != oracle.body(count, multiplier):
                    wrong.append((count, multiplier))

    threads = [threading.Thread(target=ask_on_one_connection, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
