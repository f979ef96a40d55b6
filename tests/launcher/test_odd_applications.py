"""Applications that do what few do: start processes and threads, take signals, send without ever waiting."""

import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.configuration import configured, with_web_sockets
from tests.support.http1 import WEBSOCKET_UPGRADE
from tests.support.processes import ROOT, is_running, wait_until
from tests.support.service import START_DEADLINE, Launch, Service
from tests.support.web_sockets import WebSocket

APP = "from tests.support.applications import app, note, respond\n"
STARTING = f"""
from multiprocessing import Process
import time
{APP}
started = Process(target=time.sleep, args=(3600,), daemon=DAEMON)
started.start()
note(f"started {{started.pid}}")
"""
THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
UNBLOCKING = f"""
import multiprocessing.resource_tracker, signal, threading, time
{APP}
def run():
    if MASK is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, MASK)
    time.sleep(3600)

multiprocessing.resource_tracker.ensure_running()  # as SharedMemory and pools of processes do
threading.Thread(target=run, daemon=True).start()
"""
ENDLESS = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from tests.support.applications import note

async def endless():
    while True:
        yield b"x" * 1000

routes = [Route("/", lambda _: PlainTextResponse("ok")), Route("/endless", lambda _: StreamingResponse(endless()))]
starlette = Starlette(routes=routes)

async def app(scope, receive, send):
    try:
        await starlette(scope, receive, send)
    finally:
        if scope.get("path") == "/endless":
            note("ended")
"""
LOGGING = f"""
import logging, logging.handlers
{APP}
logging.basicConfig(filename=FILE, filemode="w", level=logging.INFO)
kept = logging.handlers.MemoryHandler(100, target=logging.FileHandler(FILE + ".kept"))
logging.root.addHandler(kept)

async def app(scope, receive, send):
    if scope["type"] == "http":
        logging.error("a request")
        await respond(send, b"ok")
"""
EXECUTING = f"""
import asyncio, multiprocessing, signal, subprocess, time
{APP}
others = app

async def app(scope, receive, send):
    if scope["type"] != "http":
        return await others(scope, receive, send)
    await asyncio.sleep(0)
    number = int(scope["query_string"] or b"0")
    if scope["path"] == "/forked":
        forked = multiprocessing.Process(target=time.sleep, args=(60,))
        forked.start()
        forked.terminate()
        await asyncio.to_thread(forked.join)
        code = forked.exitcode
    elif scope["path"] == "/executed":
        executed = subprocess.Popen(["sleep", "60"])
        executed.send_signal(number)
        code = await asyncio.to_thread(executed.wait)
    elif scope["path"] == "/ignored":
        shown = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True).stdout
        code = int(shown.split()[1], 16)
    elif scope["path"] == "/long":
        executed = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        note("executed")
        await asyncio.sleep(1)
        executed.stdin.close()
        code = await asyncio.to_thread(executed.wait)
    else:  # the launcher asks for "/" at the start
        code = 0
    await respond(send, str(code).encode())
"""
CHOOSING = f"""
import multiprocessing
{APP}
before = multiprocessing.get_start_method(allow_none=True)
multiprocessing.set_start_method("spawn")
chosen = multiprocessing.get_start_method()

async def app(scope, receive, send):
    await respond(send, f"{{before}}, then {{chosen}}, now {{multiprocessing.get_start_method()}}".encode())
"""
ENDING = """
import asyncio, multiprocessing, os, signal, subprocess, time, uvloop
from tests.support.applications import app as others, note

def end_what_it_starts(when):
    started = [subprocess.Popen(["sleep", "60"]), multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))]
    started[1].start()
    for each in started:
        each.terminate()
    assert started[0].wait() == -signal.SIGTERM
    started[1].join()
    assert started[1].exitcode == -signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # is not heeded by this process itself
    note(f"{when} ended all")

async def execute():
    return await (await asyncio.create_subprocess_exec("true")).wait()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        end_what_it_starts("startup")
    await others(scope, receive, send)

if os.environ.get("APPLICATION_PRELOAD") != "true":
    end_what_it_starts("import")
    assert uvloop.run(execute()) == 0
    assert asyncio.run(execute()) == 0
"""
TAKING_SIGNALS = f"""
import faulthandler, signal
{APP}
others = app

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        faulthandler.register(signal.SIGUSR1)
        faulthandler.register(signal.SIGUSR2)
    await others(scope, receive, send)
"""
SENDING = f"""
{APP}
others = app

async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return await others(scope, receive, send)
    await receive()
    await send({{"type": "websocket.accept"}})
    while True:
        await send({{"type": "websocket.send", "text": "x" * 1000}})
"""
RAISING = f"""
{APP}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        raise RuntimeError("db down")
    await respond(send, b"ok")
"""
PUSHING = f"""
import asyncio
{APP}
pushing = set()

async def push(send):
    while True:
        sending = asyncio.ensure_future(send({{"type": "websocket.send", "text": "x" * 100_000}}))
        if not (await asyncio.wait([sending], timeout=0.5))[0]:
            note("full")
        await sending

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        note("shutdown")
        await send({{"type": "lifespan.shutdown.complete"}})
    elif scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        pushing.update(asyncio.ensure_future(push(send)) for _ in range(2))
        if scope["path"] == "/":
            await asyncio.wait(pushing)
        elif scope["path"] == "/closed":
            await asyncio.sleep(0.7)  # both wait for the client by then; a stop's drain begins later
            await send({{"type": "websocket.close"}})
        await asyncio.sleep(1)
    else:
        await respond(send, b"ok")
        if scope["path"] == "/work":
            await asyncio.sleep(1)
            note("done")
"""
WORKING_ON = f"""
import asyncio, time
{APP}
async def app(scope, receive, send):
    await respond(send, b"ok")  # to its lifespan, too
    if scope["path"] == "/work":
        WORK
        note("done")
"""


@pytest.fixture
def start(launch: Launch, pair: dict[str, str], tmp_path: Path) -> Callable[..., Service]:
    """Start the launcher with an application of this source; its notes are in the file `notes`."""

    def start(source: str, *arguments: str, **environment: str) -> Service:
        (tmp_path / "odd.py").write_text(source)
        return launch(
            *arguments,
            APPLICATION="odd:app",
            NOTES=str(tmp_path / "notes"),
            PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
            **pair,
            **environment,
        )

    return start


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], set[int]]]:
    """Which processes applications of a test have started; they are ended with the test."""

    def started() -> set[int]:
        notes = tmp_path / "notes"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return {int(line.split()[1]) for line in lines if line.startswith("started")}

    yield started
    for pid in filter(is_running, started()):
        os.kill(pid, signal.SIGKILL)


PRELOADED = [("true", "True"), ("true", "False"), ("false", "True")]  # a worker may wait for what is no daemon


@pytest.mark.parametrize(("preload", "daemon"), PRELOADED)
def test_a_process_that_an_import_starts_hinders_neither_check_nor_start_nor_stop(
    start: Callable[..., Service], started: Callable[[], set[int]], preload: str, daemon: str
) -> None:
    source = STARTING.replace("DAEMON", daemon) + (THREAD if preload == "true" else "")
    checked = start(source, "--check", APPLICATION_PRELOAD=preload)
    assert checked.wait(START_DEADLINE) == 0, checked.report()
    wait_until(lambda: not any(map(is_running, started())), "the end of what was started")
    assert started()
    service = start(source, APPLICATION_PRELOAD=preload).ready()
    service.stop()
    assert service.errors.read_text() == ""
    wait_until(lambda: not any(map(is_running, started())), "the end of what was started")


@pytest.mark.parametrize("mask", ["None", "()"])
def test_signals_that_a_preloaded_application_unblocks_are_the_launchers(
    start: Callable[..., Service], mask: str
) -> None:
    """The resource tracker unblocks SIGTERM and SIGINT, and threads that are started after it have them unblocked."""
    source = UNBLOCKING.replace("MASK", mask)
    service = start(source, APPLICATION_PRELOAD="true", WORKERS="1").ready()
    service.signal(signal.SIGHUP)
    wait_until(lambda: "nothing that can be reloaded has changed" in service.report(), "the reload")
    service.stop()
    service = start(source, APPLICATION_PRELOAD="true", WORKERS="1").ready()
    os.kill(service.server_process_of("json"), signal.SIGKILL)
    assert service.wait(3) == 1
    service.gone()


@pytest.mark.parametrize("preload", ["true", "false"])
def test_how_processes_start_is_an_applications_to_choose(start: Callable[..., Service], preload: str) -> None:
    """As Python lets it, once: it may check first that nobody has chosen. A preloaded one has chosen in the launcher."""
    service = start(CHOOSING, APPLICATION_PRELOAD=preload, WORKERS="1").ready()
    assert httpx.get(service.url, trust_env=False).text == "None, then spawn, now spawn"
    service.stop()


@pytest.mark.parametrize("preload", ["true", "false"])
def test_what_an_import_or_a_startup_starts_can_be_ended(
    start: Callable[..., Service], tmp_path: Path, preload: str
) -> None:
    """Nothing of it inherits blocked signals; a preloaded application is imported by the launcher, which blocks them."""
    checked = start(ENDING, "--check", APPLICATION_PRELOAD=preload)
    assert checked.wait(START_DEADLINE) == 0, checked.report()
    start(ENDING, APPLICATION_PRELOAD=preload, WORKERS="1").ready().stop()
    notes = (tmp_path / "notes").read_text().splitlines()
    # Two listeners have a worker each, which imports what is not preloaded after a check and a start have tried it.
    assert notes.count("import ended all") == (4 if preload == "false" else 0)
    assert notes.count("startup ended all") == 2


def test_what_an_application_executes_gets_its_signals(start: Callable[..., Service], trust: ssl.SSLContext) -> None:
    service = start(EXECUTING, WORKERS="1").ready()
    with httpx.Client(base_url=service.url, verify=trust, trust_env=False, timeout=30) as client:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            assert client.get(f"/executed?{number:d}").text == str(-number)
        ignored = int(client.get("/ignored").text)
        assert not any(ignored >> (number - 1) & 1 for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGTERM))
        assert client.get("/forked").text == str(-signal.SIGTERM)
    service.stop()
    assert service.errors.read_text() == ""


def test_what_an_application_executes_outlives_the_close_notice(
    start: Callable[..., Service], tmp_path: Path, trust: ssl.SSLContext
) -> None:
    service = start(EXECUTING, WORKERS="1").ready()
    codes: list[str] = []

    def execute() -> None:
        codes.append(httpx.get(f"{service.url}/long", verify=trust, trust_env=False, timeout=30).text)

    thread = threading.Thread(target=execute)
    thread.start()
    wait_until(lambda: "executed" in (tmp_path / "notes").read_text(), "the program")
    service.stop()
    thread.join()
    assert codes == ["0"]
    assert service.errors.read_text() == ""


def test_sigusr1_and_sigusr2_are_an_applications_to_take(start: Callable[..., Service], trust: ssl.SSLContext) -> None:
    service = start(TAKING_SIGNALS, WORKERS="1").ready()
    service.remember()
    with (
        httpx.Client(verify=trust, trust_env=False, timeout=30) as client,
        client.stream("GET", f"{service.tls_url}/stream?20") as response,
    ):
        lines = response.iter_lines()
        next(lines)
        service.signal(signal.SIGTERM)
        wait_until(lambda: _says_close(client, f"{service.url}/close-notice"), "the close notice")
        assert list(lines) == [str(number) for number in range(1, 20)]
    assert service.wait() == 0, service.report()
    service.gone()
    assert service.errors.read_text() == ""


def _says_close(client: httpx.Client, url: str) -> bool:
    return "connection" in client.get(url).headers


def test_sigusr1_and_sigusr2_are_not_heeded_by_who_does_not_take_them(
    start: Callable[..., Service], trust: ssl.SSLContext
) -> None:
    service = start(APP, WORKERS="1").ready()
    before = service.all_workers()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        for each in service.server_processes:
            os.killpg(each, number)
        service.signal(number)
    with httpx.Client(verify=trust, trust_env=False) as client:
        for url in (service.url, service.tls_url):
            assert not _says_close(client, f"{url}/state")
    assert service.all_workers() == before
    service.stop()
    assert service.errors.read_text() == ""


def test_a_response_that_never_waits_and_whose_client_has_left_keeps_nobody_waiting(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    (notes := tmp_path / "notes").touch()
    service = start(ENDLESS, WORKERS="1").ready()
    for number in range(1, 4):
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.recv(4096)
        assert httpx.get(service.url, trust_env=False).text == "ok"
        wait_until(lambda: len(notes.read_text().splitlines()) == number, "the end of its response")  # noqa: B023
    service.stop()


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_a_web_socket_that_is_sent_to_without_a_pause_costs_nobody_a_response_at_a_stop(
    start: Callable[..., Service], tmp_path: Path, trust: ssl.SSLContext, runs: str
) -> None:
    arguments = configured(tmp_path, with_web_sockets())
    service = start(SENDING, arguments, WORKERS="1", APPLICATION_RUNS=runs).ready()
    service.remember()
    last = b""

    def read(connection: socket.socket) -> None:
        """Read to the end, as fast as can be: a client that does not would be given up."""
        nonlocal last
        while part := connection.recv(2**20):
            last = (last + part)[-100:]

    with (
        WebSocket(f"ws://127.0.0.1:{service.port}/") as web_socket,
        httpx.Client(verify=trust, trust_env=False, timeout=30) as client,
        client.stream("GET", f"{service.url}/stream?30") as response,
    ):
        reading = threading.Thread(target=read, args=(web_socket.socket,))
        reading.start()
        lines = response.iter_lines()
        next(lines)
        service.signal(signal.SIGTERM)
        assert list(lines) == [str(number) for number in range(1, 30)]
        reading.join()
    reason = b"the server restarts"
    assert last.endswith(bytes([0x88, 2 + len(reason)]) + (1012).to_bytes(2) + reason)  # RFC 6455, section 5.5.1
    assert service.wait() == 0
    service.gone()


@pytest.mark.parametrize("path", ["/", "/left", "/closed"])
def test_a_web_socket_client_that_does_not_read_costs_no_work_at_a_stop(
    start: Callable[..., Service], tmp_path: Path, path: str
) -> None:
    """What waits for it would end its worker at once: without what goes on after responses, and the shutdown."""
    service = start(PUSHING, configured(tmp_path, with_web_sockets()), WORKERS="1").ready()
    notes = tmp_path / "notes"
    handshake = b"".join(f"{name}: {value}\r\n".encode() for name, value in WEBSOCKET_UPGRADE.items())
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.connect(("127.0.0.1", service.port))
        unread.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n".encode() + handshake + b"\r\n")
        wait_until(lambda: notes.exists() and "full" in notes.read_text(), "a send that waits")
        assert httpx.get(f"{service.url}/work", trust_env=False).text == "ok"
        service.stop()
    said = [each for each in notes.read_text().split() if each != "full"]
    assert sorted(said) == ["done", "shutdown", "shutdown"]  # of two listeners
    assert "panicked" not in service.errors.path.read_text()


def test_a_startup_that_raises_is_reported_and_served(start: Callable[..., Service], trust: ssl.SSLContext) -> None:
    """As ASGI has it (lifespan protocol): the server must continue. Without a word nobody would know."""
    service = start(RAISING, WORKERS="1").ready()
    for url in (service.url, service.tls_url):
        assert httpx.get(url, verify=trust, trust_env=False).text == "ok"
    service.stop()
    said = "the application's startup raised RuntimeError('db down'); it is served without a lifespan"
    assert sorted(service.errors.read_text().splitlines()) == [
        f"listener json-tls: {said}",
        f"listener json: {said}",
    ]


@pytest.mark.parametrize(("runs", "work"), [("loop", "await asyncio.sleep(1)"), ("inline", "time.sleep(1)")])
def test_work_after_a_response_is_waited_for_whatever_the_application_does_with_its_lifespan(
    start: Callable[..., Service], tmp_path: Path, runs: str, work: str
) -> None:
    service = start(WORKING_ON.replace("WORK", work), WORKERS="1", APPLICATION_RUNS=runs).ready()
    assert httpx.get(f"{service.url}/work", trust_env=False).text == "ok"
    service.stop()
    assert (tmp_path / "notes").read_text() == "done\n"


def test_the_log_handlers_of_a_preloaded_application_stay_open(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(
        LOGGING.replace("FILE", repr(str(tmp_path / "log"))), APPLICATION_PRELOAD="true", WORKERS="1"
    ).ready()
    for _ in range(5):
        assert httpx.get(service.url, trust_env=False).status_code == 200
    asked = 7  # the launcher has asked one worker of each listener
    for file in (tmp_path / "log", tmp_path / "log.kept"):
        wait_until(lambda: file.read_text().count("a request") == asked, f"the lines in {file}")  # noqa: B023
    service.stop()


@pytest.mark.parametrize("preload", ["true", "false"])
def test_an_application_that_sets_up_logging_silences_nobody(
    launch: Launch, tmp_path: Path, pair: dict[str, str], preload: str
) -> None:
    """logging.config disables all loggers that it does not name, unless it is told not to."""
    (tmp_path / "logs.py").write_text(
        f"import logging, logging.config\n{APP}logging.config.dictConfig({{'version': 1}})\nlogging.disable()\nlogging.logProcesses = False\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "APPLICATION_PRELOAD": preload, "WORKERS": "1"}
    service = launch(APPLICATION="logs:app", ACCESS_LOG="1", **environment, **pair).ready()
    httpx.get(f"{service.url}/nothing", trust_env=False)
    service.stop()
    said = service.errors.path.read_text()
    assert " started after " in said
    assert " stopped after " in said


AT_THE_STARTUP = """
import logging.config
from tests.support.applications import app as others

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        logging.config.dictConfig({"version": 1})
    await others(scope, receive, send)
"""


@pytest.mark.parametrize(
    "source",
    [f"import logging.config\n{APP}logging.config.dictConfig({{'version': 1}})\n", AT_THE_STARTUP],
    ids=["import", "startup"],
)
def test_requests_are_logged_though_an_application_sets_up_logging(
    launch: Launch, tmp_path: Path, pair: dict[str, str], source: str
) -> None:
    (tmp_path / "logs.py").write_text(source)
    service = launch(APPLICATION="logs:app", ACCESS_LOG="1", PYTHONPATH=str(tmp_path), WORKERS="1", **pair).ready()
    httpx.get(f"{service.url}/nothing", trust_env=False)
    wait_until(lambda: "GET /nothing HTTP/1.1" in service.errors.path.read_text(), "the request's line")
    service.stop()


AT_A_REQUEST = """
import logging, logging.config
from tests.support.applications import respond

class Mine(logging.Logger): ...
logging.setLoggerClass(Mine)
assert type(logging.getLogger("mine")) is Mine

async def app(scope, receive, send):
    if scope["path"] == "/raise":
        raise ValueError(scope["query_string"])
    if scope["path"] == "/set":
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
    await respond(send, b"ok")
"""


@pytest.mark.parametrize("preload", ["true", "false"])
def test_what_is_logged_of_requests_goes_on_though_one_of_them_sets_up_logging(
    launch: Launch, tmp_path: Path, pair: dict[str, str], preload: str
) -> None:
    """Lines and tracebacks, also of loggers that Granian has made before."""
    (tmp_path / "logs.py").write_text(AT_A_REQUEST)
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "APPLICATION_PRELOAD": preload, "WORKERS": "1"}
    service = launch(APPLICATION="logs:app", ACCESS_LOG="1", **environment, **pair).ready()
    for target in ("/raise?1", "/set", "/raise?2", "/last"):
        httpx.get(service.url + target, trust_env=False)
    wait_until(lambda: "GET /last HTTP/1.1" in service.errors.path.read_text(), "the last request's line")
    service.stop()
    said = service.errors.path.read_text()
    assert [said.count(f"ValueError: b'{each}'") for each in "12"] == [1, 1]
    assert [said.count(f'"GET /raise?{each} HTTP/1.1" 500') for each in "12"] == [1, 1]
