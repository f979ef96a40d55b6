"""Child processes of the launcher, and those of others: who gets which exit status."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import closing

import pytest

from app.launcher import child, sockets
from app.launcher.child import Child, reap_others
from app.launcher.sockets import ReuseportGroup
from app.settings import config
from tests.support.ports import free_port
from tests.support.processes import ROOT, children, open_files, wait_until


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


def test_a_child_that_does_not_begin_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> Collection[socket.socket]:
        os.kill(os.getpid(), signal.SIGSTOP)
        return ()

    monkeypatch.setattr(child, "MADE", 0.3)
    monkeypatch.setattr(sockets, "kept_sockets", stop)
    server = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"}).server
    listener = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"}).listeners[0]
    listener = dataclasses.replace(listener, port=free_port())
    before = set(children(os.getpid())), open_files(os.getpid())
    with closing(ReuseportGroup(server, listener)) as group:
        group.bind(1)
        with pytest.raises(TimeoutError, match="did not begin within"):
            Child(lambda: None)
    assert (set(children(os.getpid())), open_files(os.getpid())) == before


def test_a_stop_waits_for_no_child_that_does_not_begin() -> None:
    """In a process of its own, in which SIGTERM is pending."""

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGSTOP))
        child.begun = lambda: None  # as if it had been stopped before
        sockets.begun = lambda: None  # type: ignore[attr-defined]
        child.MADE = 60.0
        try:
            Child(lambda: None)
        except TimeoutError:
            os._exit(7)

    made = Child(work)
    wait_until(lambda: made.exitcode is not None, "the end")
    assert made.exitcode == 7


def test_a_child_that_ends_before_it_begins_is_one_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda *_: os._exit(9))
    made = Child(lambda: None)
    assert made.exitcode == 9


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


def test_a_child_that_was_killed_may_hold_what_it_keeps_until_it_has_ended() -> None:
    with socket.socket() as kept, socket.socket() as other:
        made = Child(lambda: time.sleep(60), keeps=[kept])
        assert child.killed_holder([kept]) is None
        os.kill(made.pid, signal.SIGSTOP)
        made.is_killed = True  # and slow to die
        assert (child.killed_holder([other, kept]), child.killed_holder([other])) == (made.pid, None)
        made.keeps = None  # it has not begun
        assert child.killed_holder([other]) == made.pid
        made.kill()
        assert child.killed_holder([other]) is None


@pytest.mark.parametrize("leads_group", [False, True])
def test_a_child_that_somebody_else_has_reaped_has_ended(*, leads_group: bool) -> None:
    """As an application does that is imported in the launcher, and ignores SIGCHLD or waits for any child."""
    made = Child(lambda: None, leads_group=leads_group)
    os.waitpid(made.pid, 0)
    assert made.exitcode == 1
    made.kill()
