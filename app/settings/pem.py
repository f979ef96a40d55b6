"""Certificates in PEM files."""

import re

from cryptography import x509

from app.settings.errors import ConfigurationError
from app.settings.files import NamedFile

COMMENT = re.compile(rb"^[ \t]*#.*", re.MULTILINE)
"""A line that OpenSSL ignores, whatever it has: the parser would take a certificate's first line for one there, too."""


def certificates(file: NamedFile, pem: bytes, otherwise: str) -> list[x509.Certificate]:
    """Return the certificates that a file holds.

    Raises ConfigurationError, which says `otherwise`, if they are not PEM. The parser skips one that is
    cut short; here it is an error.
    """
    pem = COMMENT.sub(b"", pem)
    if b"-----BEGIN TRUSTED CERTIFICATE-----" in pem:
        raise ConfigurationError(
            f"{file} has a TRUSTED CERTIFICATE, a form of OpenSSL's own; write it as a CERTIFICATE"
            f" (`openssl x509 -in ... -out ...`)"
        )
    try:
        found = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigurationError(f"{file} {otherwise}") from error
    if len(found) != len(re.findall(rb"-----BEGIN (?:X509 )?CERTIFICATE-----", pem)):
        raise ConfigurationError(f"{file} has a certificate that is cut short; write all of it")
    return found
