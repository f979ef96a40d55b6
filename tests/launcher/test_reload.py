"""SIGHUP: server.toml and the dataset are read again, and what has changed is served without a lost request."""

import json
import os
import shutil
import signal
import ssl
import time
from pathlib import Path

import httpx
import pytest

from bench import oracle
from tests.support.configuration import SERVER_TOML, configured
from tests.support.load import Loads
from tests.support.ports import free_port
from tests.support.processes import ROOT, has_signal, is_running, wait_until
from tests.support.service import Launch, Service


def reloaded(service: Service, folder: Path, text: str) -> None:
    configured(folder, text)
    service.signal(signal.SIGHUP)


def waits_for(service: Service, line: str) -> None:
    wait_until(lambda: line in service.report(), line, 20)


def has_changed_nothing(service: Service, processes: list[int]) -> None:
    """Reload what is served: when that has been found to be the same, a replacement would have been started."""
    service.signal(signal.SIGHUP)
    waits_for(service, "reload: nothing that can be reloaded has changed")
    assert service.server_processes == processes


def shortened(path: Path, number: int) -> str:
    path.write_text(json.dumps(json.loads(oracle.BUNDLED.read_text())[:number]))
    return str(path)


@pytest.mark.long
def test_a_number_is_served_by_all_listeners_and_no_request_fails(
    launch: Launch, load: Loads, tmp_path: Path, pair: dict[str, str]
) -> None:
    text = SERVER_TOML.replace("# workers = 4", "workers = 2")
    service = launch(configured(tmp_path, text), WORKERS="", **pair)
    service.environment["WORKERS"] = "2"  # what is waited for
    before = service.ready().server_processes
    loads = [load(service, name, 4, pause=0.02) for name in ("json", "json-tls")]
    for each in loads:
        each.opened()
        each.begin()
    wait_until(lambda: all(each.tally().responded > 200 for each in loads), "the first responses", 20)
    reloaded(service, tmp_path, SERVER_TOML.replace("# workers = 4", "workers = 1"))
    waits_for(service, "reload: json-tls, json will be served anew")
    wait_until(lambda: service.errors.path.read_text().count(" reloaded: ") == 2, "both", 20)
    wait_until(lambda: not set(before) & set(service.server_processes), "the end of the predecessors", 30)
    assert [len(each) for each in service.all_workers()] == [1, 1]
    for each in loads:
        tally = each.end()
        assert (tally.unresponded, tally.broken, tally.wrong, tally.waiting) == (0, 0, 0, 0), tally
    service.stop()


@pytest.mark.parametrize("preload", ["true", "false"])
def test_a_dataset_is_served_by_all_listeners(
    launch: Launch, trust: ssl.SSLContext, tmp_path: Path, pair: dict[str, str], preload: str
) -> None:
    dataset = tmp_path / "dataset.json"
    service = launch(DATASET_PATH=shortened(dataset, 50), APPLICATION_PRELOAD=preload, **pair).ready()
    shortened(dataset, 3)
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.errors.path.read_text().count(" reloaded: ") == 2, "both", 20)
    for url in (service.url, service.tls_url):
        assert httpx.get(f"{url}/json/50", verify=trust, trust_env=False).json()["count"] == 3
    service.stop()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("backlog = 16384", "backlog = 0", "server.backlog = 0: Expected `int` >= 1"),
        ("[server]", "[server", "server.toml: "),
        ('certificate = "certs/server.crt"', 'certificate = "server.toml"', "server.toml is there but"),
    ],
    ids=["number", "syntax", "pair"],
)
def test_an_invalid_file_is_reported_and_changes_nothing(
    launch: Launch, tmp_path: Path, before: str, after: str, said: str
) -> None:
    service = launch(configured(tmp_path)).ready()
    processes = service.server_processes
    reloaded(service, tmp_path, SERVER_TOML.replace(before, after))
    waits_for(service, "; nothing has changed")
    assert said in service.errors.read_text()
    configured(tmp_path)
    has_changed_nothing(service, processes)
    service.stop()


def test_a_dataset_is_served_by_workers_that_load_it_though_it_was_preloaded_before(
    launch: Launch, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset.json"
    service = launch(configured(tmp_path), DATASET_PATH=shortened(dataset, 5)).ready()
    shortened(dataset, 3)
    is_served(service, tmp_path, serving("app:app", preload=False))
    assert httpx.get(f"{service.url}/json/9", trust_env=False).json()["count"] == 3
    service.stop()


def test_an_invalid_dataset_changes_nothing(launch: Launch, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset.json"
    service = launch(configured(tmp_path), DATASET_PATH=shortened(dataset, 5)).ready()
    processes = service.server_processes
    dataset.write_text("[]")
    service.signal(signal.SIGHUP)
    waits_for(service, "holds no items; give it at least one; nothing has changed")
    assert httpx.get(f"{service.url}/json/9", trust_env=False).json()["count"] == 5
    shortened(dataset, 5)
    has_changed_nothing(service, processes)
    service.stop()


def test_listeners_that_come_go_or_move_need_a_restart(launch: Launch, tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    text = SERVER_TOML.replace("port = 8080", f"port = {port}")
    service = launch(configured(tmp_path, text), PORT="")
    service.ready()
    processes = service.server_processes
    moved = SERVER_TOML.replace("port = 8080", f"port = {other}").replace('name = "json-tls"', 'name = "renamed"')
    reloaded(service, tmp_path, moved)
    waits_for(service, "reload: nothing that can be reloaded has changed")
    said = service.errors.read_text()
    assert (
        f"reload: listener json is served on port {port} on; {tmp_path}/server.toml: port={other} needs a restart"
        in said
    )
    assert "reload: listener renamed is new; it needs a restart" in said
    assert "reload: listener json-tls is gone; it is served on until a restart" in said
    configured(tmp_path, text)
    service.signal(signal.SIGHUP)
    wait_until(
        lambda: service.errors.path.read_text().count("reload: nothing that can be reloaded has changed") == 2,
        "another reload",
        20,
    )
    assert service.server_processes == processes
    service.stop()


RESPONDS = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})
"""
STARTS_A_PROCESS = """
import multiprocessing, os, time

started = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
started.start()
with open(os.environ["STARTED"], "a") as file:
    print(started.pid, file=file)
"""


def test_what_an_application_starts_while_it_is_tried_is_ended(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    (tmp_path / "starting.py").write_text(STARTS_A_PROCESS + RESPONDS)
    started = tmp_path / "started"
    environment = {"PYTHONPATH": str(tmp_path), "STARTED": str(started), "WORKERS": "1"}
    service = launch(configured(tmp_path, SERVER_TOML), **environment, **pair).ready()
    changed = 'import = "starting:app"\npreload = true\n#'
    reloaded(service, tmp_path, SERVER_TOML.replace('import = "app:app"', changed))
    waits_for(service, "reload: json-tls, json will be served anew")
    tried, _ = map(int, started.read_text().split())  # the launcher imports it, too, when it has been tried
    wait_until(lambda: not is_running(tried), "the end of what the trial had started")
    service.stop()


def serving(application: str, *, preload: bool) -> str:
    table = f'import = "{application}"\npreload = {str(preload).lower()}\n#'
    return SERVER_TOML.replace('import = "app:app"', table)


def is_refused(service: Service, folder: Path, text: str) -> None:
    """Reload what is another application than the one that is, or was, preloaded: nothing changes."""
    line, before = (
        "would have what its import leaves; that needs a restart; nothing has changed",
        service.server_processes,
    )
    refused = service.errors.path.read_text().count(line)
    reloaded(service, folder, text)
    wait_until(lambda: service.errors.path.read_text().count(line) == refused + 1, line, 20)
    assert set(service.server_processes) <= set(before)  # a predecessor may have ended


def is_served(service: Service, folder: Path, text: str) -> None:
    reloaded(service, folder, text)
    wait_until(lambda: service.errors.path.read_text().count(" reloaded: ") == 2, "both", 20)


@pytest.fixture
def two(tmp_path: Path) -> dict[str, str]:
    """Return variables for two applications, one:app and other:app."""
    for name in ("one", "other"):
        (tmp_path / f"{name}.py").write_text(RESPONDS)
    return {"PYTHONPATH": str(tmp_path), "WORKERS": "1"}


def test_nobody_elses_application_follows_one_that_has_been_preloaded(
    launch: Launch, tmp_path: Path, pair: dict[str, str], two: dict[str, str]
) -> None:
    """Its import is in the launcher, from which all are forked."""
    service = launch(configured(tmp_path, serving("one:app", preload=True)), **two, **pair).ready()
    is_refused(service, tmp_path, serving("one:app", preload=False))
    is_refused(service, tmp_path, serving("other:app", preload=True))
    is_served(service, tmp_path, SERVER_TOML)
    is_refused(service, tmp_path, serving("other:app", preload=False))
    service.stop()


def test_nothing_is_preloaded_while_an_application_of_somebody_elses_is_served(
    launch: Launch, tmp_path: Path, pair: dict[str, str], two: dict[str, str]
) -> None:
    """If its start failed, that one would be served on, and its processes be forked from a launcher with both."""
    service = launch(configured(tmp_path, serving("one:app", preload=False)), **two, **pair).ready()
    is_refused(service, tmp_path, serving("one:app", preload=True))
    is_served(service, tmp_path, serving("other:app", preload=False))
    service.stop()


WAITS_AT_ITS_START = """
import asyncio, os

async def app(scope, receive, send):
    while scope["type"] == "lifespan" and not os.path.exists(os.environ["GO"]):
        await asyncio.sleep(0.01)
    await responding(scope, receive, send)
"""


def test_nothing_is_preloaded_while_an_application_of_somebody_elses_starts(
    launch: Launch, tmp_path: Path, pair: dict[str, str], two: dict[str, str]
) -> None:
    (tmp_path / "waiting.py").write_text(RESPONDS.replace("app", "responding") + WAITS_AT_ITS_START)
    go = tmp_path / "go"
    service = launch(configured(tmp_path, SERVER_TOML), GO=str(go), **two, **pair).ready()
    reloaded(service, tmp_path, serving("waiting:app", preload=False))
    wait_until(lambda: len(service.server_processes) == 4, "replacements")
    is_refused(service, tmp_path, serving("other:app", preload=True))
    go.touch()
    wait_until(lambda: service.errors.path.read_text().count(" reloaded: ") == 2, "both", 20)
    service.stop()


def test_an_application_may_be_in_a_folder_that_was_not_there_at_the_start(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    folder = tmp_path / "later"
    service = launch(configured(tmp_path, SERVER_TOML), PYTHONPATH=str(folder), WORKERS="1", **pair).ready()
    folder.mkdir()
    (folder / "late.py").write_text(RESPONDS)
    is_served(service, tmp_path, serving("late:app", preload=False))
    service.stop()


def test_what_an_import_of_a_reload_prints_is_written_once(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    """And once by the process that tries it; all that is forked afterwards has what was not written."""
    (tmp_path / "printing.py").write_text("print('it is imported')\n" + RESPONDS)
    variables = {"PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "", "WORKERS": "2"}
    service = launch(configured(tmp_path, SERVER_TOML), **variables, **pair).ready()
    is_served(service, tmp_path, serving("printing:app", preload=True))
    service.stop()
    assert service.output.read_text().count("it is imported") == 2


def test_an_import_that_fails_in_the_trial_leaves_the_launcher_as_it_was(
    launch: Launch, tmp_path: Path, pair: dict[str, str], two: dict[str, str]
) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('not yet')\n")
    service = launch(configured(tmp_path, SERVER_TOML), **two, **pair).ready()
    reloaded(service, tmp_path, serving("broken:app", preload=True))
    waits_for(
        service, "broken:app cannot be imported (ValueError: not yet); correct what raises it; nothing has changed"
    )
    is_served(service, tmp_path, serving("other:app", preload=False))
    service.stop()


CHANGES = {
    "folder": "os.chdir('/')",
    "environment": "os.environ['DATASET_PATH'] = os.environ['OTHER']",
    "processors": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_preloaded_application_changes_is_no_setting(
    launch: Launch, tmp_path: Path, pair: dict[str, str], what: str
) -> None:
    """Folder, environment and processors are those of the start, for what is read after the import, too."""
    workers = len(os.sched_getaffinity(0))
    if workers < 2 and what == "processors":
        pytest.skip("one processor cannot become fewer")
    (tmp_path / "changing.py").write_text(f"import os\n{CHANGES[what]}\n{RESPONDS}")
    own = '\nport_variable = "PORT"\napplication = { import = "app:app" }\n'
    text = serving("changing:app", preload=True).replace('\nport_variable = "PORT"\n', own)
    files = {**pair, "DATASET_PATH": shortened(tmp_path / "items.json", 7)}
    environment = {name: os.path.relpath(path, ROOT) for name, path in files.items()}
    environment |= {"OTHER": shortened(tmp_path / "other.json", 3), "PYTHONPATH": f"{tmp_path}:{ROOT}", "WORKERS": ""}
    service = launch(configured(tmp_path, text), **environment)
    service.environment["WORKERS"] = str(workers)  # what is waited for
    before = service.ready().server_processes
    assert httpx.get(f"{service.url}/json/50", trust_env=False).json()["count"] == 7
    has_changed_nothing(service, before)
    service.stop()


def test_a_working_directory_that_is_made_anew_hinders_no_reload(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    folder = tmp_path / "folder"

    def made() -> None:
        folder.mkdir()
        shortened(folder / "items.json", 7)

    made()
    wrapper = ("sh", "-c", f'cd "{folder}" && exec "$@"', "sh")
    variables = {"DATASET_PATH": "items.json", "PYTHONPATH": str(ROOT), "WORKERS": "1"}
    service = launch(configured(tmp_path, SERVER_TOML), wrapper=wrapper, **variables, **pair).ready()
    shutil.rmtree(folder)
    made()
    is_served(service, tmp_path, SERVER_TOML.replace("backlog = 16384", "backlog = 100"))
    service.stop()


IGNORES_CHILDREN = """
import signal

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
"""


def test_an_application_that_ignores_sigchld_may_be_reloaded(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    (tmp_path / "ignoring.py").write_text(IGNORES_CHILDREN + RESPONDS)
    service = launch(configured(tmp_path, SERVER_TOML), PYTHONPATH=str(tmp_path), WORKERS="1", **pair).ready()
    changed = 'import = "ignoring:app"\npreload = true\n#'
    reloaded(service, tmp_path, SERVER_TOML.replace('import = "app:app"', changed))
    wait_until(lambda: service.errors.path.read_text().count(" reloaded: ") == 2, "both", 20)
    service.stop()


IMPORTED_LATE = """
import os, time

if os.path.exists(os.environ["TRIED"]):
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.01)
open(os.environ["TRIED"], "w").close()
"""


def test_reloads_that_are_asked_for_without_a_pause_are_made(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    service = launch(configured(tmp_path, SERVER_TOML), WORKERS="1", **pair).ready()
    configured(tmp_path, SERVER_TOML.replace("backlog = 16384", "backlog = 100"))
    end = time.monotonic() + 30
    while " reloaded: " not in service.errors.path.read_text():
        assert time.monotonic() < end
        service.signal(signal.SIGHUP)
        time.sleep(0.005)
    service.stop()


def test_a_stop_ends_an_import_of_a_reload(launch: Launch, tmp_path: Path, pair: dict[str, str]) -> None:
    """Its trial has ended: the launcher itself imports what is preloaded, and serves meanwhile."""
    begun = tmp_path / "begun"
    (tmp_path / "late.py").write_text(
        IMPORTED_LATE.replace("    while", f"    open({str(begun)!r}, 'w').close()\n    while") + RESPONDS
    )
    environment = {"PYTHONPATH": str(tmp_path), "TRIED": str(tmp_path / "tried"), "GO": str(tmp_path / "go")}
    service = launch(configured(tmp_path, SERVER_TOML), WORKERS="1", **environment, **pair).ready()
    late = 'import = "late:app"\npreload = true\n#'
    reloaded(service, tmp_path, SERVER_TOML.replace('import = "app:app"', late))
    wait_until(begun.exists, "the launcher's own import", 20)
    service.remember()
    service.signal(signal.SIGTERM)
    assert service.wait() == 0, service.report()
    service.gone()
    assert "late:app was not imported: a signal asked to stop; nothing has changed" in service.errors.path.read_text()


def test_what_is_written_while_settings_are_tried_is_tried_too(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    """The launcher itself imports what is preloaded: this would end it."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    (tmp_path / "late.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.01)\n{RESPONDS}"
    )
    (tmp_path / "ends.py").write_text("import os\nos._exit(7)\n")
    service = launch(configured(tmp_path, SERVER_TOML), WORKERS="1", PYTHONPATH=str(tmp_path), **pair).ready()
    before = service.server_processes

    def preloading(name: str) -> str:
        return SERVER_TOML.replace('import = "app:app"', f'import = "{name}:app"\npreload = true\n#')

    reloaded(service, tmp_path, preloading("late"))
    wait_until(begun.exists, "the trial")
    configured(tmp_path, preloading("ends"))
    go.touch()
    waits_for(service, "reload: server.toml has changed while it was tried")
    waits_for(service, "reload: the process that tries the settings has ended (exit status 7); nothing has changed")
    assert service.server_processes == before
    service.stop()


def test_an_import_of_a_reload_has_a_deadline(launch: Launch, tmp_path: Path, pair: dict[str, str]) -> None:
    (tmp_path / "late.py").write_text(IMPORTED_LATE + RESPONDS)
    environment = {"PYTHONPATH": str(tmp_path), "TRIED": str(tmp_path / "tried"), "GO": str(tmp_path / "go")}
    text = SERVER_TOML.replace("start_deadline = 30", "start_deadline = 3")
    assert text != SERVER_TOML
    service = launch(configured(tmp_path, SERVER_TOML), WORKERS="1", **environment, **pair).ready()
    before = service.server_processes
    reloaded(service, tmp_path, text.replace('import = "app:app"', 'import = "late:app"\npreload = true\n#'))
    waits_for(
        service, "late:app has not been imported within start_deadline=3 s; raise it, or import less; nothing has"
    )
    assert service.server_processes == before
    service.stop()


def test_a_reload_that_is_asked_for_during_the_start_waits_for_its_end(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    (tmp_path / "late.py").write_text(IMPORTED_LATE + RESPONDS)
    go = tmp_path / "go"
    environment = {"PYTHONPATH": str(tmp_path), "TRIED": str(tmp_path / "tried"), "GO": str(go), "WORKERS": "1"}
    service = launch(APPLICATION="late:app", APPLICATION_PRELOAD="false", **environment, **pair)
    wait_until(lambda: bool(service.server_processes), "the first server process", 20)
    service.signal(signal.SIGHUP)
    wait_until(lambda: not has_signal(service.process.pid, signal.SIGHUP, "SigPnd", "ShdPnd"), "SIGHUP to be taken")
    go.touch()
    waits_for(service, "reload: nothing that can be reloaded has changed")
    said = service.errors.path.read_text()
    assert said.index(" started after ") < said.index("reload: SIGHUP was received")
    service.stop()


def test_a_reload_waits_for_no_other_event(launch: Launch, tmp_path: Path) -> None:
    """Without a pair nothing else wakes the launcher."""
    text = (
        SERVER_TOML.partition("[[listener]]")[0] + '[[listener]]\nname = "json"\nport_variable = "PORT"\nport = 8080\n'
    )
    service = launch(configured(tmp_path, text), WORKERS="1").ready()
    reloaded(service, tmp_path, text.replace("backlog = 16384", "backlog = 100"))
    waits_for(service, " reloaded: ")
    service.stop()
