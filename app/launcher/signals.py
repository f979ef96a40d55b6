"""The signals that the launcher takes, one at a time, when it waits for the next event."""

import signal

STOP = {signal.SIGTERM, signal.SIGINT}
TAKEN = STOP | {signal.SIGCHLD, signal.SIGHUP}
IGNORED = {signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2}  # the last two are for its server processes


def block() -> None:
    """Block what `take_over` takes, so that a signal that comes before is found then."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)


def take_over() -> None:
    """Set every disposition and the mask that the launcher depends on, whatever it was started with.

    An ignored SIGCHLD, for one, survives exec(2), and then no end of a child is ever noticed.
    """
    for number in TAKEN:
        signal.signal(number, signal.SIG_DFL)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, TAKEN)


def wait(seconds: float | None) -> signal.Signals | None:
    """Return the next signal; None after `seconds` without one."""
    received = signal.sigwaitinfo(TAKEN) if seconds is None else signal.sigtimedwait(TAKEN, max(0.0, seconds))
    # CPython returns a siginfo that nobody has filled in if a stop (SIGSTOP, SIGCONT) lasted beyond the time-out.
    return signal.Signals(received.si_signo) if received is not None and received.si_signo in TAKEN else None
