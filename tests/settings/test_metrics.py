"""Where metrics are: METRICS_PORT, METRICS_HOST and `[metrics]`, through `python -m app --check`."""

import re
import socket
from pathlib import Path

import pytest

from app.settings import config
from app.settings.files import NamedFile
from tests.support.configuration import SERVER_TOML, check, configured, rejected
from tests.support.ports import free_port, free_row
from tests.support.processes import ROOT


def places(output: str) -> dict[str, str]:
    """Return where the metrics of each listener would be."""
    return dict(re.findall(r"^(\S+): .*; metrics at (\S+)$", output, re.MULTILINE))


def test_they_are_off_unless_a_port_is_named(tmp_path: Path, pair: dict[str, str]) -> None:
    host_alone = SERVER_TOML + '[metrics]\nhost = "0.0.0.0"\n'
    for result in (check(**pair), check(METRICS_PORT="", **pair), check(configured(tmp_path, host_alone), **pair)):
        assert (result.returncode, result.stderr) == (0, "")
        assert "metrics" not in result.stdout


def test_each_listener_has_the_next_port_in_the_order_of_server_toml(tmp_path: Path, pair: dict[str, str]) -> None:
    first = free_row(3)
    two = {
        "json-tls": f"http://127.0.0.1:{first}/metrics",
        "json": f"http://127.0.0.1:{first + 1}/metrics",
    }
    of_variable = check(METRICS_PORT=str(first), **pair)
    of_table = check(configured(tmp_path, f"{SERVER_TOML}[metrics]\nport = {first}\n"), METRICS_PORT="", **pair)
    for result in (of_variable, of_table):
        assert (result.returncode, result.stderr) == (0, "")
        assert places(result.stdout) == two
    three = check(METRICS_PORT=str(first), H2C_PORT=str(free_port()), **pair)
    assert places(three.stdout)["json"] == f"http://127.0.0.1:{first + 2}/metrics"


def test_the_variables_override_the_table(tmp_path: Path, pair: dict[str, str]) -> None:
    first = free_row(2)
    text = f'{SERVER_TOML}[metrics]\nhost = "192.0.2.1"\nport = 1\n'
    result = check(configured(tmp_path, text), METRICS_PORT=str(first), METRICS_HOST="127.0.0.2", **pair)
    assert result.returncode == 0
    assert places(result.stdout)["json-tls"] == f"http://127.0.0.2:{first}/metrics"


@pytest.mark.parametrize("value", ["x", "0", "-1", "65536"])
def test_an_invalid_port_is_reported_with_its_variable(value: str) -> None:
    assert f"METRICS_PORT={value!r} is not an integer from 1 to 65535" in rejected(METRICS_PORT=value)


def test_an_invalid_table_is_reported(tmp_path: Path) -> None:
    for text, said in (
        ("port = 65536", ": metrics.port = 65536: Expected `int` <= 65535"),
        ("port = 0", ": metrics.port = 0: Expected `int` >= 1"),
        ("prot = 9100", "unknown field `prot`"),
        ('host = "localhost"', ": metrics.host='localhost' is not an IP address; use 127.0.0.1"),
    ):
        assert said in rejected(configured(tmp_path, f"{SERVER_TOML}[metrics]\n{text}\n"))


def test_the_last_listener_needs_a_port_too() -> None:
    file = NamedFile("test", ROOT / "server.toml")
    listeners = config.read(file, {"SELF_SIGNED": "1", "METRICS_PORT": "65534"}).listeners
    assert [each.metrics.port for each in listeners if each.metrics] == [65534, 65535]
    said = "METRICS_PORT=65535: the metrics of 2 listeners need as many ports from there on, and 65535 is the last;"
    assert f"{said} choose 65534 or less" in rejected(METRICS_PORT="65535")


@pytest.mark.parametrize(("offset", "whose"), [(0, "json-tls"), (1, "json")])
def test_a_port_that_a_listener_has_is_reported(offset: int, whose: str) -> None:
    port = str(free_port())
    line = rejected(METRICS_PORT=str(int(port) - offset), PORT=port)
    said = f"the metrics of listener {whose} would have port {port}, which is that of listener json (PORT={port});"
    assert f"configuration: METRICS_PORT={int(port) - offset}: {said} choose another" in line


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("localhost", "METRICS_HOST='localhost' is not an IP address; use"),
        ("255.255.255.255", "METRICS_HOST=255.255.255.255 is a broadcast address"),
        (
            "192.0.2.1",
            "port={port} cannot be bound on 192.0.2.1 (Cannot assign requested address); choose another port",
        ),
    ],
)
def test_an_invalid_host_is_reported(host: str, said: str) -> None:
    port = free_row(2)
    assert said.format(port=port) in rejected(METRICS_PORT=str(port), METRICS_HOST=host)


@pytest.mark.parametrize("number", [1, 2])
def test_ports_that_are_taken_are_noted_by_a_check(pair: dict[str, str], number: int) -> None:
    first = free_row(2)
    with socket.create_server(("127.0.0.1", first)), socket.create_server(("127.0.0.1", first + 1)) as second:
        if number == 1:
            second.close()
        result = check(METRICS_PORT=str(first), **pair)
    assert result.returncode == 0
    assert result.stderr.count("\n") == number
    said = f"METRICS_PORT={first}: port={first} cannot be bound on 127.0.0.1 (Address already in use); stop what holds"
    assert f"note: listener json-tls: {said}" in result.stderr
