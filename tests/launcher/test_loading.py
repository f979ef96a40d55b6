"""Importing applications: checked before anything listens, in this process or in one of its own."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from app.launcher import loading, preloading, signals
from app.launcher.child import Child
from app.launcher.trial import Stopped, Trial
from app.settings.application import ApplicationSettings
from app.settings.errors import ConfigurationError
from tests.support.configuration import SERVER_TOML, check, configured, rejected
from tests.support.ports import free_port
from tests.support.processes import ROOT, is_running, wait_until
from tests.support.service import START_DEADLINE, Launch

HERE = "tests.support.applications"
CALL = "    async def __call__(self, scope, receive, send): ...\napp = A()\n"


def settings(target: str, *, factory: bool = False) -> ApplicationSettings:
    return ApplicationSettings("APPLICATION", target, factory=factory, runs="loop", preload=False)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory for modules of a test, which are forgotten afterwards, and no others: they would be imported anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(f"{tmp_path}/"):
            del sys.modules[name]


def test_an_application_is_imported_from_the_working_directory(modules: Path) -> None:
    (modules / "mine.py").write_text("class Holder:\n    async def app(scope, receive, send): ...\nholder = Holder\n")
    assert loading.load(settings("mine:holder.app")).__name__ == "app"
    loading.check(settings("mine:Holder.app"), 30)


def test_a_factory_makes_the_application(modules: Path) -> None:
    (modules / "made.py").write_text("def create():\n    async def app(scope, receive, send): ...\n    return app\n")
    assert loading.load(settings("made:create", factory=True)).__name__ == "app"
    with pytest.raises(ConfigurationError, match="if it makes the application, set factory = true"):
        loading.load(settings("made:create"))
    (modules / "others.py").write_text(
        "async def later(): ...\nclass App:\n    def __call__(self, scope, receive, send): ...\napp = App()\n"
    )
    with pytest.raises(ConfigurationError, match="is an async function; if it is the application, remove factory"):
        loading.load(settings("others:later", factory=True))
    with pytest.raises(ConfigurationError, match="if it is the application, remove factory"):
        loading.load(settings("others:app", factory=True))
    with pytest.raises(ConfigurationError, match=r"takes no \(scope, receive, send\)"):
        loading.load(settings("os:getcwd"))


def test_the_check_leaves_this_process_as_it_was(modules: Path) -> None:
    (modules / "mine.py").write_text("import os\nos.environ['LEFT'] = '1'\nasync def app(scope, receive, send): ...\n")
    files = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing itself has one
    loading.check(settings("mine:app"), 30)
    assert "mine" not in sys.modules
    assert "LEFT" not in os.environ
    assert set(os.listdir("/proc/self/fd")) == files  # noqa: PTH208


FOUND = [
    ("app", ROOT / "app"),
    ("bench", ROOT / "bench"),
    ("bench.measurements", ROOT / "bench" / "measurements"),
    ("json", Path(json.__file__).parent),
    ("shlex", shlex.__file__),
    ("sys", "Python itself"),
]
NOT_THERE = "no module {0}.nowhere in {1}, where {0} was found; correct the name, or rename your {0} if that is another"
MISSING = [
    ("nowhere:app", "there is no module nowhere; set PYTHONPATH to the folder that holds it"),
    *((f"{package}.nowhere:app", NOT_THERE.format(package, found)) for package, found in FOUND),
    (f"{HERE}:nothing", f"module {HERE} has no attribute nothing; name one that it has"),
    (f"{HERE}:not_callable", "is str, which cannot be called; name an ASGI application"),
]


@pytest.mark.parametrize("preload", ["true", "false"])
@pytest.mark.parametrize(("target", "reason"), MISSING)
def test_what_is_missing_is_one_line(target: str, reason: str, preload: str) -> None:
    line = rejected(APPLICATION=target, APPLICATION_PRELOAD=preload)
    assert line.startswith(f"configuration: APPLICATION={target}")
    assert line.endswith(f"{reason}\n")


@pytest.mark.parametrize("preload", ["true", "false"])
@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def f():\n    raise KeyError('x\\ny')\nf()\n", r"KeyError: 'x\ny'"),
        ("import nothing_like_it\n", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("app =\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import sys\nsys.exit('no')\n", "SystemExit: no"),
        ("import os\nos.nothing\n", "AttributeError: module 'os' has no attribute 'nothing'"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt: "),
        ("class Mine(BaseException): ...\nraise Mine('no')\n", "Mine: no"),
        ("class Mine(Exception):\n    def __str__(self): raise self\nraise Mine\n", "Mine: (an error without a text)"),
        ("raise ValueError('\\udcff')\n", r"ValueError: \udcff"),
        (f"class A:\n    __signature__ = property(lambda _: 1 / 0)\n{CALL}", "ZeroDivisionError: division by zero"),
        (f"class A:\n    def __getattr__(self, name): raise OSError('no')\n{CALL}", "OSError: no"),
    ],
)
def test_an_import_that_fails_is_a_line_and_the_traceback_below(
    modules: Path, source: str, error: str, preload: str
) -> None:
    (modules / "broken.py").write_text(source)
    result = check(APPLICATION="broken:app", APPLICATION_PRELOAD=preload)
    assert result.returncode == 2
    first, *traceback = result.stderr.splitlines()
    assert first == f"configuration: APPLICATION=broken:app cannot be imported ({error}); correct what raises it"
    assert any("broken.py" in line for line in traceback)
    assert not any("importlib" in line or "loading.py" in line for line in traceback)


@pytest.mark.parametrize("preload", ["true", "false"])
def test_a_traceback_larger_than_a_pipe_is_shown(modules: Path, preload: str) -> None:
    (modules / "broken.py").write_text("raise ValueError('x' * 2**18)\n")
    result = check(APPLICATION="broken:app", APPLICATION_PRELOAD=preload)
    assert result.returncode == 2
    assert result.stderr.startswith("configuration: APPLICATION=broken:app cannot be imported (ValueError: xxx")
    assert len(result.stderr) > 2**18


def test_an_import_finds_the_event_loop_that_a_worker_has(launch: Launch, pair: dict[str, str], tmp_path: Path) -> None:
    """Python may insist on one (asyncio.get_event_loop); where a launcher preloads there is none."""
    (tmp_path / "looping.py").write_text(
        "import asyncio, uvloop\nassert isinstance(asyncio.get_event_loop(), uvloop.Loop), 'no loop'\n"
        "asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))\n"
        "from tests.support.applications import app\n"
    )
    variables = {"APPLICATION": "looping:app", "PYTHONPATH": f"{tmp_path}:{ROOT}", "WORKERS": "1"} | pair
    checked = launch("--check", **variables)
    assert checked.wait(START_DEADLINE) == 0, checked.report()
    launch(**variables).ready().stop()
    for arguments in ([], ["--check"]):
        preloading = launch(*arguments, APPLICATION_PRELOAD="true", **variables)
        assert preloading.wait(START_DEADLINE) == 2, preloading.report()
        assert "looping:app cannot be imported (" in preloading.errors.read_text()  # in which way Python decides


@pytest.mark.parametrize(
    ("ending", "status"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"), ("os._exit(0)", "exit status 0")],
)
def test_a_process_that_ends_while_it_imports_is_reported(modules: Path, ending: str, status: str) -> None:
    (modules / "ending.py").write_text(f"import os, signal\n{ending}\n")
    with pytest.raises(ConfigurationError, match=rf"ends the process that imports it \({status}\)"):
        loading.check(settings("ending:app"), 30)


def test_a_preloaded_application_that_ignores_sigchld_hinders_nothing(modules: Path, tmp_path: Path) -> None:
    """Neither the trial of a pair nor that of another listener's application."""
    (modules / "ignoring.py").write_text(
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nasync def app(scope, receive, send): ...\n"
    )
    other = '\n[[listener]]\nname = "other"\nport = PORT\napplication = { import = "app.service.arena:app" }\n'
    text = SERVER_TOML + other.replace("PORT", str(free_port()))
    before = signal.getsignal(signal.SIGCHLD)
    try:
        result = check(configured(tmp_path, text), APPLICATION="ignoring:app", APPLICATION_PRELOAD="true")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert result.returncode == 0, result.stderr


def test_an_import_that_does_not_end_is_bounded(modules: Path) -> None:
    (modules / "endless.py").write_text("import time\ntime.sleep(3600)\n")
    with pytest.raises(ConfigurationError, match="not been imported within start_deadline=1 s"):
        loading.check(settings("endless:app"), 1)


def test_a_stop_ends_an_import(modules: Path) -> None:
    (modules / "endless.py").write_text(
        "import os, pathlib, time\n"
        "if (forked := os.fork()) == 0:\n    time.sleep(3600)\n"
        "pathlib.Path('beginning').write_text(str(forked))\nos.rename('beginning', 'begun')\ntime.sleep(3600)\n"
    )

    def work() -> None:
        signals.block()
        try:
            loading.check(settings("endless:app"), 3600)
        except Stopped:
            os._exit(7)

    child = Child(work)
    try:
        wait_until((modules / "begun").exists, "the import")
        os.kill(child.pid, signal.SIGTERM)
        wait_until(lambda: child.exitcode is not None, "the end")
        assert child.exitcode == 7
        forked = int((modules / "begun").read_text())
        wait_until(lambda: not is_running(forked), "the end of what it has started")
    finally:
        child.kill()


def test_a_trial_that_is_asked_to_stop_says_so() -> None:
    def stop() -> None:
        raise Stopped

    def said() -> str:
        try:
            return "" if trial.exitcode() is None else "tried"
        except ConfigurationError as error:
            return str(error)

    with closing(Trial(stop, 60)) as trial:
        wait_until(lambda: said() != "", "its end")
        assert said() == "a signal asked the process that tries it to stop; try it again"


@pytest.mark.parametrize("ending", ["raise ValueError", "os._exit(5)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_an_import_that_a_stop_has_broken_is_no_fault_of_the_application(modules: Path, ending: str) -> None:
    """A service manager may signal every process, those that an import waits for, too."""
    (modules / "broken.py").write_text(f"import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\n{ending}\n")

    def work() -> None:
        signals.block()
        with pytest.raises(Stopped):
            loading.check(settings("broken:app"), 3600)
        os._exit(7)

    child = Child(work)
    wait_until(lambda: child.exitcode is not None, "the end")
    assert child.exitcode == 7


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("how", ["os._exit(0)", "os._exit(87)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_an_import_that_ends_its_process_is_rejected(modules: Path, how: str, *, preload: bool) -> None:
    (modules / "ending.py").write_text(f"import os, signal\n{how}\nasync def app(scope, receive, send): ...\n")
    line = rejected(APPLICATION="ending:app", APPLICATION_PRELOAD=str(preload).lower())
    assert "APPLICATION=ending:app ends the process that imports it (" in line


STUBBORN = """
import time

def catch_everything():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue

while True:
    try:
        catch_everything()
    except BaseException:
        continue
"""
THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
APPLICATION = "async def app(scope, receive, send): ...\n"


def waiting_for_signals(work: Callable[[], object], what: str) -> Child:
    """Do some work as a launcher that serves does; end with 9 if it raises that, and SIGTERM is still pending."""

    def attempt() -> None:
        signals.take_over()
        try:
            work()
        except ConfigurationError as error:
            os._exit(9 if what in str(error) and signals.wait(0) == signal.SIGTERM else 8)

    return Child(attempt)


@pytest.mark.parametrize(
    "source",
    [
        STUBBORN,
        "import time\ntime.sleep(3600)\n",
        "import time\ntry:\n    time.sleep(60)\nfinally:\n    raise MemoryError\n",
    ],
    ids=["stubborn", "asleep", "memory"],
)
def test_a_stop_ends_an_import_in_a_launcher_that_serves_and_stays_pending(modules: Path, source: str) -> None:
    (modules / "late.py").write_text(f"import pathlib\npathlib.Path('begun').touch()\n{source}")
    work = partial(preloading.load_while_serving, settings("late:app"), 3600)
    child = waiting_for_signals(work, "late:app was not imported: a signal asked to stop")
    try:
        wait_until((modules / "begun").exists, "the import")
        os.kill(child.pid, signal.SIGTERM)
        if source is STUBBORN:
            wait_until(lambda: child.exitcode is not None, "the end of the process")
            assert child.exitcode == 1
        else:
            wait_until(lambda: child.exitcode is not None, "the end of the import")
            assert child.exitcode == 9
    finally:
        child.kill()


def test_a_trial_within_a_trial_leaves_nothing_behind(modules: Path) -> None:
    """As in a reload: the outer process is ended while the inner one imports."""
    (modules / "starting.py").write_text(
        "import pathlib, subprocess, time\nstarted = subprocess.Popen(['sleep', '3600'])\n"
        "pathlib.Path('pid').write_text(str(started.pid))\npathlib.Path('pid').rename('begun')\ntime.sleep(3600)\n"
    )
    with closing(Trial(lambda: loading.check(settings("starting:app"), 60), 60)):
        wait_until((modules / "begun").exists, "the import")
        started = int((modules / "begun").read_text())
        assert is_running(started)
    wait_until(lambda: not is_running(started), "the end of what it has started")


def test_a_thread_of_an_import_takes_no_signal_of_the_launchers(modules: Path) -> None:
    (modules / "threaded.py").write_text(THREAD + APPLICATION)

    def work() -> None:
        preloading.load_while_serving(settings("threaded:app"), 60)
        signals.take_over()
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(7 if signals.wait(5) == signal.SIGTERM else 6)

    child = waiting_for_signals(work, "")
    wait_until(lambda: child.exitcode is not None, "the end")
    assert child.exitcode == 7


def test_each_import_of_a_reload_has_a_deadline(modules: Path) -> None:
    (modules / "first.py").write_text(APPLICATION)
    (modules / "late.py").write_text("import time\ntime.sleep(3600)\n")

    def work() -> None:
        preloading.load_while_serving(settings("first:app"), 1)
        with pytest.raises(ConfigurationError, match="late:app has not been imported within start_deadline=1 s"):
            preloading.load_while_serving(settings("late:app"), 1)
        assert signal.getsignal(preloading.INTERRUPT) is signal.SIG_DFL
        os._exit(7)

    child = waiting_for_signals(work, "")
    wait_until(lambda: child.exitcode is not None, "the end")
    assert child.exitcode == 7


def test_an_import_of_a_reload_may_use_sigalrm(modules: Path) -> None:
    """Nothing of the launcher's comes in between: neither its timer, nor an end by the default of the signal."""
    (modules / "alarmed.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGALRM, signal.SIG_DFL)\n"
        "time.sleep(0.3)\n"
        "def alarmed(*_):\n"
        "    raise TimeoutError\n"
        "signal.signal(signal.SIGALRM, alarmed)\n"
        "time.sleep(0.3)\n"
        "signal.setitimer(signal.ITIMER_REAL, 3600)\n"
        f"{APPLICATION}"
    )

    def work() -> None:
        preloading.load_while_serving(settings("alarmed:app"), 60)
        assert signal.getsignal(signal.SIGALRM) is sys.modules["alarmed"].alarmed
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        os._exit(7)

    child = waiting_for_signals(work, "")
    wait_until(lambda: child.exitcode is not None, "the end")
    assert child.exitcode == 7


def test_a_finder_that_has_no_caches_hinders_no_import(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of editable installs (editables 0.4, RedirectingFinder)."""

    class Finder:
        find_spec = staticmethod(lambda *_: None)
        invalidate_caches = staticmethod(lambda: 1 / 0)

    (modules / "editable.py").write_text(APPLICATION)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert callable(loading.load(settings("editable:app")))


@pytest.mark.parametrize("status", [0, 2])
def test_a_preloaded_import_that_does_not_end_ends_the_process(modules: Path, status: int) -> None:
    """With 0 when a signal asks to stop, with 2 after start_deadline."""
    (modules / "endless.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(3600)\n")

    def work() -> None:
        signals.block()
        preloading.preload(settings("endless:app"), 1 if status else 3600)

    child = Child(work)
    try:
        wait_until((modules / "begun").exists, "the import")
        if status == 0:
            os.kill(child.pid, signal.SIGTERM)
        wait_until(lambda: child.exitcode is not None, "the end")
        assert child.exitcode == status
    finally:
        child.kill()


def test_the_dataset_of_the_bundled_application_is_no_other_ones() -> None:
    nowhere = "/nowhere/dataset.json"
    assert "DATASET" in rejected(DATASET_PATH=nowhere)
    result = check(APPLICATION=f"{HERE}:app", DATASET_PATH=nowhere)
    assert (result.returncode, result.stderr.count("dataset"), result.stdout.count("dataset")) == (0, 0, 0)
    assert f"application {HERE}:app (loop)" in result.stdout
    assert "dataset: 50 items" in check().stdout


def test_want_of_memory_for_an_application_is_one_line(modules: Path) -> None:
    (modules / "large.py").write_text("raise MemoryError\n")
    for preload in "10":
        line = rejected(APPLICATION="large:app", APPLICATION_PRELOAD=preload)
        assert "APPLICATION=large:app cannot be imported: there is not enough memory; raise the limit" in line


def test_an_import_whose_traceback_cannot_be_formatted_is_reported(modules: Path) -> None:
    (modules / "odd.py").write_text("raise SyntaxError('x', ('file', 1, 1, 5))\n")
    with pytest.raises(ConfigurationError, match=r"odd:app cannot be imported \(SyntaxError: ") as raised:
        loading.load(settings("odd:app"))
    assert 'odd.py", line 1' in raised.value.details


def test_an_application_that_is_named_as_a_factory_is_reported(modules: Path) -> None:
    (modules / "plain.py").write_text("async def app(scope, receive, send): ...\n")
    line = rejected(APPLICATION="plain:app", APPLICATION_FACTORY="1")
    assert "APPLICATION=plain:app is an async function; if it is the application, remove factory, else " in line
