"""A pair that is replaced on disk while the service runs."""

import shutil
import signal
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from bench import oracle
from tests.support.certificates import (
    Replace,
    by_renaming,
    handshake,
    in_place,
    issue,
    leaf_of,
    served_leaf,
    write_self_signed,
)
from tests.support.configuration import configured, with_certificate_interval
from tests.support.processes import wait_until
from tests.support.service import Launch, Service

RENEWED_WITHIN = 10.0  # seconds


@dataclass
class Requests:
    """Requests that go on while something happens, each on a connection of its own or all on one."""

    url: str
    context: ssl.SSLContext
    count: int = 0
    failures: list[str] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def send_until_the_end(self, *, one_connection: bool) -> None:
        while not self.ending.is_set():
            with httpx.Client(base_url=self.url, verify=self.context, trust_env=False) as client:
                for _ in range(1000 if one_connection else 1):
                    if self.ending.is_set():
                        return
                    self.send(client)
                    self.ending.wait(0.03)  # the rest of the machine is for other tests

    def send(self, client: httpx.Client) -> None:
        try:
            if client.get("/json/3?m=2").content != oracle.body(3, 2):
                self.failures.append("a wrong body")
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
        self.count += 1

    def __enter__(self) -> Self:
        self.threads = [
            threading.Thread(target=self.send_until_the_end, kwargs={"one_connection": one})
            for one in (True, False, False)
        ]
        for thread in self.threads:
            thread.start()
        wait_until(lambda: self.count > 10, "the first requests")
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.long
@pytest.mark.parametrize(
    ("workers", "replace", "order", "drained"),  # every two of the first three meet in one of the four
    [
        ("1", in_place, ("server.crt", "server.key"), True),
        ("1", by_renaming, ("server.key", "server.crt"), False),
        ("16", in_place, ("server.key", "server.crt"), False),
        ("16", by_renaming, ("server.crt", "server.key"), True),
    ],
)
def test_a_new_pair_is_served_and_no_request_fails(
    launch: Launch,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
    workers: str,
    replace: Replace,
    order: tuple[str, str],
    *,
    drained: bool,
) -> None:
    """Requests go on until the predecessor is drained, which takes 11.5 s, in two of the four."""
    folder = issue(authority, tmp_path / "certs")
    service = launch(configured(tmp_path, with_certificate_interval(1)), WORKERS=workers).ready()
    old, new = leaf_of(folder), issue(authority, tmp_path / "new")
    assert served_leaf(service, trust) == old
    with Requests(service.tls_url, trust) as requests:
        for name in order:
            replace(new / name, folder / name)
        wait_until(lambda: served_leaf(service, trust) == leaf_of(new), "the new leaf", RENEWED_WITHIN)
        if drained:
            wait_until(
                lambda: len(service.server_processes) == len(service.listeners), "the end of the predecessor", 20
            )
        before = requests.count
        wait_until(lambda: requests.count > before + 30, "thirty more requests")
    assert requests.failures == []
    assert {served_leaf(service, trust) for _ in range(20)} == {leaf_of(new)}
    assert "renewed: json-tls: https://" in service.errors.path.read_text()
    service.stop()


def test_a_switched_link_is_followed(
    launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        issue(authority, tmp_path / name)
    mount = tmp_path / "certs"
    mount.mkdir()
    (mount / "..data").symlink_to("../first")
    for name in ("server.crt", "server.key"):
        (mount / name).symlink_to(f"..data/{name}")
    service = launch(configured(tmp_path, with_certificate_interval(1))).ready()
    (mount / "..data_tmp").symlink_to("../second")
    (mount / "..data_tmp").rename(mount / "..data")
    wait_until(lambda: served_leaf(service, trust) == leaf_of(tmp_path / "second"), "the new leaf", RENEWED_WITHIN)
    service.stop()


def test_sighup_renews_at_once_and_interval_0_switches_renewal_off(
    launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    folder = issue(authority, tmp_path / "certs")
    service = launch(configured(tmp_path, with_certificate_interval(0))).ready()
    old, processes = leaf_of(folder), service.server_processes
    service.signal(signal.SIGHUP)  # with nothing new
    time.sleep(2)  # no condition to wait for: nothing may happen
    issue(authority, folder)
    time.sleep(2)  # likewise
    assert served_leaf(service, trust) == old
    assert service.server_processes == processes
    service.signal(signal.SIGHUP)
    wait_until(lambda: served_leaf(service, trust) == leaf_of(folder), "the new leaf", RENEWED_WITHIN)
    (new,) = set(service.server_processes) - set(processes)
    service.stop()
    assert service.errors.path.read_text().count("renewed: ") == 1
    old_one = processes[0]
    assert [each.message for each in service.errors.records() if "server process" in each.message] == [
        f"server process {new} has replaced {old_one}, which finishes its requests",
        f"server process {old_one}, which was replaced, has ended",
    ]


def spoil(kind: str, folder: Path, authority: trustme.CA) -> str:
    """Spoil the pair on disk; return what the line about it has to contain."""
    other = issue(authority, folder.parent / "other")
    if kind == "half-written":
        content = (other / "server.crt").read_bytes()
        (folder / "server.crt").write_bytes(content[: len(content) // 3])
        return "is not a PEM certificate chain"
    if kind == "mismatched":
        shutil.copy(other / "server.crt", folder / "server.crt")
        return "is not the key of the certificate"
    if kind == "expired":
        key = ec.generate_private_key(ec.SECP256R1())
        write_self_signed(folder, key, days=-1, names=("server.crt", "server.key"))
        return "which is not now"
    (folder / "server.key").unlink()
    return "cannot be read (No such file or directory)"


def test_an_invalid_pair_changes_nothing_and_is_reported_once(
    launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    folder = issue(authority, tmp_path / "certs")
    service = launch(configured(tmp_path, with_certificate_interval(1))).ready()
    server_processes, old = service.server_processes, leaf_of(folder)
    for number, kind in enumerate(["half-written", "mismatched", "expired", "missing"], start=1):
        said = spoil(kind, folder, authority)
        wait_until(lambda said=said: said in service.errors.read_text(), said, RENEWED_WITHIN)  # type: ignore[misc]
        for _ in range(3):
            service.signal(signal.SIGHUP)
            assert served_leaf(service, trust) == old
        assert service.server_processes == server_processes
        lines = [each for each in service.errors.read_text().splitlines() if not each.startswith("reload: ")]
        assert len(lines) == number, lines
        assert "; the pair from before is served on" in lines[-1]
    issue(authority, folder)
    wait_until(lambda: served_leaf(service, trust) == leaf_of(folder), "the pair that is right again", RENEWED_WITHIN)
    service.stop()


def leaf_of_a_whole_connection(service: Service, context: ssl.SSLContext, name: str) -> bytes | None:
    """Send a request, see close_notify end the connection, and return the leaf that was served."""
    with handshake(service, context, name) as connection:
        connection.settimeout(5)
        connection.sendall(b"GET /json/1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b""
        while chunk := connection.recv(65536):  # without close_notify: SSLEOFError, as suppress_ragged_eofs is off
            received += chunk
        assert received.endswith(oracle.body(1, 1))
        return connection.getpeercert(binary_form=True)


def test_the_arenas_hardening_check(
    launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    """30 requests while the pair is replaced, with and without SNI, none fails, each connection ends with close_notify."""

    def replace() -> bytes:
        return leaf_of(issue(authority, tmp_path / "certs", *names))

    names = ("localhost", "127.0.0.1")  # an address is never sent as SNI (RFC 6066, section 3)
    old = replace()
    service = launch(configured(tmp_path)).ready()
    assert {leaf_of_a_whole_connection(service, trust, name) for name in names} == {old}
    new = replace()
    end = time.monotonic() + 30
    served: list[bytes | None] = []
    while len(served) < 30 or served[-2:] != [new, new]:
        served += [leaf_of_a_whole_connection(service, trust, name) for name in names]
        assert set(served) <= {old, new}
        assert time.monotonic() < end
    service.stop()
