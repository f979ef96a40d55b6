"""Certificates in PEM files."""

import re
import warnings

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from app.settings.errors import ConfigurationError
from app.settings.files import NamedFile


def certificates(file: NamedFile, pem: bytes, otherwise: str) -> list[x509.Certificate]:
    """Return the certificates that a file holds.

    Raises ConfigurationError, which says `otherwise`, if they are not PEM. One that is cut short is none for the
    parser, but an error here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # of serial numbers that are served anyhow
            found = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigurationError(f"{file} {otherwise}") from error
    if len(found) != len(re.findall(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----", pem)):
        raise ConfigurationError(f"{file} has a certificate that is cut short; write all of it")
    return found
