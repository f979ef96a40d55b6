"""What runs in a server process: Granian, on sockets that the launcher has bound."""

import asyncio
import multiprocessing.util
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import setproctitle
from granian import loops
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from app.launcher import granian_private, loading, log, memory, metrics, pair_trial, scheduling, signals
from app.launcher.asgi import Application
from app.launcher.checked import Checked
from app.launcher.child import IMPORT_FAILED, die_with, flush_streams, title
from app.launcher.cookies import JoinedCookies
from app.launcher.descriptors import end_when_starved_or_left, needed_by_worker, start_thread
from app.launcher.draining import CLOSE_NOTICE, DRAIN, Draining
from app.launcher.forwarded import Forwarded
from app.launcher.lingering import Lingering
from app.launcher.receiving import WholeBodies
from app.launcher.server_process import Endpoint
from app.launcher.silence import Silence
from app.launcher.sockets import close
from app.launcher.startups import Startups
from app.launcher.web_sockets import WebSockets
from app.launcher.worker_loop import InlineWorkerLoop, WorkerLoop
from app.settings.config import Listener, PairFiles
from app.settings.errors import ConfigurationError
from app.settings.sealed_file import SealedFile
from app.settings.tables import Server

HEAD_SIZE = 2**17  # bytes of a request's head: room for hyper's longest target, a third of what Granian would take
HEADERS_SIZE = 2**16  # bytes of a request's headers over HTTP/2; Granian's default is 16 MiB
OVERLAP = 0.5  # seconds in which a worker that has grown too large and its replacement both accept
PING_TIMEOUT = 20  # seconds that a client of HTTP/2 has to acknowledge a ping; Granian's default
STREAMS = 100  # at once on a connection: the least that RFC 9113, section 6.5.2, recommends
PROTOCOLS = {"http/1.1": HTTPModes.http1, "h2c": HTTPModes.http2, "auto": HTTPModes.auto}


def serve(endpoint: Endpoint, startups: Startups) -> None:
    """Serve until DRAIN comes, and note in `startups` which workers do; the calling process becomes the server process, and is one for good.

    Its caller has blocked every signal but DRAIN and CLOSE_NOTICE.
    """
    settings, listener = endpoint.server, endpoint.listener
    log.set_listener(listener.name)
    log.keep_loggers()
    patience = min(settings.stop_deadline, settings.drain_deadline) / 2
    web_sockets = WebSockets(listener.name, listener.port, settings.backpressure, patience)
    draining = Draining(
        listener.name,
        endpoint.application or _not_loaded,
        scheduling.requests_done,
        web_sockets,
        may_wait=not listener.application.is_bundled,
    )
    signal.signal(CLOSE_NOTICE, lambda *_: draining.send_close_notice())
    start_method = multiprocessing.get_start_method(allow_none=True)  # of a preloaded application; else None
    multiprocessing.set_start_method("fork", force=True)  # workers share what is loaded
    # What an application has printed may have no place (a full disk), and a worker would never be forked.
    multiprocessing.util._flush_std_streams = flush_streams  # type: ignore[attr-defined]  # noqa: SLF001
    inline = listener.application.runs == "inline"
    loop = InlineWorkerLoop if inline else WorkerLoop
    loops.register("auto")(loop.builder(draining.before_drain))  # Granian's README, "Event loop initialization"
    granian_private.schedule_by(scheduling.inline if inline else scheduling.on_loop)
    server = _build(endpoint)
    server.startups = startups
    parent = os.getpid()

    def started() -> None:
        die_with(parent)  # again: the kernel forgets it if the application changes the process's user (prctl(2))
        connections = settings.backpressure * (2 if listener.websockets else 1)
        lingering = Lingering(
            listener.port,
            is_patient=listener.protocol != "http/1.1",
            reserved=needed_by_worker(settings.workers, metered=listener.metrics is not None) + connections,
            end=startups.end,
            alone=settings.stop_deadline,
        )
        start_thread(draining.await_close_notice, lingering)
        loop = cast("WorkerLoop", asyncio.get_running_loop())
        if listener.websockets:
            start_thread(web_sockets.watch_for_ever, loop)
        loop.on_next_run = lambda: startups.note_service(server.spawning)
        startups.note(server.spawning)

    def load_application() -> Application:
        if os.getpid() != parent:
            _become_worker(server, parent, endpoint)
            multiprocessing.set_start_method(start_method, force=True)  # the application's to choose, and only once
            application = endpoint.application or _load_in_worker(listener)
            draining.application = _wrapped(application, listener, settings)
            draining.on_started = started
        return draining

    def take_orders_from_the_launcher_alone() -> None:
        # A service manager or a terminal may signal every process: the launcher then drains the others in order.
        setproctitle.setproctitle(title(f"{listener.name} server process"))
        for number in signals.UNHEEDED:
            signal.signal(number, signals.not_heeded)
        signal.signal(DRAIN, server.drain)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Set after Granian has looked at it: it would warn of lost connections, which wait in our sockets.
        server.workers_rss = 1  # so that it has the workers' sizes looked at

    let_forks_die_with(parent)
    server.on_startup(take_orders_from_the_launcher_alone)
    server.serve(target_loader=load_application, wrap_loader=False)


def let_forks_die_with(parent: int) -> None:
    """Have what this process, `parent`, forks die with it from its first moment on: its workers, not what they fork."""

    def die() -> None:
        if os.getppid() == parent:
            die_with(parent)

    os.register_at_fork(after_in_child=die)


def _wrapped(application: Application, listener: Listener, settings: Server) -> Application:
    """Return a worker's application with what its listener's settings ask for around it."""
    if not listener.application.is_ours:  # whose statuses are right
        application = WholeBodies(Checked(application))
    if listener.protocol != "http/1.1" and not listener.application.is_ours:  # ours reads no cookies
        application = JoinedCookies(application)
    if listener.trusted_proxies:
        application = Forwarded(application, listener.trusted_proxies)
    if listener.protocol == "auto":
        application = silence = Silence(application, listener.port, settings.header_read_timeout + PING_TIMEOUT)
        start_thread(silence.close_for_ever)
    return application


async def _not_loaded(*_: object) -> None:
    raise RuntimeError("only workers load the application")


def _load_in_worker(listener: Listener) -> Application:
    """Import the application in a worker. It could be imported at the start: what has changed since is reported."""
    try:
        return loading.load(listener.application)
    except ConfigurationError as error:
        log.error(str(error), details=error.details)
        sys.exit(IMPORT_FAILED)


def why_rejected(endpoint: Endpoint) -> str | None:
    """Return that rustls rejects an endpoint's pair, and why, as a line; None if it does not, or if there is no pair.

    Raises OSError if it cannot be asked.
    """
    if endpoint.pair is None:
        return None
    reason = pair_trial.why_rejected(lambda: _build(endpoint).ssl_ctx)
    if reason is None:
        return None
    files = endpoint.listener.tls
    if isinstance(files, PairFiles):
        return f"{files.certificate} and {files.key} are rejected by rustls ({reason}); have both made anew, in OpenSSL's default forms"
    return f"the pair made for this run is rejected by rustls ({reason}); set TLS_CERT and TLS_KEY"


def _build(endpoint: Endpoint) -> granian_private.Server:
    settings, listener, pair = endpoint.server, endpoint.listener, endpoint.pair
    server = granian_private.Server(
        "app:app",
        address=settings.host,
        port=listener.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        loop=Loops.auto,
        http=PROTOCOLS[listener.protocol],
        websockets=listener.websockets,
        backlog=settings.backlog,
        backpressure=settings.backpressure,
        http1_settings=HTTP1Settings(
            max_buffer_size=HEAD_SIZE, header_read_timeout=settings.header_read_timeout * 1000
        ),
        http2_settings=HTTP2Settings(
            max_headers_size=HEADERS_SIZE,
            max_concurrent_streams=STREAMS,
            keep_alive_interval=settings.header_read_timeout * 1000,
            keep_alive_timeout=PING_TIMEOUT,
        ),
        log_level=LogLevels.warning,
        log_access=settings.access_log,
        ssl_cert=SealedFile.of(pair.chain_pem) if pair else None,
        ssl_key=SealedFile.of(pair.key_pem) if pair else None,
        ssl_ca=SealedFile.of(pair.client_authority_pem) if pair and pair.client_authority_pem else None,
        ssl_crl=[SealedFile.of(each) for each in pair.client_revocations_pem] if pair else [],
        ssl_client_verify=pair is not None and pair.client_authority_pem is not None,
        respawn_failed_workers=True,
        respawn_interval=OVERLAP,
        workers_kill_timeout=settings.stop_deadline,
        process_name=title(listener.name),  # Granian adds "worker-1" to it in a worker
        reload_paths=[
            Path("/")
        ],  # never reloaded; without it Granian asks for the working directory, which may be gone
    )
    server.sockets = endpoint.sockets
    server.growth, server.start_deadline = settings.worker_growth, settings.start_deadline
    server.export_on(metrics.socket_beside(endpoint.group, endpoint.sockets))
    return server


def _become_worker(server: granian_private.Server, parent: int, endpoint: Endpoint) -> None:
    """Do in a new worker what has to be done before it serves: it keeps nothing open that is not its own."""
    die_with(parent)  # again: an error of the first is not seen
    signals.heed_in_forks()
    close([each for index, each in enumerate(endpoint.sockets) if index != server.spawning])
    for other in (*server.wrks, *([server.former] if server.former else ())):
        for descriptor in other.sentinels:
            os.close(descriptor)
    _keep_from_forks(endpoint.sockets[server.spawning])
    memory.be_killed_first()
    start_thread(end_when_starved_or_left, endpoint.listener.name, parent)


def _keep_from_forks(listening: socket.socket) -> None:
    """Close a worker's socket in what the application forks: that may outlive it, and clients would wait there for ever."""
    status = os.fstat(listening.fileno())

    def close_in_child() -> None:
        with suppress(OSError):  # Granian has closed it in a drain; its number may also be another file's by now
            if os.path.samestat(os.fstat(listening.fileno()), status):
                listening.close()

    os.register_at_fork(after_in_child=close_in_child)
