"""Numbers at the ends of their ranges, values of any length, and files of any size: accepted, or rejected on one line."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import config
from app.settings.errors import ConfigurationError
from app.settings.files import NamedFile
from tests.support.configuration import SERVER_TOML, check, configured, rejected
from tests.support.processes import ROOT, clean_environment
from tests.support.service import with_free_ports

RANGES = {
    "backlog": (1, 2**20),
    "backpressure": (1, 2**20),
    "header_read_timeout": (1, 60),
    "unread_timeout": (1, 3600),
    "worker_growth": (64, 2**20),
    "start_deadline": (1, 3600),
    "certificate_interval": (0, 86400),
    "drain_deadline": (1, 3600),
    "stop_deadline": (1, 3600),
    "workers": (1, 512),
}


def server_with(name: str, value: int) -> str:
    """Return the project's server.toml with another number."""
    text, found = re.subn(rf"(?m)^(# )?{name} = \d+", f"{name} = {value}", SERVER_TOML)
    assert found == 1
    return text


def test_every_number_of_the_server_table_has_a_range_here() -> None:
    table = SERVER_TOML.partition("[server]\n")[2].partition("[[listener]]")[0]
    assert set(re.findall(r"(?m)^(?:# )?(\w+) = \d+", table)) == set(RANGES)


@pytest.mark.parametrize("name", RANGES)
def test_a_number_is_accepted_at_both_ends_of_its_range_and_not_beyond(
    tmp_path: Path, pair: dict[str, str], name: str
) -> None:
    least, most = RANGES[name]
    for value in (least, most):
        result = check(configured(tmp_path, server_with(name, value)), **pair)
        assert result.returncode == 0, result
    for value in (least - 1, most + 1, 2**31, 2**63, 2**64):
        assert f": server.{name} = {value}: " in rejected(configured(tmp_path, server_with(name, value)), **pair)


def test_workers_and_ports_of_the_environment_have_the_ranges_of_server_toml(
    tmp_path: Path, pair: dict[str, str]
) -> None:
    assert check(WORKERS="512", **pair).returncode == 0
    assert "WORKERS='513' is not an integer from 1 to 512" in rejected(WORKERS="513", **pair)
    assert "server.workers = 513: Expected `int` <= 512" in rejected(
        configured(tmp_path, server_with("workers", 513)), **pair
    )
    file = NamedFile("--config", ROOT / "server.toml")
    for port in ("1", "65535"):  # read alone: somebody may listen there
        assert config.read(file, {"PORT": port, "SELF_SIGNED": "1"}).listeners[-1].port == int(port)
    for port in ("0", "65536"):
        with pytest.raises(ConfigurationError, match=f"PORT='{port}' is not an integer from 1 to 65535"):
            config.read(file, {"PORT": port, "SELF_SIGNED": "1"})


@pytest.mark.parametrize("port", [1, 65535])
def test_a_port_of_server_toml_has_both_ends(tmp_path: Path, port: int) -> None:
    path = tmp_path / "server.toml"
    path.write_text(SERVER_TOML.replace("port = 8080", f"port = {port}"))
    assert config.read(NamedFile("--config", path), {"SELF_SIGNED": "1"}).listeners[-1].port == port
    line = rejected(configured(tmp_path, SERVER_TOML.replace("port = 8080", f"port = {port * 65536}")))
    assert f"{path}: listener[2].port = {port * 65536}: Expected `int`" in line


@pytest.mark.parametrize("value", ["255.255.255.255", "127.255.255.255", "224.0.0.1", "239.1.2.3", "ff02::1"])
def test_an_address_that_takes_no_connections_is_rejected(value: str) -> None:
    kind = "broadcast" if "255" in value else "multicast"
    assert f"HOST={value} is a {kind} address" in rejected(HOST=value)


@pytest.mark.parametrize("variable", ["TLS_CERT", "TLS_KEY", "DATASET_PATH", "CONFIG"])
def test_an_empty_path_is_rejected_with_its_variable(pair: dict[str, str], variable: str) -> None:
    assert f"{variable} is empty; " in rejected(**(pair | {variable: ""}))


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_a_nul_in_a_path_is_rejected(tmp_path: Path, name: str) -> None:
    text, found = re.subn(rf'{name} = "[^"]*"', rf'{name} = "a\\u0000b"', SERVER_TOML)
    assert found == 1
    assert "holds a NUL character" in rejected(configured(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[\n" * 5000 + "]\n" * 5000, "nests tables too deeply"),
        ("{a=" * 5000 + "1" + "}" * 5000, "has a line of more than 1024 bytes"),
    ],
    ids=["arrays", "tables"],
)
def test_a_deep_server_toml_is_rejected(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in rejected(configured(tmp_path, f"x = {text}\n{SERVER_TOML}"))


@pytest.mark.parametrize("setting", ["DATASET_PATH", "TLS_CERT", "TLS_KEY", "CONFIG"])
def test_a_huge_file_is_rejected_without_reading_it(tmp_path: Path, pair: dict[str, str], setting: str) -> None:
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 2**31)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    most = {"DATASET_PATH": "65,536 KiB", "CONFIG": "64 KiB"}.get(setting, "1,024 KiB")
    assert f"{setting}={huge} is larger than {most}" in rejected(**(pair | {setting: str(huge)}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


LONG, SHOWN = "x" * 3000, 200


@pytest.mark.parametrize(
    "variables",
    [
        {"HOST": LONG},
        {"WORKERS": LONG},
        {"PORT": "8" * 3000},
        {"TLS_CERT": f"/{LONG}"},
        {"DATASET_PATH": f"/{LONG}"},
        {"CONFIG": f"/{LONG}"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_a_long_value_is_cut(pair: dict[str, str], variables: dict[str, str]) -> None:
    line = rejected(**(pair | variables))
    ((name, value),) = variables.items()
    assert f"{name}=" in line
    assert re.search(r"\.\.\. \(300\d characters\)", line)
    assert value[:SHOWN] not in line or value[: SHOWN + 1] not in line
    assert len(line) < 3 * SHOWN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "json"', f'name = "{LONG}"\ntls = 3'),
        ('name = "json-tls"', f'name = "{LONG}"\nprotocol = "h2c"'),
        ('protocol = "h2c"', f'protocol = "{LONG}"'),
        ('host = "127.0.0.1"', f'host = "{LONG}"'),
        ("[server]", f"[{LONG}]"),
        ("backlog = ", f"{LONG} = "),
    ],
)
def test_a_long_value_of_server_toml_is_cut(tmp_path: Path, old: str, new: str) -> None:
    assert old in SERVER_TOML
    line = rejected(configured(tmp_path, SERVER_TOML.replace(old, new)))
    assert len(line.replace(str(tmp_path), "")) < 3 * SHOWN


@pytest.mark.parametrize(
    ("limit", "workers", "said"),
    [
        ("-f 0", "1", "cannot be held in memory (File too large); raise the limit on file sizes (ulimit -f)"),
        ("-n 64", "16", "WORKERS=16: "),
        ("-n 49", "1", "open files are needed, and the hard limit is 49; raise it (ulimit -Hn"),
    ],
)
def test_a_limit_that_leaves_nothing_is_exit_2_with_one_line(
    pair: dict[str, str], limit: str, workers: str, said: str
) -> None:
    result = subprocess.run(
        ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", sys.executable, "-m", "app"],
        cwd=ROOT,
        env=with_free_ports(clean_environment() | pair | {"WORKERS": workers}),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert " ERROR - " in result.stderr.partition(" configuration: ")[0]
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
