"""Faults: what a campaign does to a running service. Each returns what it was, when the service has got over it."""

import datetime as dt
import random
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from bench import proc
from bench.listeners import ENABLED
from bench.proc import send, wait_until

GROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))  # version 1 of control groups, and version 2
RENEWED_WITHIN = 60.0  # seconds: a drain of the one before, and the renewal
KEYS: dict[str, Callable[[], rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey]] = {
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-4096": lambda: rsa.generate_private_key(65537, 4096),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
NAMES = ("server.crt", "server.key")


@dataclass
class Service:
    """A running service, and what the campaign may do to it."""

    process: subprocess.Popen[bytes]
    port: int
    tls_port: int
    folder: Path
    authority: trustme.CA
    workers: int
    group: Path | None = None
    """Its control group, by which its processes can be limited; None without the right to make one."""

    @property
    def server_processes(self) -> list[int]:
        """Those of the launcher, in the order of their start."""
        return proc.server_processes(self.process.pid)

    def worker(self) -> int:
        """Return any worker."""
        return random.choice([worker for each in self.server_processes for worker in proc.children(each)])

    def is_whole(self) -> bool:
        """Return whether it has the processes that it starts with, and no others."""
        children = proc.children(self.process.pid)
        return len(children) == len(ENABLED) and all(len(proc.children(each)) == self.workers for each in children)

    def leaf(self, timeout: float = 10.0) -> bytes:
        """Return the leaf that is served, as PEM. Raises OSError."""
        pem = ssl.get_server_certificate(("127.0.0.1", self.tls_port), timeout=timeout)
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.PEM)


def issue(authority: trustme.CA, kind: str) -> dict[str, bytes]:
    """Return the two files of a new pair for localhost, by name."""
    key = KEYS[kind]()
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101 - trustme's
    now = dt.datetime.now(dt.UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, kind)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return {
        "server.crt": leaf.public_bytes(Encoding.PEM),
        "server.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }


def in_place(folder: Path, pair: dict[str, bytes]) -> None:
    """Write the two files over what they hold, in either order."""
    for name in random.sample(NAMES, 2):
        (folder / name).write_bytes(pair[name])


def by_renaming(folder: Path, pair: dict[str, bytes]) -> None:
    """Put new files into the place of the two, in either order."""
    for name in random.sample(NAMES, 2):
        (folder / f"{name}.new").write_bytes(pair[name])
        (folder / f"{name}.new").replace(folder / name)


def by_link(folder: Path, pair: dict[str, bytes]) -> None:
    """Switch a symbolic link to a folder with both, as Kubernetes does."""
    home = folder / f"pair-{time.monotonic_ns()}"
    home.mkdir()
    for name in NAMES:
        (home / name).write_bytes(pair[name])
    (folder / "current.new").symlink_to(home)
    (folder / "current.new").replace(folder / "current")
    for name in NAMES:
        (folder / f"{name}.link").symlink_to(f"current/{name}")
        (folder / f"{name}.link").replace(folder / name)


def slowly(folder: Path, pair: dict[str, bytes]) -> None:
    """Write each file in two halves, with a moment between them."""
    for name in NAMES:
        (folder / name).unlink()
        with (folder / name).open("wb", buffering=0) as file:
            file.write(pair[name][:300])
            time.sleep(0.2)
            file.write(pair[name][300:])


def after_a_break(folder: Path, pair: dict[str, bytes]) -> None:
    """Leave an invalid pair for a while: nothing, half of a file, or the key of another."""
    name = random.choice(NAMES)
    kept = (folder / name).read_bytes()
    (folder / name).unlink()
    if random.random() < 0.7:
        (folder / name).write_bytes(random.choice([b"", kept[: len(kept) // 2], b"\0" * 100]))
    time.sleep(4)
    by_renaming(folder, pair)


WAYS = (in_place, by_renaming, by_link, slowly, after_a_break)


def renew(service: Service) -> str:
    """Replace the pair, and wait until it is served."""
    kind, way = random.choice(list(KEYS)), random.choice(WAYS)
    pair = issue(service.authority, kind)
    way(service.folder, pair)
    wait_until(lambda: service.leaf() == pair["server.crt"], f"a {kind} pair written {way.__name__}", RENEWED_WITHIN)
    return f"renewal {way.__name__}, {kind}"


def renew_without_forks(service: Service) -> str:
    """Replace the pair while no process can be forked, then let it be served."""
    if service.group is None:
        return renew(service)
    limit = service.group / "pids.max"
    allowed = int((service.group / "pids.current").read_text()) + random.randrange(12)
    pair = issue(service.authority, "P-256")
    limit.write_text(str(allowed))
    try:
        by_renaming(service.folder, pair)
        time.sleep(5)
    finally:
        limit.write_text("max")
    wait_until(lambda: service.leaf() == pair["server.crt"], "a pair after forks that failed", RENEWED_WITHIN)
    return "renewal while forks fail"


def kill_replacement(service: Service) -> str:
    """Kill a process that a renewal has just started; the renewal is tried again."""
    before = set(proc.children(service.process.pid))
    pair = issue(service.authority, "P-256")
    by_renaming(service.folder, pair)

    def new() -> set[int]:
        return set(proc.children(service.process.pid)) - before

    found: set[int] = set()
    while not found:  # the one that tries the pair may have ended meanwhile
        wait_until(lambda: bool(new()), "a process of the renewal", RENEWED_WITHIN)
        time.sleep(random.uniform(0, 0.05))
        found = new()
    victim = random.choice(sorted(found))
    whole = [victim, *proc.descendants(victim)]
    for each in whole:
        send(each, signal.SIGSTOP)
    others = [each for child in new() - {victim} for each in (child, *proc.descendants(child))]
    for each in others:
        send(each, signal.SIGSTOP)
    # If it serves already, the connections that it has would be lost. Stopped, it does not respond then. It will serve if
    # the process that asks it has its response, whose end the launcher may not have seen yet.
    wait_until(
        lambda: all(map(proc.is_running, proc.children(service.process.pid))), "the launcher's turn", RENEWED_WITHIN
    )
    time.sleep(0.1)
    try:
        serves = service.leaf(timeout=2.0) == pair["server.crt"]
    except TimeoutError:
        serves = True
    for each in whole:
        send(each, signal.SIGCONT if serves else signal.SIGKILL)
    if not serves:
        wait_until(lambda: not any(map(proc.is_running, whole)), "the end of what was killed", RENEWED_WITHIN)
    for each in others:
        send(each, signal.SIGCONT)
    wait_until(lambda: service.leaf() == pair["server.crt"], "a pair after its process was killed", RENEWED_WITHIN)
    return "renewal whose process is killed"


def hang_up(service: Service) -> str:
    """Have the launcher look at the pair, several times."""
    for _ in range(5):
        send(service.process.pid, signal.SIGHUP)
    return "SIGHUP"


def signal_all_but_the_launcher(service: Service) -> str:
    """Send a stop to server processes and workers: they take none."""
    number = random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    for each in proc.descendants(service.process.pid):
        send(each, number)
    return f"{number.name} to server processes and workers"


def pause(service: Service) -> str:
    """Stop a process for two seconds, and let it go on."""
    role, pid = random.choice(
        [
            ("launcher", service.process.pid),
            ("server process", random.choice(service.server_processes)),
            ("worker", service.worker()),
        ]
    )
    send(pid, signal.SIGSTOP)
    time.sleep(2)
    send(pid, signal.SIGCONT)
    return f"{role} stopped for 2 s"


def kill_worker(service: Service) -> str:
    """Kill a worker, and wait for another."""
    send(service.worker(), signal.SIGKILL)
    wait_until(service.is_whole, "another worker", 60)
    time.sleep(6)
    return "worker killed"


LOSSLESS = (renew, renew, renew, renew_without_forks, kill_replacement, hang_up, signal_all_but_the_launcher, pause)


@contextmanager
def control_group(name: str) -> Iterator[Path | None]:
    """Yield a new control group that limits processes (pids.max), without a limit; None if none can be made."""
    for group in (folder / name for folder in GROUPS):
        try:
            group.mkdir()
        except OSError:  # not mounted, or no right to
            continue
        try:
            if (group / "pids.max").exists():
                yield group
                return
        finally:
            _remove(group)
    yield None


def _remove(group: Path) -> None:
    """Remove an empty control group; processes that have ended leave it a moment later."""
    end = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def in_group(command: list[str], group: Path | None) -> list[str]:
    """Return the command so that it runs in a control group."""
    if group is None:
        return command
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]


def free_disk(path: Path) -> None:
    """Remove the pairs that were switched away from."""
    current = (path / "current").resolve()
    for each in path.glob("pair-*"):
        if each != current:
            shutil.rmtree(each)
