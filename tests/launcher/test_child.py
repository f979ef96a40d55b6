"""Child processes of the launcher, and those of others: who gets which exit status."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.launcher.child import Child, reap_others
from tests.support.processes import ROOT, children, is_running, wait_until


def test_reaping_others_takes_no_exit_status_of_ours() -> None:
    """In a process of its own: the test's own has children of other tests."""

    def work() -> None:
        ours = [Child(lambda status=status: sys.exit(status)) for status in (3, 4)]  # type: ignore[misc]
        stranger = os.fork()
        if stranger == 0:
            os._exit(5)
        signal.alarm(10)
        while stranger in children(os.getpid()):
            reap_others()
        while None in (codes := [each.exitcode for each in ours]):
            reap_others()
        assert codes == [3, 4]
        reap_others()  # without any child

    made = Child(work)
    wait_until(lambda: made.exitcode is not None, "the end", 15)
    assert made.exitcode == 0


RAISES_BESIDE_A_THREAD = """
import threading
from app.launcher.child import end_with

threading.Thread(target=threading.Event().wait).start()
end_with(lambda: 1 // 0)
"""


def test_an_exception_ends_a_process_in_which_a_thread_goes_on() -> None:
    """An application that is preloaded may have started one in the launcher."""
    ended = subprocess.run(
        [sys.executable, "-c", RAISES_BESIDE_A_THREAD],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


class OddStream:
    """What an application may have put in the place of a standard stream."""

    def flush(self) -> None:
        raise LookupError("an odd stream")


@pytest.mark.parametrize("odd", [OddStream(), None, "deleted"])
def test_a_process_ends_whatever_its_streams_are(odd: object) -> None:
    def work() -> None:
        setattr(sys, "stdout", odd)  # noqa: B010 - of any type
        if odd == "deleted":
            del sys.stdout

    child = Child(work)
    wait_until(lambda: child.exitcode is not None, "its end")
    assert child.exitcode == 0


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_child_has_started_outlives_it_unless_a_signal_ends_that(tmp_path: Path, *, killed: bool) -> None:
    """A worker, say, that is stopped, or that the kernel would not end with its server process any more."""
    asked, number, answer = tmp_path / "asked", tmp_path / "number", tmp_path / "answer"
    os.mkfifo(asked)

    def work() -> None:
        started = subprocess.Popen(["sh", "-c", 'read line < "$0"; echo "$line" > "$1"', asked, answer])
        number.write_text(str(started.pid))
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(1)

    made = Child(work, leads_session=True)
    wait_until(lambda: made.exitcode is not None, "its end")
    if killed:
        wait_until(lambda: not is_running(int(number.read_text())), "the end of what it has started")
    else:
        asked.write_text("alive\n")
        wait_until(lambda: answer.exists() and answer.read_text() == "alive\n", "an answer")


@pytest.mark.parametrize("leads_group", [False, True])
def test_a_child_that_somebody_else_has_reaped_has_ended(*, leads_group: bool) -> None:
    """As an application does that is imported in the launcher, and ignores SIGCHLD or waits for any child."""
    made = Child(lambda: None, leads_group=leads_group)
    os.waitpid(made.pid, 0)
    assert made.exitcode == 1
    made.kill()
