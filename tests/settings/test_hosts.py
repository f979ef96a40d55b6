"""HOST in every form that an address has, and numbers and keys of server.toml that its parser fails on."""

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from app.launcher import hosts
from tests.support.configuration import SERVER_TOML, check, configured, rejected


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("fe80::1%lo", "has a zone, which is not supported"),
        ("fe80::1%" + "x" * 5000, "has a zone, which is not supported"),
        ("::ffff:224.0.0.1", "is a multicast address"),
        ("224.0.0.1", "is a multicast address"),
        ("255.255.255.255", "is a broadcast address"),
    ],
    ids=lambda text: text[:20],
)
def test_an_address_that_cannot_be_served_is_rejected(host: str, reason: str) -> None:
    line = rejected(HOST=host)
    assert reason in line
    assert len(line) < 500


def test_a_mapped_address_is_the_address(pair: dict[str, str]) -> None:
    result = check(HOST="::ffff:127.0.0.1", **pair)
    assert result.returncode == 0
    assert "https://127.0.0.1:" in result.stdout


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("backlog = " + "9" * 900, ""),
        ("backlog = " + "9" * 5000, "has a line of more than 1024 bytes; shorten it"),
        ("a." * 4000 + "a = 1", "has a line of more than 1024 bytes; shorten it"),
    ],
    ids=["integer", "longer integer", "dotted key"],
)
def test_what_the_parser_fails_on_is_reported_on_one_line(tmp_path: Path, line: str, reason: str) -> None:
    assert reason in rejected(configured(tmp_path, SERVER_TOML.replace("backlog = 16384", line)))


def test_a_machine_without_ipv4_serves_over_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with systemd's RestrictAddressFamilies=AF_UNIX AF_INET6."""

    class Restricted(socket.socket):
        def __init__(self, family: int = -1, *more: Any) -> None:  # noqa: ANN401 - socket's
            if family == socket.AF_INET:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *more)

    monkeypatch.setattr(socket, "socket", Restricted)
    hosts.check("HOST", "::1")


@pytest.mark.parametrize(
    ("host", "address", "remedy"),
    [("::", "2001:db8::1", "use 0.0.0.0, or bring up lo"), ("0.0.0.0", "192.0.2.1", "bring up lo")],  # noqa: S104
)
def test_a_machine_that_does_not_reach_itself_is_reported(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str, remedy: str
) -> None:
    monkeypatch.setattr(hosts, "reachable", lambda _: address)
    line = rejected(HOST=host)
    assert f"HOST={host}: this machine cannot reach it at {address} (" in line
    assert line.endswith(f"); {remedy}\n")
