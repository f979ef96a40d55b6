"""Renewals, and what else goes on at the time: other renewals, handshakes, requests, stops."""

import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Self

import pytest
import trustme

from bench import oracle
from tests.support.certificates import issue, leaf_of, served_leaf
from tests.support.configuration import configured, with_certificate_interval
from tests.support.http1 import read_response
from tests.support.load import Loads
from tests.support.processes import children, have_been_read, send, wait_until
from tests.support.renewals import Renewing
from tests.support.service import Launch, Service
from tests.support.wrappers import SIGNALS_IGNORED_AND_BLOCKED

SETTLED = 20.0  # seconds until a predecessor without connections has ended: 10.5 for handshakes, and its drain


class Handshake:
    """A TLS handshake that is made piece by piece."""

    def __init__(self, service: Service, context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.tls_port), timeout=10)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.hello = self.outgoing.read()

    def send_half(self) -> None:
        self.socket.sendall(self.hello[: len(self.hello) // 2])
        wait_until(lambda: have_been_read(self.socket), "the first half of the ClientHello")

    def finish(self) -> bytes | None:
        """Send the rest, verify, and return the leaf."""
        self.socket.sendall(self.hello[len(self.hello) // 2 :])
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                received = self.socket.recv(65536)
                assert received, "closed in a handshake"
                self.incoming.write(received)
            else:
                self.socket.sendall(self.outgoing.read())
                return self.tls.getpeercert(binary_form=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.mark.long
def test_the_last_of_three_quick_renewals_is_served_by_two_server_processes_at_most(
    renewing: Renewing,
) -> None:
    """Started with all signals ignored and blocked, which is to change nothing."""
    service = renewing.start(wrapper=SIGNALS_IGNORED_AND_BLOCKED, WORKERS="1")
    first = renewing.renew()
    most = 0

    def serves(leaf: bytes) -> bool:
        nonlocal most
        most = max(most, sum(bool(children(each)) for each in service.server_processes))
        return renewing.serves(leaf)

    wait_until(lambda: serves(first), "the first new leaf")
    renewing.renew()
    time.sleep(0.2)  # no condition to wait for: the second is written over while it waits
    last = renewing.renew()
    wait_until(lambda: serves(last), "the last leaf", SETTLED)
    assert most == len(service.listeners) + 1  # two of json-tls, one of each other
    assert service.errors.path.read_text().count("renewed: ") == 2
    begun = time.monotonic()
    service.stop()
    assert time.monotonic() - begun < 2
    assert service.errors.read_text() == ""


def test_a_handshake_and_a_request_begun_before_a_renewal_are_completed(
    renewing: Renewing, trust: ssl.SSLContext
) -> None:
    service = renewing.start(WORKERS="1")
    old = leaf_of(renewing.certs)
    plain = socket.create_connection(("127.0.0.1", service.tls_port), timeout=10)
    with trust.wrap_socket(plain, server_hostname="localhost") as requesting, Handshake(service, trust) as beginning:
        beginning.send_half()
        requesting.sendall(b"GET /json/7?m=2 HTTP/1.1\r\nhost: local")
        new = renewing.renew()
        wait_until(lambda: renewing.serves(new), "the new leaf")
        time.sleep(3)  # the client is that slow, and the predecessor is not to send a close notice meanwhile
        assert beginning.finish() == old
        time.sleep(1)
        requesting.sendall(b"host\r\n\r\n")
        assert read_response(requesting) == oracle.body(7, 2)
    service.stop()


@pytest.mark.xdist_group("load")
@pytest.mark.parametrize("to", ["the launcher", "all processes"])
def test_a_stop_while_a_replacement_starts_loses_no_request(renewing: Renewing, load: Loads, to: str) -> None:
    """A service manager may signal the launcher, or all processes at once (systemd's KillMode=control-group)."""
    service = renewing.start()
    assert renewing.serves(leaf_of(renewing.certs))
    loads = [load(service, listener, 64, pause=0.02) for listener in ("json-tls", "json")]
    for each in loads:
        each.opened()
        each.begin()
    wait_until(lambda: all(each.tally().responded > 200 for each in loads), "the first responses", 20)
    before = set(service.server_processes)
    renewing.renew()
    wait_until(lambda: bool(set(service.server_processes) - before), "a replacement")
    service.remember()
    service.signal(signal.SIGTERM)
    if to == "all processes":
        for pid in service.descendants:
            send(pid, signal.SIGTERM)
    assert service.wait() == 0, service.report()
    service.gone()
    for each in loads:
        tally = each.end()
        assert (tally.unresponded, tally.broken, tally.wrong, tally.waiting) == (0, 0, 0, 0), tally
    assert service.errors.read_text() == ""


def test_a_chain_written_after_its_leaf_fails_no_verification(launch: Launch, tmp_path: Path) -> None:
    """The leaf alone, of an intermediate authority, is not to be served."""
    root = trustme.CA()
    certs = tmp_path / "certs"
    issue(root.create_child_ca(), certs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root.configure_trust(context)
    service = launch(configured(tmp_path, with_certificate_interval(0))).ready()
    new = issue(root.create_child_ca(), tmp_path / "new")
    chain = (new / "server.crt").read_bytes()
    leaf, rest = chain[: chain.index(b"-----BEGIN", 1)], chain[chain.index(b"-----BEGIN", 1) :]
    (certs / "server.key").write_bytes((new / "server.key").read_bytes())
    (certs / "server.crt").write_bytes(leaf)
    service.signal(signal.SIGHUP)
    written = time.monotonic()
    complete = False

    def serves_the_new_leaf() -> bool:
        nonlocal complete
        if not complete and time.monotonic() - written > 0.3:
            with (certs / "server.crt").open("ab") as file:
                file.write(rest)
            complete = True
        return served_leaf(service, context) == leaf_of(new)  # verified at each look

    wait_until(serves_the_new_leaf, "the new leaf")
    assert all(served_leaf(service, context) == leaf_of(new) for _ in range(20))
    service.stop()
    assert service.errors.read_text() == ""
