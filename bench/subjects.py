"""The servers that are measured. Adding one is a row in SUBJECTS."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import oracle
from bench.generators import MeasurementError
from bench.variants import CANDIDATES

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Place:
    """What a subject serves, and where: a folder of its own, a free port, and a pair where it serves TLS."""

    profile: str
    folder: Path
    port: int
    spare_ports: tuple[int, int]
    certificate: Path | None
    key: Path | None
    pairs: tuple[tuple[int, int], ...]
    """The (count, m) that will be asked for: for those that serve files."""
    workers: int = 1
    """For this service alone; the others have one."""

    @property
    def tls(self) -> bool:
        """Whether it serves TLS."""
        return self.certificate is not None


Command = Callable[[Place], tuple[list[str], dict[str, str]]]


def _launcher(*module: str) -> Command:
    """Run on our launcher's settings; the other listeners idle."""

    def command(place: Place) -> tuple[list[str], dict[str, str]]:
        measured = {"json-tls": "TLS_PORT", "json-h2c": "H2C_PORT"}.get(place.profile, "PORT")
        others = [name for name in ("TLS_PORT", "PORT") if name != measured]
        environment = {measured: str(place.port), "WORKERS": str(place.workers)}
        environment |= {name: str(port) for name, port in zip(others, place.spare_ports, strict=False)}
        if place.tls:
            environment |= {"TLS_CERT": str(place.certificate), "TLS_KEY": str(place.key)}
        return [sys.executable, "-m", *module], environment

    return command


def _uvicorn(place: Place) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(place.port), "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--backlog", "16384"]
    if place.tls:
        command += ["--ssl-certfile", str(place.certificate), "--ssl-keyfile", str(place.key)]
    return command, {}


def _uvicorn_with_zlib(place: Place) -> tuple[list[str], dict[str, str]]:
    command, _ = _uvicorn(place)
    return [{"app:app": "bench.variants:app"}.get(part, part) for part in command], {"VARIANT": "gzip-zlib-1"}


def _hypercorn(place: Place) -> tuple[list[str], dict[str, str]]:
    # It looks into the module's dictionary, where `app` is only once somebody has asked for it.
    command = [sys.executable, "-m", "hypercorn", "app:__getattr__('app')", "--bind", f"127.0.0.1:{place.port}"]
    command += ["--worker-class", "uvloop", "--backlog", "16384", "--log-level", "warning"]
    if place.tls:
        command += ["--certfile", str(place.certificate), "--keyfile", str(place.key)]
    return command, {}


def _fastpysgi(place: Place) -> tuple[list[str], dict[str, str]]:
    tls = f"({str(place.certificate)!r}, {str(place.key)!r})" if place.tls else "None"
    program = (
        "import fastpysgi, app; server = fastpysgi.server; server.backlog = 16384; server.delete_all_binds();"
        f" server.add_bind('127.0.0.1', {place.port}, {tls}); fastpysgi.run(app.app, server.bindlist)"
    )
    return [sys.executable, "-c", program], {}


def _node(place: Place) -> tuple[list[str], dict[str, str]]:
    environment = {"PORT": str(place.port), "DATASET_PATH": str(oracle.BUNDLED)}
    if place.tls:
        environment |= {"TLS_CERT": str(place.certificate), "TLS_KEY": str(place.key)}
    return ["node", str(ROOT / "bench" / "node.js")], environment


def _nginx(place: Place) -> tuple[list[str], dict[str, str]]:
    for count, multiplier in place.pairs:
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


@dataclass(frozen=True)
class Subject:
    """A server, how to start it, what it is measured for, and what has to be installed for it."""

    name: str
    what: str
    command: Command
    profiles: tuple[str, ...] = HTTP1
    needs: str = sys.executable

    @property
    def is_installed(self) -> bool:
        """Whether what it needs is on this machine."""
        return shutil.which(self.needs) is not None


SUBJECTS = (
    Subject(
        "granian-json",
        "this service, on its launcher's settings",
        _launcher("app"),
        (*HTTP1, "json-comp", "json-h2c", "compressors"),
    ),
    Subject("granian-ceiling", "the same Granian with bodies ready in memory", _launcher("bench.variants", "ceiling")),
    Subject("uvicorn", "uvicorn (uvloop, httptools), the same application", _uvicorn, (*HTTP1, "json-comp")),
    Subject("uvicorn-zlib", "the same with zlib at level 1, as in its arena entry", _uvicorn_with_zlib, ("json-comp",)),
    Subject("hypercorn", "hypercorn (uvloop), the same application", _hypercorn, (*HTTP1, "json-h2c")),
    Subject("fastpysgi", "fastpysgi, the same application", _fastpysgi, (*HTTP1, "json-comp")),
    Subject("node", "node's http, JSON.stringify", _node, needs="node"),
    Subject("nginx-files", "nginx serving the same bodies as files: the limit", _nginx, needs="nginx"),
    *(
        Subject(name, "this service with another compressor", _launcher("bench.variants", name), ("compressors",))
        for name in CANDIDATES
    ),
)


class Running:
    """A subject as a tree of processes, confined to CPUs, which can be stopped and continued."""

    def __init__(self, subject: Subject, place: Place, cpus: set[int]) -> None:
        """Start it."""
        command, environment = subject.command(place)
        self.subject, self.place, self.command = subject, place, command
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.log = place.folder / "log"
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *command],
                cwd=ROOT,
                env=keep | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self.place.tls else 'http'}://127.0.0.1:{self.place.port}"

    def tree(self) -> list[psutil.Process]:
        """List its processes."""
        return [self.process, *self.process.children(recursive=True)]

    def pause(self) -> None:
        """Stop all of it (SIGSTOP), so that another can be measured."""
        for each in self.tree():
            each.suspend()

    def resume(self) -> None:
        """Let it go on."""
        for each in self.tree():
            each.resume()

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def must_be_alive(self) -> None:
        """Raise a MeasurementError where it ended while it was measured."""
        if not self.is_alive():
            raise MeasurementError("it ended while it was measured")

    def end(self) -> None:
        """End all of it."""
        tree = self.tree() if self.is_alive() else []
        if tree:
            self.resume()
            self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(tree, timeout=6)
        for each in left:
            each.kill()
        self.process.wait()


def write_environment() -> dict[str, object]:
    """Describe the machine and the versions that a result depends on."""
    from importlib.metadata import version  # noqa: PLC0415

    def first_line(*command: str) -> str:
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except FileNotFoundError:
            return "not installed"
        return (result.stdout + result.stderr).strip().splitlines()[0]

    processor = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = (
        "granian",
        "msgspec",
        "isal",
        "uvloop",
        "uvicorn",
        "httptools",
        "hypercorn",
        "fastpysgi",
        "zlib-ng",
        "brotli",
    )
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "cpu": processor[0] if processor else "unknown",
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": os.uname().release,
        "load": os.getloadavg(),
        "python": sys.version,
        "packages": {name: version(name) for name in packages},
        "programs": {
            "wrk": first_line("wrk", "-v"),
            "h2load": first_line("h2load", "--version"),
            "node": first_line("node", "--version"),
            "nginx": first_line("nginx", "-v"),
            "openssl": first_line("openssl", "version"),
        },
    }


def to_json(value: object) -> str:
    """Write a result as JSON that people can read, too."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
