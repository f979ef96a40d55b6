"""The servers that are measured. Adding one: a row in SUBJECTS, its command above it, its package in results.py."""

import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import ROOT, oracle
from bench.listeners import BY_NAME, free_variables
from bench.ports import free_ports
from bench.variants import CANDIDATES


@dataclass(frozen=True)
class Place:
    """What a subject serves, and where: a folder of its own, a free port, and a pair if it serves TLS."""

    profile: str
    folder: Path
    port: int
    certificate: Path | None
    key: Path | None
    targets: tuple[tuple[int, int], ...]
    """Each (count, m) that will be requested, for subjects that serve files."""
    workers: int = 1
    """Of this service and its variants; the others have one."""

    @property
    def tls(self) -> bool:
        """Whether it serves TLS."""
        return self.certificate is not None


Command = Callable[[Place], tuple[list[str], dict[str, str]]]


ARENA = ("baseline", "limited-conn", "async", "echo", "latency")
"""The profiles that need more endpoints than the JSON service has."""
ARENA_APPLICATION = "app.service.arena:app"


def variant(name: str) -> str:
    """Return how a server imports a variant of the service."""
    return f"bench.variants:{name.replace('-', '_')}"


def _launcher(application: str | None = None, runs: str = "inline", *, metrics: bool = False) -> Command:
    """Serve the service, or another application, on the launcher's own settings; the other listeners are idle."""

    def command(place: Place) -> tuple[list[str], dict[str, str]]:
        measured = BY_NAME["json-tls" if place.tls else "json-h2c" if place.profile == "json-h2c" else "json"]
        others = free_variables(measured.name)
        environment = others | {
            measured.port_variable or "PORT": str(place.port),
            "WORKERS": str(place.workers),
            "SELF_SIGNED": "1",  # over plaintext the TLS listener, which is idle, makes a pair
        }
        if place.tls:
            environment |= {"TLS_CERT": str(place.certificate), "TLS_KEY": str(place.key)}
        if served := application or (ARENA_APPLICATION if place.profile in ARENA else None):
            environment |= {"APPLICATION": served, "APPLICATION_RUNS": runs, "APPLICATION_PRELOAD": "true"}
        if metrics:
            environment["METRICS_PORT"] = str(_row_of_free_ports(1 + len(others)))
        return [sys.executable, "-m", "app"], environment

    return command


def _row_of_free_ports(number: int) -> int:
    """Return the first of that many free ports in a row."""
    while True:
        (first,) = free_ports(1)
        with ExitStack() as stack, suppress(OSError, OverflowError):
            for port in range(first, first + number):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def _uvicorn(application: str | None = None) -> Command:
    def command(place: Place) -> tuple[list[str], dict[str, str]]:
        served = application or (ARENA_APPLICATION if place.profile in ARENA else "app:app")
        command = [sys.executable, "-m", "uvicorn", served, "--port", str(place.port), "--loop", "uvloop"]
        command += ["--interface", "asgi3"]  # which it does not take a function without `async` for
        command += ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--backlog", "16384"]
        if place.tls:
            command += ["--ssl-certfile", str(place.certificate), "--ssl-keyfile", str(place.key)]
        return command, {}

    return command


def _hypercorn(place: Place) -> tuple[list[str], dict[str, str]]:
    # It looks into the module's dictionary, where `app` is only once somebody has asked for it.
    command = [sys.executable, "-m", "hypercorn", "app:__getattr__('app')", "--bind", f"127.0.0.1:{place.port}"]
    command += ["--worker-class", "uvloop", "--backlog", "16384", "--log-level", "warning"]
    if place.tls:
        command += ["--certfile", str(place.certificate), "--keyfile", str(place.key)]
    return command, {}


def _fastpysgi(place: Place) -> tuple[list[str], dict[str, str]]:
    tls = f"({str(place.certificate)!r}, {str(place.key)!r})" if place.tls else "None"
    served = "from bench.variants import of_arena" if place.profile in ARENA else "from app import app"
    program = (
        f"import fastpysgi; {served} as served; server = fastpysgi.server; server.backlog = 16384;"
        f" server.delete_all_binds(); server.add_bind('127.0.0.1', {place.port}, {tls});"
        f" fastpysgi.run(served, server.bindlist)"
    )
    return [sys.executable, "-c", program], {}


def _node(place: Place) -> tuple[list[str], dict[str, str]]:
    environment = {"PORT": str(place.port), "DATASET_PATH": str(oracle.BUNDLED)}
    if place.tls:
        environment |= {"TLS_CERT": str(place.certificate), "TLS_KEY": str(place.key)}
    return ["node", str(ROOT / "bench" / "node.js")], environment


def _nginx(place: Place) -> tuple[list[str], dict[str, str]]:
    for count, multiplier in place.targets:
        (place.folder / f"{count}-{multiplier}.json").write_bytes(oracle.body(count, multiplier))
    tls = (
        f"ssl_certificate {place.certificate}; ssl_certificate_key {place.key}; ssl_protocols TLSv1.3;"
        if place.tls
        else ""
    )
    (place.folder / "nginx.conf").write_text(
        f"""daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {place.folder}/pid; error_log stderr error;
user root;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on; tcp_nopush on; open_file_cache max=1000;
  default_type application/json;
  server {{
    listen 127.0.0.1:{place.port} backlog=16384 {"ssl" if place.tls else ""}; {tls}
    location ~ ^/json/([0-9]+)$ {{ alias {place.folder}/$1-$arg_m.json; }}
  }}
}}
"""
    )
    return ["nginx", "-p", str(place.folder), "-c", str(place.folder / "nginx.conf")], {}


HTTP1 = ("json", "json-tls")
STARLETTE = "bench.starlette_app:app"


@dataclass(frozen=True)
class Subject:
    """A server, how to start it, what it is measured for, and what has to be installed for it."""

    name: str
    what: str
    command: Command
    profiles: tuple[str, ...] = HTTP1
    needs: str = sys.executable
    short: bool = False
    """Whether `make bench` measures it, unless `--subjects` names others."""

    @property
    def is_installed(self) -> bool:
        """Whether what it needs is on this machine."""
        return shutil.which(self.needs) is not None


SUBJECTS = (
    Subject(
        "granian-json",
        "this service, on its launcher's settings",
        _launcher(),
        (*HTTP1, "json-comp", "json-h2c", "compressors", "choices", "arena"),
        short=True,
    ),
    Subject("granian-ceiling", "the same Granian with bodies ready in memory", _launcher(variant("ceiling"))),
    Subject(
        "uvicorn",
        "uvicorn (uvloop, httptools), the same application",
        _uvicorn(),
        (*HTTP1, "json-comp", "arena"),
        short=True,
    ),
    Subject(
        "uvicorn-zlib",
        "uvicorn with zlib at level 1, as in its arena entry",
        _uvicorn(variant("gzip-zlib-1")),
        ("json-comp",),
        short=True,
    ),
    Subject("hypercorn", "hypercorn (uvloop), the same application", _hypercorn, (*HTTP1, "json-h2c")),
    Subject("fastpysgi", "fastpysgi, the same application", _fastpysgi, (*HTTP1, "json-comp", "arena"), short=True),
    Subject("node", "node's http, JSON.stringify", _node, needs="node"),
    Subject("nginx-files", "nginx serving the same bodies as files, as a measure", _nginx, needs="nginx"),
    *(
        Subject(f"starlette-{name}", f"a Starlette application on {where}", command, ("framework",), short=True)
        for name, where, command in (
            ("uvicorn", "uvicorn (uvloop, httptools)", _uvicorn(STARLETTE)),
            ("loop", "this launcher, on the loop", _launcher(STARLETTE, "loop")),
            ("inline", "this launcher, inline", _launcher(STARLETTE, "inline")),
        )
    ),
    Subject("without-inline", "this service on uvloop as it comes", _launcher("app:app", "loop"), ("choices",)),
    Subject(
        "without-freeze", "this service after gc.unfreeze in the worker", _launcher(variant("thawed")), ("choices",)
    ),
    Subject("with-metrics", "this service with METRICS_PORT", _launcher(metrics=True), ("choices",)),
    *(
        Subject(name, "this service with another compressor", _launcher(variant(name)), ("compressors",))
        for name in CANDIDATES
    ),
)
SERVICE = SUBJECTS[0].name
ASGI_SERVERS = (SERVICE, "uvicorn", "hypercorn", "fastpysgi")
"""Servers of the same application, which one can choose from."""
