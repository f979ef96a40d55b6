"""server.toml, the environment, and the table of certificates, through `python -m app --check`."""

import datetime as dt
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.conftest import ROOT, Check, Launch, free_ports

SERVER_TOML = (ROOT / "server.toml").read_text()
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


def refused(check: Check, *arguments: str, **environment: str) -> str:
    """Check that the configuration is refused as it should be, and return the line that says why."""
    result = check(*arguments, **environment)
    assert result.returncode == 2, result
    assert result.stderr.startswith("configuration: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def configured(folder: Path, text: str = SERVER_TOML) -> str:
    """Write a server.toml into a folder of its own, so that no default pair is beside it."""
    path = folder / "server.toml"
    path.write_text(text)
    return f"--config={path}"


def test_check_says_what_would_be_served_and_starts_nothing(check: Check, pair: dict[str, str], tmp_path: Path) -> None:
    port, tls_port = free_ports(2)
    result = check(configured(tmp_path), PORT=str(port), TLS_PORT=str(tls_port), WORKERS="3", **pair)
    assert (result.returncode, result.stderr) == (0, "")
    tls, plain, dataset = result.stdout.splitlines()
    assert tls.startswith(f"json-tls: https://127.0.0.1:{tls_port} HTTP/1.1 over TLS 1.3, ALPN http/1.1, 3 workers")
    assert "localhost, 127.0.0.1" in tls
    assert plain.startswith(f"json: http://127.0.0.1:{port} HTTP/1.1, plaintext")
    assert dataset == "dataset: 50 items"


def test_the_port_variable_of_a_listener_enables_it(check: Check, pair: dict[str, str]) -> None:
    assert "json-h2c" not in check(**pair).stdout
    (port,) = free_ports(1)
    result = check(H2C_PORT=str(port), **pair)
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "json-tls",
        "json-h2c",
        "json",
        "dataset",
    ]
    assert f"json-h2c: http://127.0.0.1:{port} HTTP/2 by prior knowledge" in result.stdout


def test_no_listener_enabled_is_refused(check: Check, tmp_path: Path) -> None:
    none = "[server]" + SERVER_TOML.partition("[server]")[2].partition("[[listener]]")[0]
    off = '[[listener]]\nname = "a"\nport = 1\nport_variable = "A_PORT"\nenabled = false\n'
    assert "no listener is enabled" in refused(check, configured(tmp_path, none + off))


def test_http2_in_cleartext_takes_no_pair(check: Check, tmp_path: Path) -> None:
    both = SERVER_TOML.replace('port_variable = "TLS_PORT"', 'port_variable = "TLS_PORT"\nprotocol = "h2c"')
    assert "listener json-tls: protocol" in refused(check, configured(tmp_path, both))


def test_workers_are_counted_by_affinity(check: Check) -> None:
    assert f" {len(os.sched_getaffinity(0))} worker" in check().stdout


@pytest.mark.parametrize("variable", ["PORT", "TLS_PORT", "H2C_PORT", "WORKERS"])
@pytest.mark.parametrize("value", ["", "x", "0", "-1", "1.5", "65536", "99999999999999999999", "\uff18\uff10", " 80"])
def test_a_bad_number_is_named_with_its_variable(check: Check, variable: str, value: str) -> None:
    assert f"{variable}={value!r} is not an integer from 1 to" in refused(check, **{variable: value})


@pytest.mark.parametrize("value", ["", "localhost", "example.org", "127.0.0.1:80", "256.0.0.1"])
def test_a_host_that_is_no_address_is_named(check: Check, value: str) -> None:
    assert f"HOST={value!r} is not an IP address" in refused(check, HOST=value)


def test_a_host_of_another_machine_is_named(check: Check) -> None:
    assert "cannot be bound on 192.0.2.1" in refused(check, HOST="192.0.2.1")


def test_the_two_listeners_need_two_ports(check: Check) -> None:
    port = str(free_ports(1)[0])
    assert f"PORT={port}: listener json would share it with listener json-tls" in refused(
        check, PORT=port, TLS_PORT=port
    )


@pytest.mark.parametrize("variable", ["PORT", "TLS_PORT"])
@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_taken_port_is_named(check: Check, variable: str, option: int) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        assert f"{variable}={port} cannot be bound on 127.0.0.1 (Address already in use)" in refused(
            check, **{variable: port}
        )


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("backlog = 16384", "backlogg = 16384", "`backlogg`"),
        ("backlog = 16384", 'backlog = "many"', "$.server.backlog"),
        ("backlog = 16384", "backlog = 0", "$.server.backlog"),
        ("backlog = 16384", "", "`backlog`"),
        ("port = 8080", "port = 80800", "port"),
        ("port = 8080", "port = true", "port"),
        ('name = "json"', 'nom = "json"', "`nom`"),
        ('name = "json"', 'name = "json-tls"', "two listeners have the name json-tls"),
        ('key = "certs/server.key"', "", "`key`"),
        ("[server]", "[sever]", "sever"),
        ("[server]", "[server", "server.toml"),
        ("header_read_timeout = 30", "header_read_timeout = 61", "$.server.header_read_timeout"),
        ("unread_timeout = 30", "unread_timeout = 0", "$.server.unread_timeout"),
    ],
)
def test_a_mistake_in_server_toml_is_named(check: Check, tmp_path: Path, before: str, after: str, named: str) -> None:
    assert before in SERVER_TOML
    line = refused(check, configured(tmp_path, SERVER_TOML.replace(before, after)))
    assert str(tmp_path / "server.toml") in line
    assert named in line


def test_a_server_toml_that_is_not_there_is_named(check: Check, tmp_path: Path) -> None:
    assert f"--config={tmp_path}/absent.toml cannot be read" in refused(check, f"--config={tmp_path}/absent.toml")


def default_pair(folder: Path, pair_folder: Path, *names: str) -> str:
    (folder / "certs").mkdir()
    for name in names:
        shutil.copy(pair_folder / name, folder / "certs" / name)
    return configured(folder)


def test_neither_set_and_no_default_is_a_pair_for_this_run(launch: Launch, tmp_path: Path) -> None:
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


def test_neither_set_and_both_defaults_there_are_served(check: Check, tmp_path: Path, pair_folder: Path) -> None:
    result = check(default_pair(tmp_path, pair_folder, "server.crt", "server.key"))
    assert result.returncode == 0
    assert str(tmp_path / "certs" / "server.crt") in result.stdout


@pytest.mark.parametrize(("there", "missing"), [("server.crt", "server.key"), ("server.key", "server.crt")])
def test_neither_set_and_one_default_there_is_refused(
    check: Check, tmp_path: Path, pair_folder: Path, there: str, missing: str
) -> None:
    line = refused(check, default_pair(tmp_path, pair_folder, there))
    assert f"{tmp_path}/certs/{there} is there but {tmp_path}/certs/{missing} is missing" in line


@pytest.mark.parametrize("variable", ["TLS_CERT", "TLS_KEY"])
def test_a_named_file_that_is_missing_is_refused(
    check: Check, tmp_path: Path, pair: dict[str, str], variable: str
) -> None:
    line = refused(check, configured(tmp_path), **(pair | {variable: "/nowhere/file"}))
    assert f"{variable}=/nowhere/file cannot be read (No such file or directory); mount" in line


@pytest.mark.parametrize(("variable", "other"), [("TLS_CERT", "TLS_KEY"), ("TLS_KEY", "TLS_CERT")])
def test_one_set_without_its_default_partner_is_refused(
    check: Check, tmp_path: Path, pair: dict[str, str], variable: str, other: str
) -> None:
    line = refused(check, configured(tmp_path), **{variable: pair[variable]})
    assert f"{other}={tmp_path}/certs/server." in line
    assert "unset TLS_CERT and TLS_KEY" in line


def test_one_set_with_its_default_partner_is_served(
    check: Check, tmp_path: Path, pair: dict[str, str], pair_folder: Path
) -> None:
    arguments = default_pair(tmp_path, pair_folder, "server.crt")
    assert check(arguments, TLS_KEY=pair["TLS_KEY"]).returncode == 0


def test_a_broken_link_is_not_an_absent_pair(check: Check, tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    for name in ("server.crt", "server.key"):
        (tmp_path / "certs" / name).symlink_to("nowhere")
    assert "TLS_CERT=" in refused(check, configured(tmp_path))


def write_pair(
    folder: Path, key: PrivateKey, digest: hashes.HashAlgorithm | None = None, days: int = 1
) -> dict[str, str]:
    """Write a self-signed certificate of `key`, as `openssl req -x509` would."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, digest or (None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()))  # type: ignore[arg-type]
    )
    paths = {"TLS_CERT": folder / "self.crt", "TLS_KEY": folder / "self.key"}
    paths["TLS_CERT"].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths["TLS_KEY"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {name: str(path) for name, path in paths.items()}


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA-2048", "P-256", "P-384", "Ed25519"],
)
def test_keys_that_rustls_takes_are_served(launch: Launch, tmp_path: Path, key: PrivateKey) -> None:
    service = launch(**write_pair(tmp_path, key)).ready()
    assert "certificate for localhost" in service.output.read_text()
    service.stop()


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be refused
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        dsa.generate_private_key(2048),
    ],
    ids=["RSA-1024", "P-521", "secp256k1", "DSA"],
)
def test_keys_that_rustls_does_not_take_are_refused(check: Check, tmp_path: Path, key: PrivateKey) -> None:
    files = write_pair(tmp_path, key)
    assert f"TLS_KEY={files['TLS_KEY']} is of a type that rustls does not take" in refused(check, **files)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_pkcs8_pkcs1_and_sec1_are_served(launch: Launch, tmp_path: Path, form: PrivateFormat) -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())):
        files = write_pair(tmp_path, key)
        Path(files["TLS_KEY"]).write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
        launch(**files).ready().stop()


def test_an_encrypted_key_is_refused(check: Check, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files = write_pair(tmp_path, key)
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        secret = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
        Path(files["TLS_KEY"]).write_bytes(secret)
        assert f"TLS_KEY={files['TLS_KEY']} is encrypted" in refused(check, **files)


def test_a_key_of_another_certificate_is_refused(check: Check, tmp_path: Path, pair: dict[str, str]) -> None:
    files = write_pair(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    line = refused(check, TLS_CERT=pair["TLS_CERT"], TLS_KEY=files["TLS_KEY"])
    assert f"TLS_KEY={files['TLS_KEY']} is not the key of the certificate in" in line
    assert f"TLS_CERT={pair['TLS_CERT']}" in line


@pytest.mark.parametrize("variable", ["TLS_CERT", "TLS_KEY"])
@pytest.mark.parametrize(
    "content", [b"", b"not PEM", b"\0\xff", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_not_pem_is_refused(
    check: Check, tmp_path: Path, pair: dict[str, str], variable: str, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert f"{variable}={path} is not a PEM " in refused(check, **(pair | {variable: str(path)}))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command: cryptography signs no SHA-1")
def test_a_certificate_with_a_weak_digest_is_refused(check: Check, tmp_path: Path, authority: trustme.CA) -> None:
    files = write_pair(tmp_path, rsa.generate_private_key(65537, 2048))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    authority.private_key_pem.write_to_path(str(tmp_path / "ca.key"))
    request = tmp_path / "request"
    (tmp_path / "extensions").write_text("subjectAltName=DNS:localhost\n")  # and so X.509 v3
    sign = ["openssl", "x509", "-sha1", "-days", "1", "-set_serial", "1", "-CA", "ca.crt", "-CAkey", "ca.key"]
    for command in (
        ["openssl", "x509", "-x509toreq", "-in", files["TLS_CERT"], "-signkey", files["TLS_KEY"], "-out", str(request)],
        [*sign, "-req", "-in", str(request), "-extfile", "extensions", "-out", files["TLS_CERT"]],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    line = refused(check, **files)
    assert f"TLS_CERT={files['TLS_CERT']} is refused by OpenSSL (" in line


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command: cryptography makes v3 alone")
def test_an_x509_v1_certificate_is_refused(check: Check, tmp_path: Path) -> None:
    files = write_pair(tmp_path, rsa.generate_private_key(65537, 2048))
    for command in (
        ["openssl", "req", "-new", "-key", files["TLS_KEY"], "-subj", "/CN=localhost", "-out", "request"],
        ["openssl", "x509", "-req", "-in", "request", "-signkey", files["TLS_KEY"], "-days", "1", "-out", "self.crt"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    if b"Version: 1" not in subprocess.check_output(["openssl", "x509", "-in", files["TLS_CERT"], "-noout", "-text"]):
        pytest.skip("this openssl makes v3 of it")
    assert f"TLS_CERT={files['TLS_CERT']} is an X.509 v1 certificate" in refused(check, **files)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_an_rsa_pss_key_is_refused(check: Check, tmp_path: Path) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa-pss",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=localhost", "-keyout", "pss.key", "-out", "pss.crt"]
    subprocess.run([*command, *names], cwd=tmp_path, check=True, capture_output=True)
    line = refused(check, TLS_CERT=str(tmp_path / "pss.crt"), TLS_KEY=str(tmp_path / "pss.key"))
    assert f"TLS_KEY={tmp_path / 'pss.key'} is of a type that rustls does not take" in line


def test_the_curl_line_quotes_a_path(launch: Launch, tmp_path: Path, pair_folder: Path, authority: trustme.CA) -> None:
    folder = tmp_path / "a folder's"
    shutil.copytree(pair_folder, folder)
    service = launch(TLS_CERT=str(folder / "server.crt"), TLS_KEY=str(folder / "server.key")).ready()
    line = service.output.read_text().splitlines()[1].strip()
    assert subprocess.run(["sh", "-c", f"{line} -sS"], check=False, capture_output=True).returncode == 0
    assert authority
    service.stop()


def test_an_expired_certificate_is_served_with_a_warning(check: Check, tmp_path: Path) -> None:
    files = write_pair(tmp_path, ec.generate_private_key(ec.SECP256R1()), days=-1)
    result = check(**files)
    assert result.returncode == 0
    assert "not today; clients that verify will refuse it" in result.stderr
