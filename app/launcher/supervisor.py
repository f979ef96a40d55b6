"""The processes: one Granian for each listener, started in order, watched, and stopped together."""

import ctypes
import errno
import gc
import multiprocessing
import os
import resource
import shlex
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from granian import Granian, loops
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from app.launcher import inline_loop, probe
from app.settings.certificate import Pair, SealedFile, renewal
from app.settings.config import Configuration, Listener
from app.settings.errors import ConfigurationError

STOPPED, FAILED = 0, 1
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
SIGNALS = STOP_SIGNALS | {signal.SIGCHLD, signal.SIGHUP}
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF = 51, 68  # asm-generic/socket.h
LOAD_RANDOM, MODULO, ADD, RETURN_VALUE, RETURN = (0x20, -0x1000 + 56), 0x94, 0x04, (0x16, 0), 0x06  # linux/filter.h
SETTLE = 1.0  # seconds for handshakes with a Granian that gets no new connections to be completed
FAREWELL = 0.4  # seconds in which a listener that is to stop tells its clients so
DESCRIPTORS_BESIDE_CONNECTIONS = 64
HEAD_SIZE = 2**17  # bytes of a request's head: room for hyper's longest target, a third of what Granian would take
HEADERS_SIZE = 2**16  # bytes of a request's headers over HTTP/2, where Granian would take 16 MiB
STARVED = 12  # seconds without a free descriptor that no worker recovers from: handshakes are given up after 10
GRACE = 0.5  # seconds beyond the stop deadline for Granian to kill its own workers, before all of it is killed


class StopRequested(Exception):  # noqa: N818 - not an error
    """A signal asked to stop while a listener was starting, or a Granian being replaced."""


class ListenerError(Exception):
    """A listener ended, or did not begin, without being asked to."""


def say(line: str) -> None:
    """Print a line that says what is served."""
    print(_printable(line), flush=True)


def warn(line: str) -> None:
    """Print a line about what deserves a look."""
    print(_printable(line), file=sys.stderr, flush=True)


def _printable(line: str) -> str:
    """Escape what would break a line, or could not be written: paths and the contents of files may hold anything."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)


def address(host: str, port: int) -> str:
    """Write host and port as a URL does (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe(configuration: Configuration, listener: Listener, pair: Pair | None) -> str:
    """Say in one line what a listener serves."""
    workers = f"{configuration.workers} worker{'s' if configuration.workers > 1 else ''}"
    line = f"{listener.name}: {'https' if pair else 'http'}://{address(configuration.host, listener.port)}"
    if listener.protocol == "h2c":
        return f"{line} HTTP/2 by prior knowledge, plaintext, no ALPN, {workers}"
    if pair is None:
        return f"{line} HTTP/1.1, plaintext, no ALPN, {workers}"
    return (
        f"{line} HTTP/1.1 over TLS 1.3, ALPN http/1.1, {workers}; certificate for"
        f" {', '.join(pair.names)} ({pair.origin}); SHA-256 {pair.fingerprint};"
        f" expires {pair.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; records encrypted in user space"
    )


def curl(configuration: Configuration, listener: Listener, pair: Pair | None, target: str) -> str:
    """Write a command that gets `target` from a listener, certificate verified."""
    host = probe.reachable(configuration.host)
    if pair is None:
        option = "--http2-prior-knowledge " if listener.protocol == "h2c" else ""
        return f"curl {option}'http://{address(host, listener.port)}{target}'"
    if not pair.names:
        return "(the certificate has no names: no client can verify it)"
    authority = shlex.quote(str(pair.authority))
    if host in pair.names:
        return f"curl --cacert {authority} 'https://{address(host, listener.port)}{target}'"
    name = pair.names[0].replace("*", "www")
    return (
        f"curl --cacert {authority} --connect-to '::{address(host, listener.port)}'"
        f" 'https://{address(name, listener.port)}{target}'"
    )


def bind(configuration: Configuration, listener: Listener, number: int, *, beside: bool) -> list[socket.socket]:
    """Bind a socket for each worker to a listener's port; they listen when their worker does.

    `beside` says that we hold the port already. Otherwise it has to be free: with SO_REUSEPORT alone we would share
    it with another server of the same user, and its traffic, without a word.
    """
    host = configuration.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        for index in range(number):
            each = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(each)
            each.setblocking(False)  # noqa: FBT003 - socket's signature
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former run may linger
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Granian waits for a client that does not read for ever; connections inherit this (tcp(7)).
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, configuration.unread_timeout * 1000)
            if beside or index > 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind((host, listener.port))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        close(sockets)
        raise ConfigurationError(
            f"listener {listener.name}: {listener.port_variable}={listener.port} cannot be bound on {host}"
            f" ({error.strerror}); stop what holds it, or choose another port or HOST"
        ) from error
    return sockets


def close(sockets: Sequence[socket.socket]) -> None:
    """Close this process's hold on sockets."""
    for each in sockets:
        each.close()


def steer(member: socket.socket, *program: tuple[int, int]) -> None:
    """Choose among the sockets that share a port by a classic BPF program of (code, operand) (socket(7)).

    The kernel numbers them in the order in which they began to listen; when one closes, the last takes its number.
    """
    code = b"".join(struct.pack("HBBI", operation, 0, 0, operand & 0xFFFFFFFF) for operation, operand in program)
    buffer = ctypes.create_string_buffer(code)
    member.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(program), ctypes.addressof(buffer))
    )


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
    sockets: list[socket.socket]
    process: ForkProcess

    def farewell(self) -> None:
        """Have every answer from now on be the last of its connection, so that few are closed when they are idle."""
        if self.process.is_alive() and self.process.pid is not None:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(self.process.pid, signal.SIGUSR1)

    def terminate(self) -> None:
        """Ask for the requests in flight to be answered, and no more to be taken."""
        if self.process.is_alive():
            self.process.terminate()

    def is_listening(self) -> bool:
        """Say whether every worker has begun to listen."""
        return all(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in self.sockets)

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


class _Granian(Granian):  # type: ignore[misc, valid-type]  # either of two classes, by the interpreter
    """Granian on sockets that were bound before it: connections wait in them while a worker is replaced."""

    sockets: list[socket.socket]
    spawning: int

    def _init_shared_socket(self) -> None:
        self._ssp = self._shd = self._sso = None

    def _spawn_worker(self, idx: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self.spawning = idx
        self._shd = SocketHolder(self.sockets[idx].fileno(), False, self.backlog)  # type: ignore[call-arg, assignment]  # noqa: FBT003
        return super()._spawn_worker(idx, *args, **kwargs)

    def _drop_shared_socket(self) -> None:
        close(self.sockets)  # so that nobody listens once the workers have stopped to


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone (prctl(2), PR_SET_PDEATHSIG)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it went before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def _end_when_starved(listener: Listener) -> None:
    """End this worker when it has had no free descriptor for STARVED seconds, so that another takes its place.

    Granian looks at its handshakes only while accepting succeeds (tls-listener, poll_accept): once stalled ones hold
    every descriptor none of them is given up, and nobody is served again.
    """
    starved = 0
    while starved < STARVED:
        time.sleep(1)
        try:
            os.close(os.eventfd(0))
            starved = 0
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):  # not for want of a descriptor: no reason to end
                raise
            starved += 1
    warn(
        f"listener {listener.name}: a worker had no free descriptor for {STARVED} s and is replaced; see docs/limits.md"
    )
    os._exit(1)


class Supervisor:
    """The Granians that run, and what happens to them until they are asked to stop."""

    def __init__(self, configuration: Configuration, application: Any, farewell: Callable[[], None]) -> None:  # noqa: ANN401
        """Start nothing yet."""
        self.configuration = configuration
        self.application = application
        self.farewell = farewell
        self.pid = os.getpid()
        self.bound: list[list[socket.socket]] = []  # all that this process holds, a list for each Granian
        self.serving: list[Served] = []
        self.draining: list[Served] = []  # replaced, and answering what they had received
        self.refusals: dict[str, str] = {}  # by listener: why its files' renewal is not served, as it was last told

    def start(self, listener: Listener, pair: Pair | None, sockets: list[socket.socket]) -> Served:
        """Start a Granian for a listener, as a child that dies with this process, and return when it answers."""
        process = multiprocessing.get_context("fork").Process(target=self._serve, args=(listener, pair, sockets))
        process.start()
        served = Served(listener, pair, sockets, process)
        try:
            self._await_answer(served)
        except BaseException:
            served.kill()
            close(sockets)
            raise
        return served

    def _serve(self, listener: Listener, pair: Pair | None, sockets: list[socket.socket]) -> None:
        """Be a Granian, in a process of its own."""
        os.setsid()  # a Ctrl-C on the terminal is the launcher's to handle
        _die_with(self.pid)
        signal.signal(signal.SIGUSR1, lambda *_: self.farewell())  # workers inherit this
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # Workers share what is loaded; Python 3.14 would start them afresh.
        multiprocessing.set_start_method("fork", force=True)
        for others in self.bound:
            if others is not sockets:
                close(others)
        parent = os.getpid()

        def load_application() -> Any:  # noqa: ANN401
            if os.getpid() != parent:  # a free-threaded Python's workers are threads of this process
                _die_with(parent)
                close([each for index, each in enumerate(sockets) if index != granian.spawning])
                threading.Thread(target=_end_when_starved, args=(listener,), daemon=True).start()
            return self.application

        loops.register("auto")(inline_loop.build)  # as Granian's README has it, "AsyncIO event loop initialization"
        granian = _Granian(
            "app:app",
            address=self.configuration.host,
            port=listener.port,
            interface=Interfaces.ASGINL,
            workers=self.configuration.workers,
            loop=Loops.auto,
            http=HTTPModes.http2 if listener.protocol == "h2c" else HTTPModes.http1,
            websockets=False,
            backlog=self.configuration.backlog,
            backpressure=self.configuration.backpressure,
            http1_settings=HTTP1Settings(
                max_buffer_size=HEAD_SIZE, header_read_timeout=self.configuration.header_read_timeout * 1000
            ),
            http2_settings=HTTP2Settings(
                max_headers_size=HEADERS_SIZE, keep_alive_interval=self.configuration.header_read_timeout * 1000
            ),
            log_level=LogLevels.warning,
            ssl_cert=SealedFile.of(pair.chain_pem) if pair else None,
            ssl_key=SealedFile.of(pair.key_pem) if pair else None,
            respawn_failed_workers=True,
            workers_kill_timeout=self.configuration.stop_deadline,
        )
        granian.sockets = sockets
        granian.serve(target_loader=load_application, wrap_loader=False)

    def _await_answer(self, served: Served) -> None:
        deadline = time.monotonic() + self.configuration.start_deadline
        while not (served.is_listening() and served.answers(self.configuration.host)):
            received = signal.sigtimedwait(SIGNALS, 0.05)
            if received is not None and received.si_signo in STOP_SIGNALS:
                raise StopRequested
            if (end := served.ended()) is not None:
                raise ListenerError(f"{end} before it answered")
            if time.monotonic() > deadline:
                raise ListenerError(
                    f"listener {served.listener.name} did not answer"
                    f" within start_deadline={self.configuration.start_deadline} s"
                )

    def watch(self) -> None:
        """Return when asked to stop; raise ListenerError when a listener has ended."""
        interval = self.configuration.certificate_interval or None
        look = time.monotonic() + (interval or 0)
        while True:
            for served in self.serving:
                if (end := served.ended()) is not None:
                    raise ListenerError(end)
            self._release()
            received = (
                signal.sigtimedwait(SIGNALS, max(0.0, look - time.monotonic()))
                if interval
                else signal.sigwaitinfo(SIGNALS)
            )
            number = received.si_signo if received else None
            if number in STOP_SIGNALS:
                return
            if number == signal.SIGHUP or (interval and time.monotonic() >= look):
                self.renew()
                look = time.monotonic() + (interval or 0)

    def renew(self) -> None:
        """Serve the pairs that have been replaced on disk; what cannot be served is told, and tried again next time.

        A Granian reads its pair once, so another starts on the same port and the one before it is drained.
        """
        for index, served in enumerate(self.serving):
            files = served.listener.pair_files
            if served.pair is None or files is None:
                continue
            name = served.listener.name
            try:
                pair = renewal(served.pair, files.certificate, files.key)
                if pair is not None and not self.draining:
                    self._replace(index, pair)
                    say(f"renewed: {describe(self.configuration, served.listener, pair)}")
                self.refusals.pop(name, None)
            except (ConfigurationError, ListenerError) as refusal:
                if self.refusals.get(name) != str(refusal):
                    warn(f"{refusal}; the pair from before is served on")
                self.refusals[name] = str(refusal)

    def _replace(self, index: int, pair: Pair) -> None:
        """Start another Granian on the port, send all new connections to it, and drain the one before."""
        before = self.serving[index]
        number = self.configuration.workers
        sockets = bind(self.configuration, before.listener, number, beside=True)
        self.bound.append(sockets)
        after = self.start(before.listener, pair, sockets)
        try:
            steer(sockets[0], LOAD_RANDOM, (MODULO, number), (ADD, number), RETURN_VALUE)
        except OSError as error:  # without it handshakes would be lost, so nothing is replaced
            after.kill()
            close(sockets)
            raise ListenerError(
                f"listener {before.listener.name}: no BPF program for SO_REUSEPORT here ({error.strerror});"
                f" restart the service to serve the pair that was replaced"
            ) from error
        self.serving[index] = after
        self.draining.append(before)
        before.farewell()
        if signal.sigtimedwait(STOP_SIGNALS, SETTLE) is not None:
            raise StopRequested
        before.terminate()

    def _release(self) -> None:
        """Give up the sockets of what has been drained."""
        for served in [served for served in self.draining if served.ended() is not None]:
            (heir,) = [each for each in self.serving if each.listener is served.listener]
            # One socket gets all for the moment in which the numbers change: the first that stays where it is.
            steer(heir.sockets[0], (RETURN, self.configuration.workers))
            close(served.sockets)
            heir.sockets[0].setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
            self.bound.remove(served.sockets)
            self.draining.remove(served)


def _stop(running: Sequence[Served], deadline: float) -> None:
    """Stop all within `deadline` seconds; a second signal, or the deadline, ends what is left at once."""
    end = time.monotonic() + deadline
    for served in running:
        served.farewell()
    urgent = signal.sigtimedwait(STOP_SIGNALS, FAREWELL if running else 0) is not None
    for served in running:
        served.terminate()
        close(served.sockets)
    while not urgent and any(served.process.is_alive() for served in running) and (left := end - time.monotonic()) > 0:
        received = signal.sigtimedwait(SIGNALS, left)
        urgent = received is not None and received.si_signo in STOP_SIGNALS
    for served in running:
        if served.process.is_alive():
            warn(f"listener {served.listener.name} is killed with its workers: it had not ended")
        served.kill()


def run(
    configuration: Configuration,
    pairs: Sequence[Pair | None],
    application: Any,  # noqa: ANN401 - whatever Granian can call
    farewell: Callable[[], None],
    example: str,
) -> int:
    """Serve until asked to stop, and return the exit status: STOPPED or FAILED.

    `pairs` has one for each listener, None where there is no TLS; `farewell` is called in a worker whose application is
    to tell clients that their connection ends with the answer; `example` is a target to show the user.
    SIGNALS are blocked, and stay so: they are taken one at a time where something is waited for. Raises
    ConfigurationError where a port cannot be had.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # ours to the Granians; by default it would kill the launcher
    supervisor = Supervisor(configuration, application, farewell)
    status = STOPPED
    try:
        supervisor.bound.extend(
            bind(configuration, each, configuration.workers, beside=False) for each in configuration.listeners
        )
        gc.freeze()  # what is loaded stays in pages that all workers share
        for listener, pair, sockets in zip(configuration.listeners, pairs, supervisor.bound, strict=True):
            supervisor.serving.append(supervisor.start(listener, pair, sockets))
            say(describe(configuration, listener, pair))
            say(f"  {curl(configuration, listener, pair, example)}")
        supervisor.watch()
    except StopRequested:
        pass  # before all was up, which is no failure
    except ListenerError as failure:
        warn(f"{failure}; stopping the others")
        status = FAILED
    finally:
        _stop([*supervisor.serving, *supervisor.draining], configuration.stop_deadline + GRACE)
        for sockets in supervisor.bound:
            close(sockets)
    return status
