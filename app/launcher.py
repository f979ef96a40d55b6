"""The processes: one Granian for each listener, started in order, watched, and stopped together."""

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels

from app import probe
from app.certificate import Pair, SealedFile
from app.config import Configuration, Listener
from app.errors import ConfigurationError

STOPPED, FAILED = 0, 1
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
SIGNALS = STOP_SIGNALS | {signal.SIGCHLD}
PR_SET_PDEATHSIG = 1  # linux/prctl.h
DESCRIPTORS_BESIDE_CONNECTIONS = 64
GRACE = 0.5  # seconds beyond the stop deadline for Granian to kill its own workers, before all of it is killed


class StopRequested(Exception):  # noqa: N818 - not an error
    """A signal asked to stop while the listeners were starting."""


class ListenerError(Exception):
    """A listener ended, or did not begin, without being asked to."""


def say(line: str) -> None:
    """Print a line that says what is served."""
    print(line, flush=True)


def warn(line: str) -> None:
    """Print a line about what deserves a look."""
    print(line, file=sys.stderr, flush=True)


def address(host: str, port: int) -> str:
    """Write host and port as a URL does (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe(configuration: Configuration, listener: Listener, pair: Pair | None) -> str:
    """Say in one line what a listener serves."""
    plural = "s" if configuration.workers > 1 else ""
    line = f"{listener.name}: {'https' if pair else 'http'}://{address(configuration.host, listener.port)}"
    if pair is None:
        return f"{line} HTTP/1.1, plaintext, no ALPN, {configuration.workers} worker{plural}"
    return (
        f"{line} HTTP/1.1 over TLS 1.3, ALPN http/1.1, {configuration.workers} worker{plural}; certificate for"
        f" {', '.join(pair.names)} ({pair.origin}); SHA-256 {pair.fingerprint};"
        f" expires {pair.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; records encrypted in user space"
    )


def curl(configuration: Configuration, listener: Listener, pair: Pair | None, target: str) -> str:
    """Write a command that gets `target` from a listener, certificate verified."""
    host = probe.reachable(configuration.host)
    if pair is None:
        return f"curl 'http://{address(host, listener.port)}{target}'"
    if host in pair.names:
        return f"curl --cacert {pair.authority} 'https://{address(host, listener.port)}{target}'"
    name = pair.names[0].replace("*", "www") if pair.names else host
    return (
        f"curl --cacert {pair.authority} --connect-to '::{address(host, listener.port)}'"
        f" 'https://{address(name, listener.port)}{target}'"
    )


def reserve(host: str, listener: Listener) -> socket.socket:
    """Take a listener's port, or say that it is taken.

    Granian would bind beside another of the same user without a word (SO_REUSEPORT) and share its traffic.
    The socket that is returned never listens; while it is open nobody without SO_REUSEPORT gets the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reservation = socket.socket(family, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former run may linger
    try:
        reservation.bind((host, listener.port))
    except OSError as error:
        reservation.close()
        raise ConfigurationError(
            f"listener {listener.name}: {listener.port_variable}={listener.port} cannot be bound on {host}"
            f" ({error.strerror}); stop what holds it, or choose another port or HOST"
        ) from error
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reservation


def raise_descriptor_limit(backpressure: int) -> int:
    """Raise the limit on open files as far as it goes; return how many connections a worker may then keep.

    Never more than `backpressure`. A worker at its limit of files would spin on accept(2) instead of waiting.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = backpressure if hard == resource.RLIM_INFINITY else hard - DESCRIPTORS_BESIDE_CONNECTIONS
    if room < backpressure:
        warn(
            f"backpressure={backpressure} needs {backpressure + DESCRIPTORS_BESIDE_CONNECTIONS} open files for a worker,"
            f" and the hard limit is {hard}: each worker keeps {max(room, 1)} connections; raise it (ulimit -Hn, --ulimit)"
        )
    return max(1, min(room, backpressure))


@dataclass
class Served:
    """A listener and the Granian that serves it."""

    listener: Listener
    pair: Pair | None
    process: ForkProcess

    def terminate(self) -> None:
        """Ask for the requests in flight to be answered, and no more to be taken."""
        if self.process.is_alive():
            self.process.terminate()

    def kill(self) -> None:
        """End it and its workers at once; each Granian leads a process group."""
        if self.process.is_alive() and self.process.pid is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # so young that it does not lead its group yet
                self.process.kill()
        self.process.join()

    def ended(self) -> str | None:
        """Say how it ended; None while it runs."""
        code = self.process.exitcode
        if code is None:
            return None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"listener {self.listener.name} ended ({how})"

    def answers(self, host: str) -> bool:
        """Say whether it answers a request, and with the pair that it was given."""
        leaf = self.pair.leaf.public_bytes(Encoding.DER) if self.pair else None
        return probe.answers(host, self.listener, leaf)


def start(configuration: Configuration, listener: Listener, pair: Pair | None, application: Any) -> Served:  # noqa: ANN401
    """Start Granian for a listener, as a child that dies with this process."""
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(configuration, listener, pair, application, os.getpid())
    )
    process.start()
    return Served(listener, pair, process)


def _serve(
    configuration: Configuration,
    listener: Listener,
    pair: Pair | None,
    application: Any,  # noqa: ANN401 - whatever Granian can call
    launcher: int,
) -> None:
    """Be a Granian, in a process of its own."""
    os.setsid()  # a Ctrl-C on the terminal is the launcher's to handle
    _die_with(launcher)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    multiprocessing.set_start_method("fork", force=True)  # workers share what is loaded; 3.14 would start them afresh
    granian = os.getpid()

    def load_application() -> Any:  # noqa: ANN401
        if os.getpid() != granian:  # a free-threaded Python's workers are threads of this process
            _die_with(granian)
        return application

    Granian(
        "app:app",
        address=configuration.host,
        port=listener.port,
        interface=Interfaces.ASGINL,
        workers=configuration.workers,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        backlog=configuration.backlog,
        backpressure=configuration.backpressure,
        http1_settings=HTTP1Settings(header_read_timeout=configuration.header_read_timeout * 1000),
        log_level=LogLevels.warning,
        ssl_cert=SealedFile.of(pair.chain_pem) if pair else None,
        ssl_key=SealedFile.of(pair.key_pem) if pair else None,
        respawn_failed_workers=True,
        workers_kill_timeout=configuration.stop_deadline,
    ).serve(target_loader=load_application, wrap_loader=False)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone (prctl(2), PR_SET_PDEATHSIG)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it went before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def _await_answer(served: Served, configuration: Configuration) -> None:
    deadline = time.monotonic() + configuration.start_deadline
    while not served.answers(configuration.host):
        received = signal.sigtimedwait(SIGNALS, 0.05)
        if received is not None and received.si_signo in STOP_SIGNALS:
            raise StopRequested
        if (end := served.ended()) is not None:
            raise ListenerError(f"{end} before it answered")
        if time.monotonic() > deadline:
            raise ListenerError(
                f"listener {served.listener.name} did not answer within start_deadline={configuration.start_deadline} s"
            )


def _await_signal(running: Sequence[Served]) -> None:
    """Return when asked to stop; raise ListenerError when a listener has ended."""
    while True:
        for served in running:
            if (end := served.ended()) is not None:
                raise ListenerError(end)
        if signal.sigwaitinfo(SIGNALS).si_signo in STOP_SIGNALS:
            return


def _stop(running: Sequence[Served], deadline: float) -> None:
    """Stop all within `deadline` seconds; a second signal, or the deadline, ends what is left at once."""
    for served in running:
        served.terminate()
    end = time.monotonic() + deadline
    while any(served.process.is_alive() for served in running) and (left := end - time.monotonic()) > 0:
        received = signal.sigtimedwait(SIGNALS, left)
        if received is not None and received.si_signo in STOP_SIGNALS:
            break
    for served in running:
        if served.process.is_alive():
            warn(f"listener {served.listener.name} is killed with its workers: it had not ended")
        served.kill()


def run(
    configuration: Configuration,
    pairs: Sequence[Pair | None],
    application: Any,  # noqa: ANN401 - whatever Granian can call
    example: str,
) -> int:
    """Serve until asked to stop, and return the exit status: STOPPED or FAILED.

    `pairs` has one for each listener, None where there is no TLS; `example` is a target to show the user.
    Raises ConfigurationError where a port cannot be had.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    reservations: list[socket.socket] = []
    running: list[Served] = []
    status = STOPPED
    try:
        reservations.extend(reserve(configuration.host, listener) for listener in configuration.listeners)
        gc.freeze()  # what is loaded stays in pages that all workers share
        for listener, pair in zip(configuration.listeners, pairs, strict=True):
            running.append(start(configuration, listener, pair, application))
            _await_answer(running[-1], configuration)
            say(describe(configuration, listener, pair))
            say(f"  {curl(configuration, listener, pair, example)}")
        _await_signal(running)
    except StopRequested:
        pass  # before all was up, which is no failure
    except ListenerError as failure:
        warn(f"{failure}; stopping the others")
        status = FAILED
    finally:
        _stop(running, configuration.stop_deadline + GRACE)
        for reservation in reservations:
            reservation.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return status
