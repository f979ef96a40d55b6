"""What is rejected of clients' authorities and revocations, before a worker could end with a panic."""

import base64
import datetime as dt
import re
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.certificates import PrivateKey, issue, write_self_signed
from tests.support.clients import configuration, constrained, revoking, write_authorities
from tests.support.configuration import check, configured, rejected

CLIENTS = trustme.CA(organization_name="clients")


@pytest.fixture
def folder(authority: trustme.CA, tmp_path: Path) -> Path:
    folder = issue(authority, tmp_path / "certs")
    write_authorities(folder, CLIENTS)
    return folder


def of_authority(folder: Path) -> str:
    return rejected(configured(folder.parent, configuration()))


def of_revocations(folder: Path, content: bytes) -> str:
    (folder / "clients.crl").write_bytes(content)
    line = rejected(configured(folder.parent, configuration(revocations=True)))
    assert line.startswith(f"configuration: listener json-tls: client_revocations={folder}/clients.crl ")
    return line


def test_what_is_right_is_described(folder: Path, tmp_path: Path) -> None:
    (folder / "clients.crl").write_bytes(b"text before\n" + revoking(CLIENTS, [7, 8]))
    result = check(configured(tmp_path, configuration(revocations=True)))
    assert result.returncode == 0
    assert f"clients need a certificate ({folder}/clients.crt, revoked by {folder}/clients.crl);" in result.stdout


@pytest.mark.parametrize("setting", ["client_authority", "client_revocations"])
def test_a_missing_file(folder: Path, tmp_path: Path, setting: str) -> None:
    if setting == "client_authority":
        (folder / "clients.crt").unlink()
    line = rejected(configured(tmp_path, configuration(revocations=True)))
    assert f"listener json-tls: {setting}={folder}/clients.cr" in line
    assert "cannot be read (No such file or directory); mount it readable" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a PEM file of certificates"),
        (b"nothing", "is not a PEM file of certificates"),
        (CLIENTS.cert_pem.bytes()[:300], "is not a PEM file of certificates"),
        (CLIENTS.cert_pem.bytes() + CLIENTS.cert_pem.bytes()[:300], "has a certificate that is cut short"),
        (CLIENTS.private_key_pem.bytes(), "is not a PEM file of certificates"),
    ],
)
def test_what_is_no_file_of_certificates(folder: Path, content: bytes, said: str) -> None:
    (folder / "clients.crt").write_bytes(content)
    line = of_authority(folder)
    assert line.startswith(f"configuration: listener json-tls: client_authority={folder}/clients.crt {said}")


@pytest.mark.parametrize("name", ["issuer", "subject"])
def test_an_authority_whose_name_cannot_be_parsed(folder: Path, name: str) -> None:
    der = bytearray(x509.load_pem_x509_certificate(CLIENTS.cert_pem.bytes()).public_bytes(Encoding.DER))
    der[der.index(b"clients") if name == "issuer" else der.rindex(b"clients")] = 0xFF  # no byte of UTF-8
    text = b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % base64.encodebytes(bytes(der))
    (folder / "clients.crt").write_bytes(text)
    line = of_authority(folder)
    assert "cannot be read (error parsing asn1 value" in line
    assert ("holds a certificate, which" in line) == (name == "subject")


def test_a_clients_own_certificate_is_no_authoritys(folder: Path) -> None:
    (folder / "clients.crt").write_bytes(CLIENTS.issue_cert("client").cert_chain_pems[0].bytes())
    assert "which is no authority's certificate; give its issuer's" in of_authority(folder)


NAME = x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")]))
OTHERS = [x509.DNSName("a.example"), x509.UniformResourceIdentifier("a.example"), x509.RFC822Name("a.example")]


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize(
    "constraints",
    [
        x509.NameConstraints([NAME], None),
        x509.NameConstraints(None, [NAME]),
        x509.NameConstraints(OTHERS, [*OTHERS, NAME]),
    ],
)
def test_an_authority_all_of_whose_clients_its_constraints_refuse(
    folder: Path,
    constraints: x509.NameConstraints,
    critical: bool,  # noqa: FBT001
) -> None:
    (folder / "clients.crt").write_bytes(constrained(CLIENTS, constraints, critical=critical))
    assert "holds no authority without a directoryName among its name constraints" in of_authority(folder)


@pytest.mark.parametrize(
    "content",
    [
        constrained(CLIENTS, x509.NameConstraints(OTHERS, None)),
        constrained(CLIENTS, x509.NameConstraints(None, OTHERS)),
        constrained(CLIENTS, x509.NameConstraints([NAME], None)) + CLIENTS.cert_pem.bytes(),
        constrained(CLIENTS, x509.NameConstraints([NAME], None)) + trustme.CA().cert_pem.bytes(),
        CLIENTS.create_child_ca().cert_pem.bytes() + constrained(CLIENTS, x509.NameConstraints([NAME], None)),
    ],
)
def test_an_authority_some_of_whose_clients_its_constraints_may_let_in(folder: Path, content: bytes) -> None:
    (folder / "clients.crt").write_bytes(content)
    assert check(configured(folder.parent, configuration())).returncode == 0


@pytest.mark.parametrize(
    ("key", "accepted"),
    [
        (rsa.generate_private_key(65537, 2048), True),
        (ec.generate_private_key(ec.SECP384R1()), True),
        (ed25519.Ed25519PrivateKey.generate(), True),
        (rsa.generate_private_key(65537, 1024), False),  # noqa: S505
        (ec.generate_private_key(ec.SECP521R1()), False),
        (dsa.generate_private_key(2048), False),
    ],
)
def test_an_authoritys_key_has_a_type_that_rustls_verifies_with(folder: Path, key: PrivateKey, accepted: bool) -> None:  # noqa: FBT001
    write_self_signed(folder, key, names=("clients.crt", "unused.key"))
    if accepted:
        assert check(configured(folder.parent, configuration())).returncode == 0
    else:
        assert "with whose type of key rustls verifies nothing; use RSA of 2048 to 8192" in of_authority(folder)


def test_more_names_than_a_handshake_can_send(folder: Path) -> None:
    one = trustme.CA(organization_name="x" * 60, organization_unit_name="y" * 60).cert_pem.bytes()
    (folder / "clients.crt").write_bytes(one * 500)
    assert re.search(r"holds 500 authorities, whose names take more than \d+ bytes", of_authority(folder))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a PEM file of revocation lists"),
        (CLIENTS.cert_pem.bytes(), "is not a PEM file of revocation lists"),
        (revoking(CLIENTS)[:200], "is not a PEM file of revocation lists"),
        (revoking(CLIENTS) + revoking(CLIENTS)[:200], "is not a PEM file of revocation lists"),
        (revoking(CLIENTS).replace(b"M", b"N", 1), "holds a list that cannot be read"),
        (revoking(CLIENTS) * 2, "holds two lists of "),
        (revoking(CLIENTS) * 9, "holds 9 lists, more than 8"),
        (revoking(trustme.CA()), "has signed; add that authority, or remove the list"),
        (revoking(CLIENTS, signer=trustme.CA()), "has signed; add that authority, or remove the list"),
        (revoking(CLIENTS, extensions=()), "is of version 1"),
        (revoking(CLIENTS, extensions=[(x509.DeltaCRLIndicator(1), True)]), "is only a part"),
        (
            revoking(
                CLIENTS,
                extensions=[
                    (
                        x509.IssuingDistributionPoint(
                            full_name=[x509.UniformResourceIdentifier("http://a/")],
                            relative_name=None,
                            only_contains_user_certs=True,
                            only_contains_ca_certs=False,
                            only_some_reasons=None,
                            indirect_crl=False,
                            only_contains_attribute_certs=False,
                        ),
                        True,
                    )
                ],
            ),
            "is only a part",
        ),
        (
            revoking(
                CLIENTS, extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)]
            ),
            "has extensions that rustls does not accept (1.2.3.4)",
        ),
        (
            revoking(CLIENTS, [7], of_entries=[(x509.CertificateIssuer([x509.DNSName("a")]), True)]),
            "has extensions that rustls does not accept (2.5.29.29)",
        ),
    ],
)
def test_what_is_no_list_of_the_authority(folder: Path, content: bytes, said: str) -> None:
    assert said in of_revocations(folder, content)


def test_each_authority_has_a_list(folder: Path) -> None:
    write_authorities(folder, CLIENTS, trustme.CA(organization_name="others"))
    line = of_revocations(folder, revoking(CLIENTS))
    assert "holds no list of " in line
    assert "O=others" in line
    assert f"or remove that authority from {folder}/clients.crt" in line


def test_an_authority_with_a_new_key_of_the_same_name_needs_a_list_of_its_own(folder: Path) -> None:
    """It cannot have one: rustls finds a list by its issuer's name."""
    subject = x509.load_pem_x509_certificate(CLIENTS.cert_pem.bytes()).subject
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + dt.timedelta(days=1))
    renewed = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    (folder / "clients.crt").write_bytes(CLIENTS.cert_pem.bytes() + renewed)
    assert "that its key has signed, so that its clients would all be refused" in of_revocations(
        folder, revoking(CLIENTS)
    )


def test_known_extensions_are_accepted(folder: Path, tmp_path: Path) -> None:
    known = [
        (x509.CRLReason(x509.ReasonFlags.key_compromise), False),
        (x509.InvalidityDate(dt.datetime(2026, 1, 1)), False),  # noqa: DTZ001 - naive is UTC there
    ]
    (folder / "clients.crl").write_bytes(revoking(CLIENTS, [7], of_entries=known, digest=hashes.SHA384()))
    assert check(configured(tmp_path, configuration(revocations=True))).returncode == 0


@pytest.mark.parametrize("salt", [padding.PSS.MAX_LENGTH, 20, 32])
def test_a_list_is_signed_as_rustls_verifies_it(folder: Path, tmp_path: Path, salt: int) -> None:
    authority = trustme.CA(organization_name="clients", key_type=trustme.KeyType.RSA)
    write_authorities(folder, authority)
    form = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    content = revoking(authority, form=form)
    if salt == hashes.SHA256.digest_size:
        (folder / "clients.crl").write_bytes(content)
        assert check(configured(tmp_path, configuration(revocations=True))).returncode == 0
    else:
        assert "is signed in a way that rustls does not accept; sign it with SHA-256" in of_revocations(folder, content)


def test_a_list_of_an_elliptic_curve_with_sha512_is_rejected(folder: Path) -> None:
    line = of_revocations(folder, revoking(CLIENTS, digest=hashes.SHA512()))
    assert "is signed in a way that rustls does not accept" in line


def test_an_authority_without_a_pair_is_rejected(tmp_path: Path) -> None:
    line = rejected(configured(tmp_path, configuration()))
    assert "is for a pair that clients know, and there is none; set TLS_CERT and TLS_KEY" in line


def test_revocations_without_an_authority_are_rejected(folder: Path, tmp_path: Path) -> None:
    text = configuration(revocations=True).replace('client_authority = "certs/clients.crt"\n', "")
    assert folder
    assert "needs client_authority; add it, or remove the revocations" in rejected(configured(tmp_path, text))
