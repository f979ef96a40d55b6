"""Clients that need a certificate: served, refused, revoked; and both files renewed."""

import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from bench import oracle
from tests.support.certificates import issue, leaf_of, served_leaf
from tests.support.clients import (
    client_of,
    configuration,
    constrained,
    refusal,
    response,
    revoking,
    write_authorities,
)
from tests.support.configuration import configured
from tests.support.ports import free_port
from tests.support.processes import ROOT, clean_environment, wait_until
from tests.support.service import Launch, Service

OK = b"HTTP/1.1 200 OK"
RENEWED_WITHIN = 20.0


@pytest.fixture
def clients() -> trustme.CA:
    return trustme.CA(organization_name="clients")


@pytest.fixture
def folder(authority: trustme.CA, clients: trustme.CA, tmp_path: Path) -> Path:
    """The folder of the pair and of the clients' authority."""
    folder = issue(authority, tmp_path / "certs", "localhost", "127.0.0.1")
    write_authorities(folder, clients)
    return folder


@contextmanager
def requesting(service: Service, *contexts: ssl.SSLContext) -> Iterator[list[str]]:
    """Have each client connect and request again and again; the list gets what fails."""
    failures: list[str] = []
    counts = [0] * len(contexts)
    ending = threading.Event()

    def work(index: int, context: ssl.SSLContext) -> None:
        while not ending.is_set():
            try:
                if response(service.tls_port, context) != OK:
                    failures.append("no 200")
            except OSError as error:
                failures.append(repr(error))
            counts[index] += 1
            ending.wait(0.02)  # the rest of the machine is for other tests

    threads = [threading.Thread(target=work, args=each) for each in enumerate(contexts)]
    for each in threads:
        each.start()
    try:
        wait_until(lambda: min(counts) > 5, "the first requests")
        yield failures
        before = list(counts)
        wait_until(lambda: all(now > then + 5 for now, then in zip(counts, before, strict=True)), "more requests")
    finally:
        ending.set()
        for each in threads:
            each.join()


def is_refused(service: Service, context: ssl.SSLContext) -> bool:
    try:
        return response(service.tls_port, context) != OK
    except (ssl.SSLError, ConnectionError):  # the request may cross the alert
        return True


@pytest.mark.parametrize("protocol", ["http/1.1", "auto"])
def test_a_client_needs_a_certificate_of_the_authority(
    launch: Launch,
    authority: trustme.CA,
    clients: trustme.CA,
    trust: ssl.SSLContext,
    folder: Path,
    tmp_path: Path,
    protocol: str,
) -> None:
    service = launch(configured(tmp_path, configuration(more=f'protocol = "{protocol}"'))).ready()
    assert response(service.tls_port, client_of(clients, authority)[0]) == OK
    assert response(service.tls_port, client_of(clients.create_child_ca(), authority)[0]) == OK
    assert refusal(service.tls_port, trust) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    for other in (trustme.CA(organization_name="clients"), authority):
        assert refusal(service.tls_port, client_of(other, authority)[0]) == "TLSV1_ALERT_UNKNOWN_CA"
    described, curl, *_ = service.output.read_text().splitlines()
    assert f"; clients need a certificate ({folder}/clients.crt);" in described
    leaf = clients.issue_cert("client")
    leaf.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "client.crt"))
    pasted = subprocess.run(
        ["sh", "-c", f"{curl} -sS --write-out '%{{http_version}}'"], cwd=tmp_path, check=True, capture_output=True
    )
    assert pasted.stdout == oracle.body(5, 3) + (b"2" if protocol == "auto" else b"1.1")
    service.stop()
    assert service.errors.read_text() == ""


def test_the_health_check_asks_without_a_certificate(
    launch: Launch, clients: trustme.CA, folder: Path, tmp_path: Path
) -> None:
    argument = configured(tmp_path, configuration(revocations=True))
    (folder / "clients.crl").write_bytes(revoking(clients))
    service = launch(argument).ready()

    def checked() -> tuple[int, str]:
        command = [sys.executable, "-m", "app.launcher.probe", argument]
        result = subprocess.run(
            command, cwd=ROOT, env=service.environment, capture_output=True, text=True, check=False, timeout=20
        )
        return result.returncode, result.stderr

    assert checked() == (0, "")
    service.stop()
    assert checked() == (1, "listener json-tls does not respond\nlistener json does not respond\n")


def test_a_listener_that_asks_for_none_does_not_count_as_one_that_does(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    """The alert has to come: a handshake alone is no response."""
    assert folder
    command = [sys.executable, "-m", "app.launcher.probe", configured(tmp_path, configuration())]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={name: value for name, value in service.environment.items() if not name.startswith("TLS_C")},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (result.returncode, result.stderr) == (1, "listener json-tls does not respond\n")


def test_a_revoked_client_is_refused(
    launch: Launch, authority: trustme.CA, clients: trustme.CA, folder: Path, tmp_path: Path
) -> None:
    good, _ = client_of(clients, authority)
    bad, serial = client_of(clients, authority)
    (folder / "clients.crl").write_bytes(revoking(clients, [serial]))
    service = launch(configured(tmp_path, configuration(revocations=True))).ready()
    assert response(service.tls_port, good) == OK
    assert refusal(service.tls_port, bad) == "SSLV3_ALERT_CERTIFICATE_REVOKED"
    assert f"clients need a certificate ({folder}/clients.crt, revoked by {folder}/clients.crl);" in (
        service.output.read_text()
    )
    service.stop()


def test_each_of_two_authorities_has_its_list(
    launch: Launch, authority: trustme.CA, clients: trustme.CA, folder: Path, tmp_path: Path
) -> None:
    """Granian's parser takes the first list of a file alone."""
    others = trustme.CA(organization_name="others")
    write_authorities(folder, clients, others)
    good, (bad, serial) = client_of(others, authority)[0], client_of(others, authority)
    (folder / "clients.crl").write_bytes(revoking(clients) + b"a comment\n" + revoking(others, [serial]))
    service = launch(configured(tmp_path, configuration(revocations=True))).ready()
    assert response(service.tls_port, client_of(clients, authority)[0]) == OK
    assert response(service.tls_port, good) == OK
    assert refusal(service.tls_port, bad) == "SSLV3_ALERT_CERTIFICATE_REVOKED"
    service.stop()


def directory_name(common_name: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]))


@pytest.mark.parametrize(
    ("constraints", "refused"),
    [
        (x509.NameConstraints([directory_name("client")], None), True),
        (x509.NameConstraints(None, [directory_name("other")]), True),
        (x509.NameConstraints([x509.DNSName("client")], None), False),
        (x509.NameConstraints([x509.UniformResourceIdentifier("a.example")], None), False),
        (x509.NameConstraints(None, [x509.RFC822Name("a.example")]), False),
    ],
)
def test_what_rustls_does_not_evaluate_of_name_constraints(
    authority: trustme.CA,
    clients: trustme.CA,
    folder: Path,
    constraints: x509.NameConstraints,
    refused: bool,  # noqa: FBT001
) -> None:
    """Of Granian alone, as the launcher rejects an authority that has every client refused."""
    (folder / "clients.crt").write_bytes(constrained(clients, constraints) + b"\n" + authority.cert_pem.bytes())
    port = free_port()
    files = [("certificate", "server.crt"), ("keyfile", "server.key"), ("ca", "clients.crt")]
    options = [part for option, name in files for part in (f"--ssl-{option}", str(folder / name))]
    command = [sys.executable, "-m", "granian", "--interface", "asginl", "--port", str(port), *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ssl-client-verify", "app:app"], cwd=ROOT, env=clean_environment(), stdout=log, stderr=log
        )
    try:

        def serves() -> bool:
            try:
                return response(port, client_of(authority, authority)[0]) == OK
            except OSError:
                return False

        wait_until(serves, "a client of the other authority", 20)
        if refused:
            assert refusal(port, client_of(clients, authority)[0]) == "SSLV3_ALERT_CERTIFICATE_UNKNOWN"
        else:
            assert response(port, client_of(clients, authority)[0]) == OK
    finally:
        process.terminate()
        process.wait(10)


def test_an_authority_that_has_every_client_refused_is_not_renewed(
    launch: Launch, authority: trustme.CA, clients: trustme.CA, folder: Path, tmp_path: Path
) -> None:
    client, _ = client_of(clients, authority)
    service = launch(configured(tmp_path, configuration())).ready()
    (folder / "clients.crt").write_bytes(
        constrained(clients, x509.NameConstraints([directory_name("client")], None)),
    )
    line = "every client would be refused; have one issued anew without that; the pair from before is served on"
    wait_until(lambda: line in service.errors.read_text(), line, RENEWED_WITHIN)
    assert response(service.tls_port, client) == OK
    (folder / "clients.crt").write_bytes(constrained(clients, x509.NameConstraints([x509.DNSName("client")], None)))
    wait_until(lambda: "renewed: json-tls" in service.errors.path.read_text(), "a renewal", RENEWED_WITHIN)
    assert response(service.tls_port, client) == OK
    service.stop()


@pytest.mark.long
def test_authority_and_revocations_are_renewed_without_a_failed_handshake(
    launch: Launch, authority: trustme.CA, clients: trustme.CA, folder: Path, tmp_path: Path
) -> None:
    others = trustme.CA(organization_name="others")
    old, (old_revoked, serial), new = (
        client_of(clients, authority)[0],
        client_of(clients, authority),
        client_of(others, authority)[0],
    )
    (folder / "clients.crl").write_bytes(revoking(clients))
    service = launch(configured(tmp_path, configuration(revocations=True))).ready()
    assert response(service.tls_port, old_revoked) == OK
    assert is_refused(service, new)
    with requesting(service, old, old) as failures:
        (folder / "clients.crl").write_bytes(revoking(clients, [serial]))
        wait_until(lambda: is_refused(service, old_revoked), "the revocation", RENEWED_WITHIN)
        # An authority without its list is not taken: half of the change is on disk.
        write_authorities(folder, clients, others)
        wait_until(lambda: "holds no list of" in service.errors.read_text(), "a line", RENEWED_WITHIN)
        (folder / "clients.crl").write_bytes(revoking(clients, [serial]) + revoking(others))
        wait_until(lambda: not is_refused(service, new), "the new authority", 40)
        assert is_refused(service, old_revoked)
    assert failures == []
    assert service.errors.path.read_text().count("renewed: json-tls") == 2
    service.stop()


def test_a_pair_is_renewed_for_clients_with_certificates(
    launch: Launch, authority: trustme.CA, clients: trustme.CA, folder: Path, tmp_path: Path
) -> None:
    context, _ = client_of(clients, authority)
    service = launch(configured(tmp_path, configuration())).ready()
    with requesting(service, context) as failures:
        issue(authority, folder)
        wait_until(lambda: served_leaf(service, context) == leaf_of(folder), "the new leaf", RENEWED_WITHIN)
        time.sleep(2)  # the predecessor has some of the handshakes
    assert failures == []
    service.stop()
