"""The probe asks the listeners of the server.toml that it is given."""

import errno
import mmap
import os
import socket
import struct
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from app.launcher import probe
from app.launcher.server_process import ERROR_SIZE, Endpoint, _ask_each_worker
from app.launcher.sockets import ReuseportGroup
from app.settings import config
from tests.support.configuration import SERVER_TOML, configured
from tests.support.ports import free_port
from tests.support.processes import clean_environment
from tests.support.service import Launch, Service

LISTENER = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"}).listeners[-1]
HEAD = SERVER_TOML.partition("[[listener]]")[0]


def probed(*arguments: str, **variables: str) -> int:
    with (
        mock.patch.dict(os.environ, clean_environment() | variables, clear=True),
        mock.patch.object(sys, "argv", ["probe", *arguments]),
    ):
        return probe.main()


@pytest.mark.parametrize("way", ["--config", "CONFIG"])
def test_it_asks_the_listeners_of_the_configuration_that_is_named(
    service: Service, tmp_path: Path, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for port, status in ((service.port, 0), (free_port(), 1)):
        argument = configured(
            tmp_path, f'{HEAD}[[listener]]\nname = "alone"\nport = {port}\nport_variable = "ALONE_PORT"\n'
        )
        path = argument.partition("=")[2]
        assert (probed(argument) if way == "--config" else probed(CONFIG=path)) == status
    assert capfd.readouterr().err == "listener alone does not respond\n"


def test_an_argument_counts_more_than_the_variable(service: Service, tmp_path: Path) -> None:
    argument = configured(
        tmp_path, f'{HEAD}[[listener]]\nname = "alone"\nport = {service.port}\nport_variable = "ALONE_PORT"\n'
    )
    assert probed(argument, CONFIG=str(tmp_path / "absent.toml")) == 0
    assert probed(CONFIG=str(tmp_path / "absent.toml")) == 2


class Worn(socket.socket):
    """A socket of a machine on which no port of an address is wholly free."""

    used = ("127.0.0.1",)

    def bind(self, address: Any) -> None:  # noqa: ANN401 - socket's signature
        if address[0] in self.used:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        super().bind(address)


def test_the_health_check_needs_no_port_that_is_wholly_free(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """All may be in TIME_WAIT, of a busy client; connect(2) then takes one that is free to this port."""
    monkeypatch.setattr(socket, "socket", Worn)
    assert probed(PORT=str(service.port), TLS_PORT=str(service.tls_port)) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - it is connected to
def test_the_launcher_asks_from_another_loopback_address_if_need_be(
    service: Service, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "socket", Worn)
    listener = config.read(config.path_of(None, {}), {"PORT": str(service.port), "SELF_SIGNED": "1"}).listeners[-1]
    addresses: list[str] = []

    def note(client: socket.socket) -> None:
        addresses.append(client.getsockname()[0])

    assert probe.ask(host, listener, before_connect=note)
    monkeypatch.setattr(Worn, "used", ())
    assert probe.ask(host, listener, before_connect=note)
    assert addresses == ["127.0.0.2", "127.0.0.1"]
    monkeypatch.setattr(Worn, "used", ("127.0.0.1", "127.0.0.2"))
    with pytest.raises(OSError, match="Address already in use"):
        probe.ask(host, listener, before_connect=note)


def test_frames_without_end_are_no_response() -> None:
    """One deadline for all of HTTP/2: each empty SETTINGS frame comes in time."""
    port = free_port()
    ending = threading.Event()

    def flood(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            for _ in range(200):
                if ending.wait(0.05):
                    break
                connection.sendall(b"\0\0\0\4\1\0\0\0\0")

    listener = replace(LISTENER, port=port, protocol="h2c")
    with socket.create_server(("127.0.0.1", port)) as listening:
        thread = threading.Thread(target=flood, args=(listening,))
        thread.start()
        begun = time.monotonic()
        assert not probe.responds("127.0.0.1", listener, timeout=0.5)
        assert time.monotonic() - begun < 5
        ending.set()
        thread.join()


def test_it_speaks_tls_1_3_whatever_openssl_is_configured_for(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    """As the launcher does when it waits for its workers."""
    path = tmp_path / "openssl.cnf"
    path.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n")
    launch(OPENSSL_CONF=str(path), WORKERS="1", **pair).ready().stop()


def test_why_no_worker_responded_is_in_the_line_about_it(launch: Launch, pair: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "openssl.cnf"
    path.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nGroups = P-521\n")
    argument = configured(tmp_path, SERVER_TOML.replace("start_deadline = 30", "start_deadline = 2"))
    service = launch(argument, OPENSSL_CONF=str(path), WORKERS="1", **pair)
    assert service.wait(20) == 1
    assert "did not respond within start_deadline=2 s ([SSL" in service.errors.read_text()


def test_an_attempt_that_the_deadline_cuts_short_does_not_hide_why_those_before_failed() -> None:
    server = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"}).server
    listener = replace(LISTENER, port=free_port())
    error = mmap.mmap(-1, ERROR_SIZE)

    def reset_one_client(listening: socket.socket) -> None:
        client, _ = listening.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    with closing(ReuseportGroup(server, listener)) as group:
        sockets = group.bind(1)
        sockets[0].listen()
        group.has_filters = False  # so that all clients come to this process
        sockets[0].settimeout(10)
        thread = threading.Thread(target=reset_one_client, args=(sockets[0],))
        thread.start()
        with pytest.raises(SystemExit):
            _ask_each_worker(Endpoint(server, listener, None, None, group, sockets), (), 1, error)
        thread.join()
    assert error[:].rstrip(b"\0").decode() == f"[Errno {errno.ECONNRESET}] {os.strerror(errno.ECONNRESET)}"
