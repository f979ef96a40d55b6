"""What goes wrong around the service: what it answers then, what it says, and what is left of it."""

import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from bench import oracle
from tests.conftest import ROOT, STOP_DEADLINE, Launch, Service, clean_environment, free_ports, wait_until
from tests.load import Load, Tally
from tests.test_configuration import configured
from tests.test_launcher import freeze, read_answer

REQUEST = b"GET /json/1?m=2 HTTP/1.1\r\nhost: localhost\r\n\r\n"
FILES = 300  # the limit on open files of a service that has few
ROOM = FILES - 64  # connections that a worker then keeps

Loads = Callable[..., Load]


@pytest.fixture
def load(authority_file: Path) -> Iterator[Loads]:
    """Start loads of a service's listeners that end with the test."""
    with ExitStack() as stack:

        def start(
            service: Service,
            listener: str,
            connections: int,
            *,
            requests: int = 0,
            pause: float = 0.0,
            processes: int = 1,
        ) -> Load:
            port, authority = (service.port, None) if listener == "json" else (service.tls_port, authority_file)
            each = Load(port, connections, authority=authority, requests=requests, pause=pause, processes=processes)
            return stack.enter_context(each)

        yield start


def test_a_stopped_worker_answers_late_and_the_others_go_on(launch: Launch, pair: dict[str, str], load: Loads) -> None:
    service = launch(**pair).ready()
    loads = [load(service, listener, 64, pause=0.02) for listener in ("json", "json-tls")]
    loads += [load(service, listener, 8, requests=3, pause=0.02) for listener in ("json", "json-tls")]
    for each in loads[:2]:
        each.opened()
        each.begin()
    victims = [service.workers(granian)[0] for granian in service.granians]
    freeze(*victims)
    stopped = time.monotonic()
    wait_until(lambda: all(each.tally().waiting > 5 for each in loads[:2]), "requests at the stopped workers")
    before = [each.tally().answered for each in loads[:2]]
    time.sleep(max(0.0, stopped + 5 - time.monotonic()))  # the fault is that long
    assert all(each.tally().answered > least + 500 for each, least in zip(loads[:2], before, strict=True))
    for victim in victims:
        os.kill(victim, signal.SIGCONT)
    for each in loads:
        tally = each.end()
        assert tally.failed == 0, tally
        assert tally.longest > 4, tally
    assert [service.workers(granian)[0] for granian in service.granians] == victims
    service.stop()
    assert service.errors.read_text() == ""


def test_a_worker_killed_under_load_takes_its_own_connections_alone(
    launch: Launch, pair: dict[str, str], load: Loads
) -> None:
    service = launch(**pair).ready()
    kept = [load(service, listener, 64) for listener in ("json", "json-tls")]
    renewed = [load(service, listener, 8, requests=3, pause=0.02) for listener in ("json", "json-tls")]
    for each in kept:
        each.opened()
        each.begin()
    for granian in service.granians:
        victim = service.workers(granian)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda granian=granian, victim=victim: (  # type: ignore[misc]
                victim not in service.workers(granian) and len(service.workers(granian)) == 2
            ),
            "a new worker",
        )
    before = [each.tally().answered for each in (*kept, *renewed)]
    wait_until(
        lambda: all(each.tally().answered > least + 50 for each, least in zip((*kept, *renewed), before, strict=True)),
        "answers on the connections of the other worker, and on new ones",
    )
    for each in kept:
        tally = each.end()
        cut = tally.idle + tally.unanswered + tally.broken
        assert 0 < cut < 64, tally
        assert (tally.wrong, tally.waiting) == (0, 0), tally
    for each in renewed:
        tally = each.end()
        assert (tally.wrong, tally.waiting) == (0, 0), tally
    service.stop()


FULL = 'mount -t tmpfs -o size=8k tmpfs "$TMPDIR" && { head -c 100000 /dev/zero > "$TMPDIR/all" 2>&-; true; }'
NO_INODE_LEFT = 'mount -t tmpfs -o nr_inodes=2 tmpfs "$TMPDIR"'


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("true", "the self-signed pair's authority has nowhere to go"),
        (FULL, "the self-signed pair's authority has nowhere to go"),
        (NO_INODE_LEFT, "the self-signed pair's authority cannot be written to"),
    ],
    ids=["read-only", "full", "no inode left"],
)
def test_no_disk_for_the_self_signed_pair_is_exit_2_with_one_line(tmp_path: Path, prepare: str, said: str) -> None:
    """In a mount namespace of its own; Python would fall back on other folders, so all else is read-only."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to a mount namespace, hence to a file system that is full or read-only")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    script = (
        "cut -d' ' -f2 /proc/mounts | while read -r each; do mount -o remount,bind,ro \"$each\" 2>&-; done;"
        f' {prepare} && exec "$@"'
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "app", configured(tmp_path)],
        cwd=ROOT,
        env=clean_environment()
        | {"TMPDIR": str(temporary)}
        | dict(zip(("PORT", "TLS_PORT"), map(str, free_ports(2)), strict=True)),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert said in result.stderr
    assert "set TLS_CERT and TLS_KEY" in result.stderr
    assert list(temporary.iterdir()) == []


@pytest.fixture
def few_files(launch: Launch, pair: dict[str, str]) -> Service:
    """A service of one worker a listener that may not open many files."""
    service = launch(WORKERS="1", **pair)
    # Python still starts; it comes to look at its limits much later.
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    service.ready()
    assert f"the hard limit is {FILES}: each worker keeps {ROOM} connections" in service.errors.read_text()
    return service


def ask(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    assert read_answer(connection) == oracle.body(1, 2)


def worker_of(service: Service, listener: str) -> int:
    (worker,) = service.workers(service.granians[listener == "json"])
    return worker


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def ticks(pid: int) -> int:
    """Processor time of a process (proc(5), /proc/pid/stat: utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_more_clients_than_files_wait_and_are_served_when_others_leave(
    few_files: Service, trust: ssl.SSLContext, listener: str
) -> None:
    service = few_files
    port = service.port if listener == "json" else service.tls_port
    worker = worker_of(service, listener)
    idle = open_files(worker)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=10)

    def secure(connection: socket.socket) -> socket.socket:
        if listener == "json":
            return connection
        return trust.wrap_socket(connection, server_hostname="localhost")

    with ExitStack() as stack:
        served = [stack.enter_context(secure(connect())) for _ in range(ROOM)]
        for connection in served:
            ask(connection)
        waiting = [stack.enter_context(connect()) for _ in range(20)]
        assert open_files(worker) == idle + ROOM
        before = ticks(worker)
        time.sleep(1)  # in which it is not to spin
        assert ticks(worker) - before < 30
        for connection in served:
            ask(connection)
        for connection in served[: len(waiting)]:
            connection.close()
        for connection in waiting:
            ask(stack.enter_context(secure(connection)))
    wait_until(lambda: open_files(worker) == idle, "no file left of the clients")
    service.stop()
    assert service.errors.read_text().count("\n") == 1


def test_plaintext_clients_far_beyond_the_files_leave_nothing(few_files: Service) -> None:
    service, worker = few_files, worker_of(few_files, "json")
    idle = open_files(worker)
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10)) for _ in range(1000)
        ]
        for connection in connections[: ROOM // 2]:
            ask(connection)
        assert open_files(worker) == idle + ROOM
    wait_until(lambda: open_files(worker) == idle, "no file left of the clients")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        ask(connection)
    service.stop()


@pytest.fixture
def exhausted(few_files: Service, trust: ssl.SSLContext) -> Iterator[tuple[Service, socket.socket, ExitStack]]:
    """Clients that begin no handshake have taken all files of the TLS listener's worker, but for one that was before."""
    with ExitStack() as served, ExitStack() as stack:
        plain = socket.create_connection(("127.0.0.1", few_files.tls_port), timeout=10)
        before = served.enter_context(trust.wrap_socket(plain, server_hostname="localhost"))
        ask(before)
        for _ in range(FILES + 100):
            stack.enter_context(socket.create_connection(("127.0.0.1", few_files.tls_port), timeout=10))
        wait_until(lambda: open_files(worker_of(few_files, "json-tls")) == FILES, "no file left")
        yield few_files, before, stack


def test_handshakes_that_take_all_files_leave_those_served_and_the_other_listener(
    exhausted: tuple[Service, socket.socket, ExitStack],
) -> None:
    service, before, _ = exhausted
    for _ in range(20):
        ask(before)
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as plain:
            ask(plain)
    service.stop()
    assert service.errors.read_text().count("\n") == 1


def stop_under(service: Service, loads: list[Load]) -> list[Tally]:
    """Load a service fully, stop it, and say what became of the requests."""
    for each in loads:
        each.opened()
    for each in loads:
        each.begin()
    wait_until(lambda: all(each.tally().answered > each.connections for each in loads), "a request each", 30)
    service.remember()
    service.signal(signal.SIGTERM)
    assert service.wait(STOP_DEADLINE) == 0, service.report()
    service.gone()
    wait_until(lambda: all(each.tally().waiting == 0 for each in loads), "every connection's end")
    return [each.end() for each in loads]


def answered_to_the_end(tally: Tally, connections: int) -> None:
    """No answer is wrong or cut short.

    Clients are told before the end; only where one had not asked for long may its next request cross the end of the idle
    connection, and have no byte of an answer (RFC 9112, section 9.3.1).
    """
    assert (tally.broken, tally.wrong, tally.waiting) == (0, 0, 0), tally
    assert tally.unanswered <= connections / 100, tally
    assert tally.idle + tally.unanswered == connections, tally


def test_a_stop_at_4096_connections_on_both_listeners_cuts_no_answer(
    launch: Launch, pair: dict[str, str], load: Loads
) -> None:
    service = launch(**pair).ready()
    tallies = stop_under(service, [load(service, listener, 2048) for listener in ("json-tls", "json")])
    for tally in tallies:
        answered_to_the_end(tally, 2048)
    assert service.errors.read_text() == ""


def test_a_stop_at_4096_tls_connections_cuts_no_answer(launch: Launch, pair: dict[str, str], load: Loads) -> None:
    service = launch(**pair).ready()
    (tally,) = stop_under(service, [load(service, "json-tls", 4096, processes=2)])
    answered_to_the_end(tally, 4096)
    assert service.errors.read_text() == ""


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_connections_that_arrive_as_it_stops_are_served_or_refused(
    launch: Launch, pair: dict[str, str], load: Loads, listener: str
) -> None:
    service = launch(**pair).ready()
    coming = load(service, listener, 256, requests=2)
    wait_until(lambda: coming.tally().answered > 1000, "a thousand answers")
    service.signal(signal.SIGTERM)
    assert service.wait(STOP_DEADLINE) == 0, service.report()
    service.gone()
    wait_until(lambda: coming.tally().unopened == 256, "every client refused")
    tally = coming.end()
    assert (tally.broken, tally.wrong, tally.waiting) == (0, 0, 0), tally
    assert tally.unanswered < 128, tally  # they waited to be accepted when the listener closed


def test_a_changed_dataset_or_server_toml_has_no_effect_until_a_restart(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset.json"
    shutil.copy(oracle.BUNDLED, dataset)
    config = configured(tmp_path)
    service = launch(config, DATASET_PATH=str(dataset), WORKERS="1", **pair).ready()
    said = service.output.read_text()
    items = json.loads(dataset.read_text())
    items[0]["price"] += 1
    dataset.write_text(json.dumps(items[:7]))
    server_toml = tmp_path / "server.toml"
    server_toml.write_text(server_toml.read_text().replace("[server]", "[nothing of ours]"))
    service.signal(signal.SIGHUP)  # looks at the pair alone

    def body() -> bytes:
        return httpx.get(f"{service.url}/json/50?m=2", trust_env=False).content

    assert body() == oracle.body(50, 2)
    assert (service.output.read_text(), service.errors.read_text()) == (said, "")
    granian, worker = service.granians[1], worker_of(service, "json")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: service.workers(granian) not in ([], [worker]), "a new worker")
    assert body() == oracle.body(50, 2)
    service.stop()
    configured(tmp_path)
    again = launch(config, DATASET_PATH=str(dataset), **pair).ready()
    assert httpx.get(f"{again.url}/json/50?m=2", trust_env=False).content == oracle.body(7, 2, dataset)
    again.stop()
