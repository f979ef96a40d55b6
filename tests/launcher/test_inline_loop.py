"""The workers' event loop: a request runs in the thread that brings it, all else in the loop."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.launcher.inline_loop import Loop
from tests.support.ports import free_port
from tests.support.processes import ROOT, clean_environment, wait_until

# The launcher with an application that waits on /wait, and says on /thread whether it runs in the loop's thread.
PROGRAM = """
import asyncio, os, sys, threading
from contextlib import ExitStack
from app import run
from app.settings import config

async def app(scope, receive, send):
    if scope["path"] == "/wait":
        await asyncio.Event().wait()
    if scope["path"] == "/pass":
        await asyncio.sleep(0)
    body = str(threading.current_thread() is threading.main_thread()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

with ExitStack() as stack:
    configuration, endpoints = run.preflight(config.read(config.path_of(None, os.environ), os.environ), stack)
    status = run.serve(configuration, endpoints, app, "/")
sys.exit(status)
"""


@pytest.fixture
def event_loop_of_ours() -> Iterator[Loop]:
    with closing(Loop()) as loop:
        asyncio.set_event_loop(loop)
        yield loop
    asyncio.set_event_loop(None)


async def step(done: list[threading.Thread], *, wait: bool = False) -> None:
    try:
        if wait:
            await asyncio.sleep(0)
    finally:
        done.append(threading.current_thread())


def test_a_coroutine_runs_at_once_in_the_thread_that_brings_it(event_loop_of_ours: Loop) -> None:
    done: list[threading.Thread] = []
    thread = threading.Thread(target=lambda: event_loop_of_ours.call_soon_threadsafe(print, step(done), "watcher"))
    thread.start()
    thread.join()
    assert done == [thread]


def test_a_coroutine_that_waits_is_closed(event_loop_of_ours: Loop) -> None:
    done: list[threading.Thread] = []
    event_loop_of_ours.call_soon_threadsafe(print, step(done, wait=True), "watcher")
    assert done == [threading.current_thread()]


def test_everything_else_runs_in_the_loop(event_loop_of_ours: Loop) -> None:
    done: list[threading.Thread] = []

    def callback() -> None:
        done.append(threading.current_thread())
        event_loop_of_ours.stop()

    thread = threading.Thread(target=lambda: event_loop_of_ours.call_soon_threadsafe(callback))
    thread.start()
    thread.join()
    assert done == []
    event_loop_of_ours.run_forever()
    assert done == [threading.current_thread()]


@pytest.mark.server
def test_an_application_that_waits_is_a_500_and_a_line_in_the_log(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "server.toml").write_text(
        "[server]"
        + (ROOT / "server.toml").read_text().partition("[server]")[2].partition("[[listener]]")[0]
        + f'[[listener]]\nname = "json"\nport = {port}\nport_variable = "PORT"\n'
    )
    output = tmp_path / "output"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=clean_environment()
            | {"PYTHONPATH": str(ROOT), "WORKERS": "1", "SERVER_CONFIG": str(tmp_path / "server.toml")},
            stdout=written,
            stderr=written,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

            def responds() -> bool:
                try:
                    return client.get("/thread").text == "False"
                except httpx.TransportError:
                    return False

            wait_until(responds, "a response")
            for target in ("/wait", "/pass"):
                assert client.get(target).status_code == 500
            assert client.get("/thread").text == "False"
        assert output.read_text().count("Application callable raised an exception") == 2
    finally:
        process.terminate()
        assert process.wait(10) == 0
