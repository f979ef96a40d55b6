"""Processes that die or are stopped: workers, server processes, the launcher."""

import os
import signal
import ssl
import time
from pathlib import Path

import httpx
import pytest

from app.launcher import descriptors
from app.launcher.granian_private import FAILED_STARTS
from app.launcher.memory import EXPENDABLE
from bench import oracle
from tests.support.applications import dying_application, lacking_threads
from tests.support.certificates import leaf_of
from tests.support.configuration import SERVER_TOML, configured
from tests.support.load import Loads
from tests.support.ports import is_free
from tests.support.processes import ROOT, children, freeze, open_files, wait_until
from tests.support.renewals import Renewing
from tests.support.service import Launch
from tests.support.wrappers import SIGNALS_IGNORED_AND_BLOCKED, process_limit


def test_a_killed_worker_is_replaced_and_the_others_go_on(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext
) -> None:
    service = launch(**pair).ready()
    for server_process in service.server_processes:
        before, files = service.workers(server_process), open_files(server_process)
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda server_process=server_process, worker=before[0]: service.replaced(server_process, worker),  # type: ignore[misc]
            "a new worker",
        )
        assert before[1] in service.workers(server_process)
        wait_until(lambda process=server_process, files=files: open_files(process) == files, "no file of the dead one")  # type: ignore[misc]
    assert service.process.poll() is None
    for url in (service.url, service.tls_url):
        for _ in range(20):  # a new connection each time, so that both workers get some
            with httpx.Client(verify=trust, trust_env=False) as client:
                assert client.get(f"{url}/json/3").content == oracle.body(3, 1)
    service.stop()


def test_a_process_that_the_launcher_did_not_start_is_reaped(launch: Launch, pair: dict[str, str]) -> None:
    """As PID 1 of a container it gets every orphan; here it is another child of the shell that it was."""
    service = launch(wrapper=("sh", "-c", 'true & exec "$@"', "sh"), **pair).ready()
    wait_until(lambda: len(children(service.process.pid)) == len(service.listeners), "no zombie")
    for worker in service.workers(service.server_process_of("json-tls")):
        os.kill(worker, signal.SIGKILL)
    service.stop()


def test_a_crash_loop_is_exit_1(launch: Launch, pair: dict[str, str], tmp_path: Path) -> None:
    service = launch(WORKERS="1", **dying_application(tmp_path), **pair).ready()
    (tmp_path / "dies").touch()
    for worker in service.workers(service.server_process_of("json-tls")):
        os.kill(worker, signal.SIGKILL)
    assert service.wait(20) == 1
    service.gone()
    errors = service.errors.read_text()
    assert "the listener ends, as it was the 5th in a row before its startup was over: a crash loop" in errors
    assert "listener json-tls ended (exit status 1); stopping the others" in errors


@pytest.mark.parametrize(("listener", "wrapper"), [("json-tls", SIGNALS_IGNORED_AND_BLOCKED), ("json", ())])
def test_a_killed_server_process_is_exit_1(
    launch: Launch, pair: dict[str, str], listener: str, wrapper: tuple[str, ...]
) -> None:
    """Also if it was started with all signals ignored and blocked, which is to change nothing."""
    service = launch(wrapper=wrapper, **pair).ready()
    os.kill(service.server_process_of(listener), signal.SIGKILL)
    assert service.wait(3) == 1
    service.gone()
    assert f"listener {listener} ended (killed by SIGKILL); stopping the others" in service.errors.read_text()


def test_nothing_outlives_a_killed_launcher(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(WORKERS="4", **pair).ready()
    freeze(service.workers(service.server_process_of("json-tls"))[0])
    service.signal(signal.SIGKILL)
    assert service.wait() == -signal.SIGKILL
    service.gone(5)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become another user")
def test_workers_of_another_user_end_with_a_killed_launcher(launch: Launch, tmp_path: Path) -> None:
    """The kernel forgets who ends with whom when a process changes its user."""
    (tmp_path / "changing.py").write_text(
        "import os\nfrom tests.support.applications import app\nos.setgid(65534)\nos.setuid(65534)\n"
    )
    service = launch(APPLICATION="changing:app", PYTHONPATH=f"{tmp_path}:{ROOT}", WORKERS="2").ready()
    assert httpx.get(f"{service.url}/close", trust_env=False).text == "bye"
    service.remember()
    service.signal(signal.SIGKILL)
    assert service.wait() == -signal.SIGKILL
    service.gone(5)


CHANGING_FOR_A_MOMENT = """
import os
from tests.support.applications import app as others

async def app(scope, receive, send):
    if scope["type"] == "http":
        os.seteuid(65534)
        os.seteuid(0)
    await others(scope, receive, send)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become another user")
@pytest.mark.parametrize("killed", ["server process", "launcher"])
def test_workers_that_were_another_user_for_a_moment_end_with_what_is_killed(
    launch: Launch, tmp_path: Path, killed: str
) -> None:
    (tmp_path / "moment.py").write_text(CHANGING_FOR_A_MOMENT)
    service = launch(APPLICATION="moment:app", PYTHONPATH=f"{tmp_path}:{ROOT}", WORKERS="1").ready()
    assert httpx.get(f"{service.url}/close", trust_env=False).text == "bye"
    service.remember()
    if killed == "launcher":
        service.signal(signal.SIGKILL)
        assert service.wait() == -signal.SIGKILL
    else:
        os.kill(service.server_process_of("json"), signal.SIGKILL)
        assert service.wait() == 1
    service.gone(2 * descriptors.LOOK)


@pytest.mark.parametrize("victim", ["server process", "worker"])
def test_a_drain_that_is_cut_by_somebody_else_is_reported(launch: Launch, victim: str) -> None:
    service = launch(APPLICATION="tests.support.applications:app", WORKERS="1").ready()
    service.remember()
    server_process = service.server_process_of("json")
    (worker,) = service.workers(server_process)
    with httpx.Client(trust_env=False) as client, client.stream("GET", f"{service.url}/stream?60") as response:
        next(response.iter_lines())
        service.signal(signal.SIGTERM)
        wait_until(lambda: is_free(service.port), "the drain")
        os.kill(worker if victim == "worker" else server_process, signal.SIGKILL)
        assert service.wait() == 0
    service.gone()
    whose = f"worker-1 (pid {worker})" if victim == "worker" else "listener json"
    line = f"{whose} ended (killed by SIGKILL) before it was drained; the requests that it had are lost"
    assert line in service.errors.read_text()


@pytest.mark.xdist_group("load")
def test_a_stopped_worker_responds_late_and_the_others_go_on(launch: Launch, pair: dict[str, str], load: Loads) -> None:
    service = launch(**pair).ready()
    kept = [load(service, listener, 64, pause=0.02) for listener in ("json", "json-tls")]
    reopened = [load(service, listener, 8, requests=3, pause=0.02) for listener in ("json", "json-tls")]
    for each in kept:
        each.opened()
        each.begin()
    victims = [workers[0] for workers in service.all_workers()]
    freeze(*victims)
    stopped = time.monotonic()
    wait_until(lambda: all(each.tally().waiting > 5 for each in kept), "requests at the stopped workers")
    before = [each.tally().responded for each in kept]
    time.sleep(max(0.0, stopped + 3 - time.monotonic()))  # the fault is that long
    assert all(each.tally().responded > least + 300 for each, least in zip(kept, before, strict=True))
    for victim in victims:
        os.kill(victim, signal.SIGCONT)
    for each in kept:
        tally = each.end()
        assert tally.failed == 0, tally
        assert tally.longest > 2, tally
    for each in reopened:  # a new TLS connection waits for its handshake, before its request counts as sent
        tally = each.end()
        assert tally.failed == 0, tally
    assert [workers[0] for workers in service.all_workers()] == victims
    service.stop()
    assert service.errors.read_text() == ""


@pytest.mark.xdist_group("load")
def test_a_worker_killed_under_load_cuts_its_own_connections_alone(
    launch: Launch, pair: dict[str, str], load: Loads
) -> None:
    service = launch(**pair).ready()
    kept = [load(service, listener, 64) for listener in ("json", "json-tls")]
    reopened = [load(service, listener, 8, requests=3, pause=0.02) for listener in ("json", "json-tls")]
    for each in kept:
        each.opened()
        each.begin()
    for server_process in service.server_processes:
        victim = service.workers(server_process)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda server_process=server_process, victim=victim: service.replaced(server_process, victim),  # type: ignore[misc]
            "a new worker",
        )
    before = [each.tally().responded for each in (*kept, *reopened)]
    wait_until(
        lambda: all(
            each.tally().responded > least + 50 for each, least in zip((*kept, *reopened), before, strict=True)
        ),
        "responses on the connections of the other worker, and on new ones",
    )
    for each in kept:
        tally = each.end()
        cut = tally.idle + tally.unresponded + tally.broken
        assert 0 < cut < 64, tally
        assert (tally.wrong, tally.waiting) == (0, 0), tally
    for each in reopened:
        tally = each.end()
        assert (tally.wrong, tally.waiting) == (0, 0), tally
    service.stop()


def test_deaths_of_a_worker_that_has_started_are_no_crash_loop(launch: Launch, pair: dict[str, str]) -> None:
    """However soon they come: a client may have found a request that ends a worker."""
    service = launch(WORKERS="1", **pair).ready()
    server_process = service.server_process_of("json")
    for _ in range(FAILED_STARTS + 1):
        assert httpx.get(f"{service.url}/json/5?m=3", trust_env=False).content == oracle.body(5, 3)
        (worker,) = service.workers(server_process)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda worker=worker: service.replaced(server_process, worker), "another worker")  # type: ignore[misc]
    assert httpx.get(f"{service.url}/json/5?m=3", trust_env=False).content == oracle.body(5, 3)
    service.stop()


def test_a_worker_that_cannot_be_forked_is_started_when_it_can(launch: Launch, pair: dict[str, str]) -> None:
    with process_limit() as limit:
        service = launch(wrapper=limit.wrapper, **pair).ready()
        server_process = service.server_process_of("json")
        victim = service.workers(server_process)[0]
        limit.forbid()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "cannot be started" in service.errors.read_text(), "a line about it")
        limit.lift()
        wait_until(lambda: service.replaced(server_process, victim), "a new worker")
        assert service.process.poll() is None
        assert service.errors.read_text().count("it is tried again until it can") == 1
        service.responding().stop()


def test_a_worker_that_does_not_come_to_accept_is_replaced(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    service = launch(WORKERS="1", **lacking_threads(tmp_path), **pair).ready()
    server_process = service.server_process_of("json")
    (victim,) = service.workers(server_process)
    (tmp_path / "granians").touch()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: "does not accept" in service.errors.read_text(), "a line about it")
    assert httpx.get(f"{service.url}/state", trust_env=False, timeout=10).status_code == 200
    assert service.process.poll() is None
    service.stop()


def test_a_thread_that_a_worker_lacks_is_started_when_it_can(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    """It is asked for where the application says that its startup is complete: it must not get the exception."""
    service = launch(WORKERS="1", **lacking_threads(tmp_path), **pair).ready()
    server_process = service.server_process_of("json")
    (victim,) = service.workers(server_process)
    (tmp_path / "ours").touch()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: service.replaced(server_process, victim), "a new worker")
    assert httpx.get(f"{service.url}/state", trust_env=False, timeout=10).status_code == 200
    assert "lifespan" not in service.errors.read_text()
    assert not (tmp_path / "ours").exists()
    service.stop()


def test_a_replaced_worker_serves_the_pair_that_was_checked(
    renewing: Renewing,
) -> None:
    service = renewing.start(WORKERS="1")
    old = leaf_of(renewing.certs)
    (renewing.certs / "server.key").write_bytes(b"nothing")
    server_process = service.server_process_of("json-tls")
    (worker,) = service.workers(server_process)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: service.workers(server_process) not in ([], [worker]), "a new worker")

    def serves_the_old_leaf() -> bool:
        try:
            return renewing.serves(old)
        except OSError:
            return False

    wait_until(serves_the_old_leaf, "a handshake with the new worker")
    service.stop()


def test_the_kernel_is_to_kill_workers_first_when_memory_is_out(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair).ready()

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    usual = score(service.process.pid)
    assert {score(each) for each in service.server_processes} == {usual}
    assert {score(each) for workers in service.all_workers() for each in workers} == {min(1000, usual + EXPENDABLE)}
    service.stop()


WAITING = """
import asyncio, os
from pathlib import Path
from tests.support.applications import respond

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        while Path(FLAG).exists():
            await asyncio.sleep(0.02)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await respond(send, str(os.getpid()).encode())
"""


def test_clients_do_not_wait_for_a_worker_whose_startup_takes_long_while_another_serves(
    launch: Launch, tmp_path: Path
) -> None:
    flag = tmp_path / "there is no database"
    (tmp_path / "waiting.py").write_text(WAITING.replace("FLAG", repr(str(flag))))
    arguments = configured(tmp_path, SERVER_TOML.replace("start_deadline = 30", "start_deadline = 3"))
    service = launch(arguments, APPLICATION="waiting:app", PYTHONPATH=f"{tmp_path}:{ROOT}", WORKERS="2").ready()
    killed, other = service.workers(service.server_process_of("json"))

    def responds() -> set[str]:
        """Return who responds, each time to a connection of its own."""
        try:
            return {httpx.get(service.url, trust_env=False, timeout=2).text for _ in range(30)}
        except httpx.TransportError:  # it had come to the killed one, or waits for its replacement
            return set()

    flag.touch()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: responds() == {str(other)}, "the other worker to have all clients")
    wait_until(lambda: "has not started within start_deadline=3 s" in service.errors.read_text(), "a line about it")
    flag.unlink()
    wait_until(lambda: len(responds()) == 2, "both workers")
    service.stop()


GROWING = """
from pathlib import Path
from tests.support.applications import respond

kept = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if Path(FLAG).exists():
            await send({"type": "lifespan.startup.failed", "message": "no database"})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        if scope["path"] == "/grow":
            kept.append(bytes(range(256)) * (100 * 4096))
        await respond(send, b"ok")
"""


def test_a_worker_that_has_grown_serves_on_if_its_replacement_does_not_start(launch: Launch, tmp_path: Path) -> None:
    flag = tmp_path / "fails"
    (tmp_path / "growing.py").write_text(GROWING.replace("FLAG", repr(str(flag))))
    arguments = configured(tmp_path, SERVER_TOML.replace("worker_growth = 512", "worker_growth = 64"))
    service = launch(arguments, APPLICATION="growing:app", PYTHONPATH=f"{tmp_path}:{ROOT}", WORKERS="1").ready()
    before = service.all_workers()
    flag.touch()
    assert httpx.get(f"{service.url}/grow", trust_env=False).text == "ok"
    wait_until(lambda: "serves on: what was to replace it has not started" in service.errors.read_text(), "a line")
    assert httpx.get(service.url, trust_env=False).text == "ok"
    assert service.all_workers() == before
    service.stop()
    assert "refused to gracefully stop" not in service.errors.read_text()
