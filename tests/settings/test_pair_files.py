"""Which pair is served: TLS_CERT and TLS_KEY, the default files, or a self-signed one."""

import base64
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme

from app.launcher.descriptors import open_descriptors
from app.settings import certificate
from app.settings.config import PairFiles
from app.settings.errors import ConfigurationError
from app.settings.files import NamedFile
from tests.support.configuration import SERVER_TOML, check, configured, rejected
from tests.support.service import Launch


def default_pair(folder: Path, pair_folder: Path, *names: str) -> str:
    (folder / "certs").mkdir()
    for name in names:
        shutil.copy(pair_folder / name, folder / "certs" / name)
    return configured(folder)


@pytest.mark.parametrize("asked", ["", "0", "false"])
def test_neither_set_and_no_default_is_rejected(tmp_path: Path, asked: str) -> None:
    """A mount that came out empty must not serve a certificate that nobody trusts."""
    line = rejected(configured(tmp_path), SELF_SIGNED=asked)
    folder = tmp_path / "certs"
    assert f"listener json-tls: there is no pair: {folder}/server.crt and {folder}/server.key are missing; put" in line
    assert "or ask for a self-signed pair that lasts as long as the run (--self-signed, SELF_SIGNED=1)" in line


def test_a_self_signed_pair_is_asked_for_by_an_option_too(tmp_path: Path) -> None:
    result = check(configured(tmp_path), "--self-signed", SELF_SIGNED="")
    assert result.returncode == 0
    assert "(self-signed for this run)" in result.stdout


def test_a_pair_that_is_there_is_served_even_if_one_may_be_made(tmp_path: Path, pair_folder: Path) -> None:
    result = check(default_pair(tmp_path, pair_folder, "server.crt", "server.key"), SELF_SIGNED="1")
    assert result.returncode == 0
    assert str(tmp_path / "certs" / "server.crt") in result.stdout


def test_neither_set_and_no_default_is_a_self_signed_pair_if_asked_for(launch: Launch, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    service = launch(configured(tmp_path), TMPDIR=str(temporary)).ready()
    (line,) = service.errors.read_text().splitlines()
    authority = Path(line.rpartition(" ")[2])
    assert "self-signed" in line
    assert temporary in authority.parents
    assert b"PRIVATE" not in authority.read_bytes()
    assert [path.stat().st_mode & 0o077 for path in temporary.iterdir()] == [0]
    service.stop()
    assert list(temporary.iterdir()) == []


def test_neither_set_and_both_defaults_present_are_served(tmp_path: Path, pair_folder: Path) -> None:
    result = check(default_pair(tmp_path, pair_folder, "server.crt", "server.key"))
    assert result.returncode == 0
    assert str(tmp_path / "certs" / "server.crt") in result.stdout


def test_a_pair_beside_a_file_in_a_linked_folder_is_looked_for_through_the_link(
    tmp_path: Path, pair_folder: Path
) -> None:
    """The link may be switched to another release: its pair is then to be served."""
    (tmp_path / "release").mkdir()
    default_pair(tmp_path / "release", pair_folder, "server.crt", "server.key")
    (tmp_path / "current").symlink_to("release")
    result = check(f"--config={tmp_path}/current/server.toml")
    assert result.returncode == 0
    assert f"({tmp_path}/current/certs/server.crt, {tmp_path}/current/certs/server.key)" in result.stdout


@pytest.mark.parametrize(("there", "missing"), [("server.crt", "server.key"), ("server.key", "server.crt")])
def test_neither_set_and_one_default_present_is_rejected(
    tmp_path: Path, pair_folder: Path, there: str, missing: str
) -> None:
    arguments = default_pair(tmp_path, pair_folder, there)
    said = f"{tmp_path}/certs/{there} is there but {tmp_path}/certs/{missing} is missing; add it"
    assert rejected(arguments, SELF_SIGNED="").endswith(f"{said}\n")
    assert f"{said}, or remove the other" in rejected(arguments, SELF_SIGNED="1")


@pytest.mark.parametrize("variable", ["TLS_CERT", "TLS_KEY"])
def test_a_missing_file_is_rejected(tmp_path: Path, pair: dict[str, str], variable: str) -> None:
    line = rejected(configured(tmp_path), **(pair | {variable: "/nowhere/file"}))
    assert f"{variable}=/nowhere/file cannot be read (No such file or directory); give" in line


@pytest.mark.parametrize(("variable", "other"), [("TLS_CERT", "TLS_KEY"), ("TLS_KEY", "TLS_CERT")])
def test_one_set_without_its_default_partner_is_rejected(
    tmp_path: Path, pair: dict[str, str], variable: str, other: str
) -> None:
    line = rejected(configured(tmp_path), **{variable: pair[variable]})
    setting = {"TLS_CERT": "tls.certificate", "TLS_KEY": "tls.key"}[other]
    assert f"listener json-tls: {setting}={tmp_path}/certs/server." in line
    assert "or name others (TLS_CERT, TLS_KEY)" in line


def test_one_set_with_its_default_partner_is_served(tmp_path: Path, pair: dict[str, str], pair_folder: Path) -> None:
    arguments = default_pair(tmp_path, pair_folder, "server.crt")
    assert check(arguments, TLS_KEY=pair["TLS_KEY"]).returncode == 0


def test_a_broken_link_is_not_an_absent_pair(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    for name in ("server.crt", "server.key"):
        (tmp_path / "certs" / name).symlink_to("nowhere")
    line = rejected(configured(tmp_path))
    assert "listener json-tls: tls.certificate=" in line
    assert "TLS_CERT=" not in line  # which is not set


def test_the_curl_line_quotes_a_path(launch: Launch, tmp_path: Path, pair_folder: Path, authority: trustme.CA) -> None:
    folder = tmp_path / "a folder's"
    shutil.copytree(pair_folder, folder)
    service = launch(TLS_CERT=str(folder / "server.crt"), TLS_KEY=str(folder / "server.key")).ready()
    line = service.output.read_text().splitlines()[1].strip()
    assert subprocess.run(["sh", "-c", f"{line} -sS"], check=False, capture_output=True).returncode == 0
    assert authority
    service.stop()


def test_a_pair_that_finds_no_descriptor_leaves_none_open(pair: dict[str, str]) -> None:
    files = PairFiles(*(NamedFile(name, Path(pair[name])) for name in ("TLS_CERT", "TLS_KEY")))
    content = certificate.read(files)
    certificate.check(files, content)
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = min(set(range(len(before) + 1)) - before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 1, hard))  # for the chain, and not for the key
    try:
        with pytest.raises(ConfigurationError, match="cannot be held in memory"):
            certificate.check(files, content)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_descriptors() == before


@pytest.mark.parametrize("variable", ["TLS_CERT", "TLS_KEY"])
def test_a_key_in_the_place_of_its_path_is_never_shown(tmp_path: Path, pair: dict[str, str], variable: str) -> None:
    key = Path(pair["TLS_KEY"]).read_text()
    secret = key.splitlines()[1]
    by_variable = rejected(**(pair | {variable: key}))
    assert (
        by_variable
        == f"configuration: listener json-tls: {variable} holds a certificate or a key itself; put it in a file, and give its path\n"
    )
    text = SERVER_TOML.replace('key = "certs/server.key"', f'key = """{key}"""')
    assert text != SERVER_TOML
    in_the_file = check(configured(tmp_path, text))
    assert in_the_file.returncode == 2
    assert secret not in by_variable + in_the_file.stderr + in_the_file.stdout
    body = "".join(key.splitlines()[1:-1])
    encoded = base64.b64encode(key.encode()).decode()
    forms = [
        body,
        f'"{body}"',
        f" {body}",
        f"base64:{body}",
        base64.b64decode(body).hex(),
        body.replace("+", "-").replace("/", "_"),
        encoded,
    ]
    forms += [base64.b64encode(f"{each}{key}".encode()).decode() for each in ("\n", "\r\n", "Bag Attributes\n")]
    for form in forms:
        line = rejected(**(pair | {variable: form}))
        assert variable in line
        assert not any(form[start : start + 24] in line for start in range(len(form) - 24))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/letsencrypt/live/api.example.com/privkey.pem",
        f"/var/lib/docker/overlay2/{64 * 'a'}/server.key",
        "/srv/MyApplication/certificates/production/server",
    ],
)
def test_a_path_that_is_missing_is_shown(pair: dict[str, str], path: str) -> None:
    assert f"TLS_KEY={path} cannot be read (No such file" in rejected(**(pair | {"TLS_KEY": path}))
