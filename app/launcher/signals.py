"""The signals that the launcher takes, one at a time, when it waits for the next event."""

import ctypes
import functools
import os
import select
import signal
import threading
from contextlib import suppress

STOP = {signal.SIGTERM, signal.SIGINT}
"""What asks to stop; SIGHUP is added by `block` if it says that a terminal is gone."""
TAKEN = STOP | {signal.SIGCHLD, signal.SIGHUP}
IGNORED = {signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTOU, signal.SIGTTIN}
"""SIGUSR1 and SIGUSR2 are an application's to take, not the launcher's; a terminal may stop who writes in the background by SIGTTOU."""
UNHEEDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} | IGNORED - {signal.SIGPIPE}
"""Signals that a server process and its workers do not heed; SIGPIPE is Python's."""
_received: set[int] = set()
"""What a thread got that has it unblocked: a preloaded application, or multiprocessing's resource tracker, may do that."""


def block() -> None:
    """Block what `take_over` takes, so that a signal that comes before is found then.

    An ignored SIGCHLD survives exec(2), and would take the exit status of children that are started before.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, not_heeded)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _receive)
    signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
    if _ends_with_its_terminal():
        STOP.add(signal.SIGHUP)


def _receive(number: int, _: object) -> None:
    _received.add(number)


def _do_not_receive() -> None:
    """Give up, in a fork, what is the launcher's; the signals that are blocked there stay so."""
    for number in TAKEN:
        if signal.getsignal(number) is _receive:
            signal.signal(number, signal.SIG_DFL)
    _received.clear()
    if _pipe.cache_info().currsize:
        signal.set_wakeup_fd(-1)
        for each in _pipe():
            os.close(each)
        _pipe.cache_clear()


os.register_at_fork(after_in_child=_do_not_receive)


def not_heeded(*_: object) -> None:
    """Do nothing: an ignored signal (SIG_IGN) would be ignored by what an application executes, too (execve(2))."""


def _ends_with_its_terminal() -> bool:
    """Return whether this process was started from a terminal, and is to end when that is closed: not with nohup.

    A container with a terminal of its own (`docker run --tty`) gets SIGHUP from whoever wants a reload alone: it has the
    session of process 1, or one that is not of its namespace (0).
    """
    if os.getpid() == 1 or os.getsid(0) in (0, 1) or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:  # there is none
        return False
    return True


def take_over() -> None:
    """Set every disposition and the mask that the launcher depends on, whatever it was started with.

    An ignored SIGCHLD, for one, survives exec(2), and then no end of a child is ever noticed.
    """
    for number in TAKEN:
        signal.signal(number, _receive)
    signal.set_wakeup_fd(_pipe()[1], warn_on_full_buffer=False)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, TAKEN)
    _descriptor()  # now, so that all children inherit the same


def heed_in_forks() -> None:
    """Let signals end a process that the application forks, as multiprocessing does; what comes at once has to wait."""
    former = threading.local()

    def block() -> None:
        former.mask = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEEDED)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, former.mask)

    def heed() -> None:
        for number in UNHEEDED:
            if signal.getsignal(number) is not_heeded:
                signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=heed)


def unblock_as_in_a_worker() -> None:
    """Let what an application starts by its import be ended by signals; this process, which `block` has made, is not."""
    heed_in_forks()
    for number in UNHEEDED:
        signal.signal(number, not_heeded)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def is_stop_pending() -> bool:
    """Return whether a signal asks to stop that has not been taken yet."""
    return bool(STOP & (signal.sigpending() | _received))


def wait(seconds: float | None) -> signal.Signals | None:
    """Return the next signal; None after `seconds` without one.

    Not by sigtimedwait(2) with a time-out: if a stop (SIGSTOP, SIGCONT) lasts beyond it, CPython returns a siginfo that
    nobody has filled in.
    """
    poll = select.poll()
    poll.register(_descriptor(), select.POLLIN)
    poll.register(_pipe()[0], select.POLLIN)
    poll.poll(0 if _received else None if seconds is None else max(0.0, seconds) * 1000)
    with suppress(BlockingIOError):  # nothing is in it
        os.read(_pipe()[0], 4096)
    for numbers in (STOP, TAKEN):  # however many others come
        if (pending := signal.sigtimedwait(numbers, 0)) is not None:
            return signal.Signals(pending.si_signo)
        for number in numbers & _received:
            _received.remove(number)
            return signal.Signals(number)
    return None


@functools.cache
def _pipe() -> tuple[int, int]:
    """Return a pipe that is readable once another thread has got a signal (signal.set_wakeup_fd)."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


@functools.cache
def _descriptor() -> int:
    """Return a descriptor that is readable while a signal of TAKEN is pending (signalfd(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    mask = ctypes.create_string_buffer(128)  # sigset_t of glibc and musl
    for number in TAKEN:
        libc.sigaddset(mask, number)
    descriptor: int = libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return descriptor
