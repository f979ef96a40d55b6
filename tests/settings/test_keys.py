"""Keys and certificates: those that rustls accepts are served, the others are rejected at the start."""

import base64
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from app.settings.errors import shown
from tests.support.certificates import PrivateKey, write_self_signed
from tests.support.configuration import SERVER_TOML, check, configured, rejected
from tests.support.processes import ROOT, clean_environment
from tests.support.service import Launch


@pytest.mark.parametrize(
    "generate",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
    ],
    ids=["RSA-2048", "P-256", "P-384", "Ed25519"],
)
def test_keys_that_rustls_accepts_are_served(
    launch: Launch, tmp_path: Path, generate: Callable[[], PrivateKey]
) -> None:
    service = launch(**write_self_signed(tmp_path, generate())).ready()
    assert "certificate for localhost" in service.output.read_text()
    service.stop()


@pytest.mark.parametrize(
    "generate",
    [
        lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be rejected
        lambda: ec.generate_private_key(ec.SECP521R1()),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: dsa.generate_private_key(2048),
    ],
    ids=["RSA-1024", "P-521", "secp256k1", "DSA"],
)
def test_keys_that_rustls_does_not_accept_are_rejected(tmp_path: Path, generate: Callable[[], PrivateKey]) -> None:
    files = write_self_signed(tmp_path, generate())
    assert f"TLS_KEY={files['TLS_KEY']} is of a type that rustls does not accept" in rejected(**files)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_pkcs8_pkcs1_and_sec1_are_served(launch: Launch, tmp_path: Path, form: PrivateFormat) -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())):
        files = write_self_signed(tmp_path, key)
        Path(files["TLS_KEY"]).write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
        launch(**files).ready().stop()


def test_an_encrypted_key_is_rejected(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files = write_self_signed(tmp_path, key)
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        secret = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
        Path(files["TLS_KEY"]).write_bytes(secret)
        assert f"TLS_KEY={files['TLS_KEY']} is encrypted" in rejected(**files)


def test_a_key_of_another_certificate_is_rejected(tmp_path: Path, pair: dict[str, str]) -> None:
    files = write_self_signed(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    line = rejected(TLS_CERT=pair["TLS_CERT"], TLS_KEY=files["TLS_KEY"])
    assert f"TLS_KEY={files['TLS_KEY']} is not the key of the certificate in" in line
    assert f"TLS_CERT={pair['TLS_CERT']}" in line


@pytest.mark.parametrize("variable", ["TLS_CERT", "TLS_KEY"])
@pytest.mark.parametrize(
    "content", [b"", b"not PEM", b"\0\xff", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_not_pem_is_rejected(
    tmp_path: Path, pair: dict[str, str], variable: str, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert f"{variable}={path} is not a PEM " in rejected(**(pair | {variable: str(path)}))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command: cryptography signs no SHA-1")
def test_a_certificate_with_a_weak_digest_is_rejected(tmp_path: Path, authority: trustme.CA) -> None:
    files = write_self_signed(tmp_path, rsa.generate_private_key(65537, 2048))
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
    line = rejected(**files)
    assert f"TLS_CERT={files['TLS_CERT']} is rejected by OpenSSL (" in line


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command: cryptography makes v3 alone")
def test_an_x509_v1_certificate_is_rejected(tmp_path: Path) -> None:
    files = write_self_signed(tmp_path, rsa.generate_private_key(65537, 2048))
    for command in (
        ["openssl", "req", "-new", "-key", files["TLS_KEY"], "-subj", "/CN=localhost", "-out", "request"],
        ["openssl", "x509", "-req", "-in", "request", "-signkey", files["TLS_KEY"], "-days", "1", "-out", "self.crt"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    if b"Version: 1" not in subprocess.check_output(["openssl", "x509", "-in", files["TLS_CERT"], "-noout", "-text"]):
        pytest.skip("this openssl makes v3 of it")
    assert f"TLS_CERT={files['TLS_CERT']} is an X.509 v1 certificate" in rejected(**files)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_an_rsa_pss_key_is_rejected(tmp_path: Path) -> None:
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
    line = rejected(TLS_CERT=str(tmp_path / "pss.crt"), TLS_KEY=str(tmp_path / "pss.key"))
    assert f"TLS_KEY={tmp_path / 'pss.key'} is of a type that rustls does not accept" in line


def test_an_expired_certificate_is_served_with_a_warning(tmp_path: Path) -> None:
    files = write_self_signed(tmp_path, ec.generate_private_key(ec.SECP256R1()), days=-1)
    result = check(**files)
    assert result.returncode == 0
    assert "not today; clients that verify will reject it" in result.stderr


MISPLACED: list[tuple[str, Callable[[str], tuple[str, dict[str, str]]]]] = [
    *(
        (variable, lambda key, variable=variable: (SERVER_TOML, {variable: key}))
        for variable in (
            *("APPLICATION", "APPLICATION_RUNS", "APPLICATION_PRELOAD", "HOST", "LOG_FORMAT", "METRICS_PORT", "PORT"),
            *("SELF_SIGNED", "WORKERS", "TLS_CERT", "CONFIG", "DATASET_PATH"),
        )
    ),
    ("METRICS_HOST", lambda key: (SERVER_TOML, {"METRICS_PORT": "9000", "METRICS_HOST": key})),
    *(
        (named, lambda key, before=before, after=after: (SERVER_TOML.replace(before, after % repr(key), 1), {}))
        for named, before, after in (
            ("a table", "[listener.tls]", "tls = %s\n#"),
            ("a key of a table", "[server]", "[server]\n%s = 1"),
            ("a number", "backlog = 16384", "backlog = %s"),
            ("a literal", "[server]", "[server]\nlog_format = %s"),
            ("a list", "[[listener]]", "[[listener]]\ntrusted_proxies = [%s]"),
            ("a protocol", "[[listener]]", "[[listener]]\nprotocol = %s"),
            ("an application", 'import = "app:app"', "import = %s"),
        )
    ),
]


@pytest.mark.parametrize("form", ["PEM", "line", "base64", "hexadecimal", "twice"])
@pytest.mark.parametrize(("place", "put"), MISPLACED, ids=[place for place, _ in MISPLACED])
def test_a_key_in_a_wrong_place_is_not_shown(
    tmp_path: Path, place: str, put: Callable[[str], tuple[str, dict[str, str]]], form: str
) -> None:
    """Neither as PEM nor as the base64 in it, nor as the base64 of all that, nor in hexadecimal."""
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    body = "".join(pem.decode().splitlines()[1:-1])
    hexadecimal = base64.b64decode(body).hex()
    twice = base64.b64encode(pem).decode()
    key = {
        "PEM": pem.decode(),
        "line": pem.decode().replace("\n", ""),
        "base64": body,
        "twice": twice,
        "hexadecimal": hexadecimal,
    }[form]
    text, variables = put(key)
    arguments = [] if place == "CONFIG" else [configured(tmp_path, text)]
    line = rejected(*arguments, **variables)
    assert "(not shown, as it may be a key)" in line or "holds a certificate or a key itself" in line
    secret = {"twice": twice, "hexadecimal": hexadecimal}.get(form, body)
    assert not any(secret[at : at + 12] in line for at in range(len(secret) - 12))


def test_a_key_among_the_arguments_is_not_shown() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    command = [sys.executable, "-m", "app", key.decode()]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.endswith(" configuration: (not shown, as it may be a key); see python -m app --help\n")


def test_names_are_shown_though_they_look_like_a_key(tmp_path: Path) -> None:
    """A word alone is hidden, and not what is said about it."""
    name = "Shop-Frontend-TLS-eu-central-1-production"
    text = SERVER_TOML.replace('name = "json-tls"', f'name = "{name}"').replace('name = "json"', f'name = "{name}"')
    assert f"two listeners are named {name}" in rejected(configured(tmp_path, text))
    assert (
        shown(f"unrecognized arguments: --config={name}") == "unrecognized arguments: (not shown, as it may be a key)"
    )


def test_what_is_no_key_is_shown() -> None:
    for value in (
        "main",
        "a" * 64,
        "9" * 20,
        "my-own-application.with_many_parts.and.modules2:create_app",
        "0.0.0.0/0",
    ):
        assert shown(value) == value
    assert shown(Path("/Etc/MyOwnCompanysServiceOfTheNewKind2/key")).startswith("/Etc/My")
    assert shown("9" * 20000 + "Aa" * 20000).startswith("(not shown")
