"""server.toml and the environment, through `python -m app --check`."""

import os
import re
import socket
import tomllib
from pathlib import Path

import pytest

from app.settings import tables
from tests.support.configuration import SERVER_TOML, check, configured, rejected
from tests.support.ports import free_port, free_ports
from tests.support.service import Service

LISTENERS = tomllib.loads(SERVER_TOML)["listener"]
PORT_VARIABLES = [each["port_variable"] for each in LISTENERS]


def test_check_reports_what_would_be_served_and_starts_nothing(pair: dict[str, str], tmp_path: Path) -> None:
    port, tls_port = free_ports(2)
    result = check(configured(tmp_path), PORT=str(port), TLS_PORT=str(tls_port), WORKERS="3", **pair)
    assert (result.returncode, result.stderr) == (0, "")
    lines = {line.partition(":")[0]: line for line in result.stdout.splitlines()}
    assert list(lines) == [*(each["name"] for each in LISTENERS if each.get("enabled", True)), "dataset"]
    tls, plain, dataset = lines["json-tls"], lines["json"], lines["dataset"]
    assert tls.startswith(f"json-tls: https://127.0.0.1:{tls_port} HTTP/1.1 over TLS 1.3, ALPN http/1.1, 3 workers")
    assert "localhost, 127.0.0.1" in tls
    assert plain.startswith(f"json: http://127.0.0.1:{port} HTTP/1.1, plaintext")
    assert dataset == "dataset: 50 items"


def test_the_port_variable_of_a_listener_enables_it(pair: dict[str, str]) -> None:
    assert "json-h2c" not in check(**pair).stdout
    port = free_port()
    result = check(H2C_PORT=str(port), **pair)
    named = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert named == [*(each["name"] for each in LISTENERS), "dataset"]
    assert f"json-h2c: http://127.0.0.1:{port} HTTP/2 by prior knowledge" in result.stdout


def test_no_enabled_listener_is_rejected(tmp_path: Path) -> None:
    none = "[server]" + SERVER_TOML.partition("[server]")[2].partition("[[listener]]")[0]
    off = '[[listener]]\nname = "a"\nport = 1\nport_variable = "A_PORT"\nenabled = false\n'
    assert "no listener is enabled" in rejected(configured(tmp_path, none + off))


def test_http2_in_cleartext_has_no_pair(tmp_path: Path) -> None:
    both = SERVER_TOML.replace('port_variable = "TLS_PORT"', 'port_variable = "TLS_PORT"\nprotocol = "h2c"')
    assert "listener json-tls: protocol" in rejected(configured(tmp_path, both))


def test_a_server_toml_needs_its_listeners_alone(tmp_path: Path) -> None:
    """What is left out has the value that the repository's server.toml shows."""
    listener = '[[listener]]\nname = "a"\nport = 1\n'
    least = tables.decode(tmp_path, listener.encode())
    assert least.server == tables.decode(tmp_path, SERVER_TOML.encode()).server
    result = check(configured(tmp_path, listener))
    assert (result.returncode, result.stdout.splitlines()[1:]) == (0, ["dataset: 50 items"])


def test_workers_are_counted_by_affinity() -> None:
    assert f" {len(os.sched_getaffinity(0))} worker" in check().stdout


@pytest.mark.parametrize("variable", [*PORT_VARIABLES, "WORKERS"])
@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5", "65536", "99999999999999999999", "\uff18\uff10", " 80"])
def test_an_invalid_number_is_reported_with_its_variable(variable: str, value: str) -> None:
    assert f"{variable}={value!r} is not an integer from 1 to" in rejected(**{variable: value})


@pytest.mark.parametrize("value", ["localhost", "example.org", "127.0.0.1:80", "256.0.0.1"])
def test_a_host_that_is_no_address_is_reported(value: str) -> None:
    assert f"HOST={value!r} is not an IP address" in rejected(HOST=value)


def test_a_check_is_made_beside_a_running_instance(service: Service, pair: dict[str, str]) -> None:
    result = check(PORT=str(service.port), TLS_PORT=str(service.tls_port), **pair)
    assert result.returncode == 0
    assert result.stderr.count("note: listener ") == result.stderr.count("\n") == 2
    assert f"https://127.0.0.1:{service.tls_port} " in result.stdout


def test_a_host_and_a_port_of_server_toml_are_blamed_on_it(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    text = SERVER_TOML.replace('host = "127.0.0.1"', 'host = "localhost"')
    assert f"{path}: server.host='localhost' is not an IP address; use" in rejected(configured(tmp_path, text))
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        text = SERVER_TOML.replace("port = 8080", f"port = {port}")
        result = check(configured(tmp_path, text), PORT="")
    assert f"listener json: {path}: port={port} cannot be bound on 127.0.0.1 (Address already in use)" in result.stderr


EMPTY = ("HOST", "WORKERS", "PORT", "H2C_PORT", "APPLICATION", "APPLICATION_RUNS", "APPLICATION_FACTORY", "SELF_SIGNED")


def test_an_empty_variable_counts_as_not_set(tmp_path: Path, pair: dict[str, str]) -> None:
    text = SERVER_TOML.replace("port = 8080", f"port = {free_port()}")
    empty = check(configured(tmp_path, text), **pair, **dict.fromkeys(EMPTY, ""))
    ports = {"PORT": re.findall(r"http://127\.0\.0\.1:(\d+)", empty.stdout)[0]}
    assert empty.returncode == 0, empty
    assert "json-h2c" not in empty.stdout
    assert f" {len(os.sched_getaffinity(0))} worker" in empty.stdout
    assert f"port = {ports['PORT']}" in text


def test_a_host_of_another_machine_is_reported() -> None:
    assert "cannot be bound on 192.0.2.1" in rejected(HOST="192.0.2.1")


def test_two_listeners_need_two_ports() -> None:
    port = str(free_port())
    assert f"PORT={port}: listener json would share it with listener json-tls" in rejected(PORT=port, TLS_PORT=port)


@pytest.mark.parametrize("variable", PORT_VARIABLES)
@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_taken_port_is_noted_by_a_check(variable: str, option: int) -> None:
    """The instance that runs has it; what else cannot be bound is an error."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        result = check(**{variable: port})
    assert result.returncode == 0
    assert f"{variable}={port} cannot be bound on 127.0.0.1 (Address already in use)" in result.stderr
    assert f"://127.0.0.1:{port} " in result.stdout


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (
            "backlog = 16384",
            "backlogg = 16384",
            ": server: Object contains unknown field `backlogg`; its settings are host, backlog, ",
        ),
        (
            "backlog = 16384",
            'backlog = "many"',
            ": server.backlog = 'many': Expected `int`, got `str`; give a whole number from 1 to 1048576",
        ),
        (
            "backlog = 16384",
            "backlog = 0",
            ": server.backlog = 0: Expected `int` >= 1; give a whole number from 1 to 1048576",
        ),
        ("port = 8080", "", "listener[2]: Object missing required field `port`; its settings are name, port, "),
        ("backlog = 16384", "backlog = 16384\nlog_format = 'xml'", "Invalid enum value 'xml'; give one of json, text"),
        ("backlog = 16384", "backlog = 16384\naccess_log = 'yes'", "Expected `bool`, got `str`; give true or false"),
        ('name = "json"', 'name = "json"\ntrusted_proxies = "all"', "; give a list of texts in quotes"),
        ("port = 8080", "port = 80800", ": listener[2].port = 80800: Expected `int` <= 65535; "),
        ("port = 8080", "port = true", "port"),
        ('name = "json"', 'nom = "json"', "`nom`"),
        ('name = "json"', 'name = ""', "Expected `str` of length >= 1; give a text in quotes"),
        ('name = "json"', 'name = "a\\u0000b"', "has characters that cannot be printed"),
        ("[server]", '"x - at `$.listener[99]`" = 1\n[server]', "unknown field"),
        ('name = "json"', 'name = "json-tls"', "two listeners are named json-tls"),
        ('key = "certs/server.key"', "", "`key`"),
        ("[server]", "[sever]", "sever`; its settings are server, listener, application, metrics"),
        ("[server]", "[server", "server.toml"),
        ("header_read_timeout = 30", "header_read_timeout = 61", "server.header_read_timeout = 61"),
        ("unread_timeout = 30", "unread_timeout = 0", "server.unread_timeout = 0"),
    ],
)
def test_a_mistake_in_server_toml_is_reported(tmp_path: Path, before: str, after: str, named: str) -> None:
    assert before in SERVER_TOML
    line = rejected(configured(tmp_path, SERVER_TOML.replace(before, after)))
    assert str(tmp_path / "server.toml") in line
    assert named in line


def test_a_listener_that_is_no_list_is_reported(tmp_path: Path) -> None:
    text = SERVER_TOML.partition("[[listener]]")[0] + '[listener]\nname = "json"\nport = 8080\n'
    line = rejected(configured(tmp_path, text))
    assert "listener: Expected `array`, got `object`; give one table or more, each with its name in double" in line


def test_a_missing_server_toml_is_reported(tmp_path: Path) -> None:
    assert f"--config={tmp_path}/absent.toml cannot be read" in rejected(f"--config={tmp_path}/absent.toml")
