"""The one kind of error that a user can correct, and what of a value it shows."""

import re
from pathlib import Path

SHOWN = 200
"""Characters of a value that an error shows."""
PEM = ("-----BEGIN", "LS0tLS1CRUdJTi", "tLS0tLUJFR0lO", "tLS0tQkVHSU4")
"""What PEM begins with (RFC 7468), and the same in base64, wherever it begins."""
DER = re.compile(r"M[A-P][\w+/-]{39}", re.ASCII)
"""DER in base64, a sequence (X.690); the path of a file may look so, too."""
HEXADECIMAL = re.compile("[0-9a-f]{65,}"), re.compile("[0-9A-F]{65,}")
"""What may be DER, too, if it is no number."""
WORDS = re.compile(r"[^\s`'\"]+")
HIDDEN = "(not shown, as it may be a key)"
RUNS = re.compile(r"[\w+=-]{32,}", re.ASCII)
"""What may be base64, if it has capitals, small letters and digits."""


class ConfigurationError(Exception):
    """An invalid setting; its text is one line: setting, value, way out. `details` may be a traceback."""

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


def described(error: BaseException) -> str:
    """Return what an exception of somebody else's code says of itself, or its type if that raises, too."""
    try:
        return cut(repr(error))
    except Exception:  # noqa: BLE001 - of the application's code
        return type(error).__name__


def cut(text: str) -> str:
    """Return a text that is nobody's secret, such as a name in a certificate, cut at SHOWN characters."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def shown(value: object) -> str:
    """Return `value` as text for an error, cut at SHOWN characters; not what may be a private key in a wrong place.

    Paths are shown: they are of files that are there.
    """
    text = str(value)
    if isinstance(value, Path):
        return cut(text)
    if "\n" in text or any(each in text for each in PEM):
        return HIDDEN if _may_be_key(text) else cut(text)
    return cut(WORDS.sub(lambda word: HIDDEN if _may_be_key(word[0]) else word[0], text))


def _may_be_key(text: str) -> bool:
    return (
        any(each in text for each in PEM)
        or DER.search(text) is not None
        or any(not each.isdigit() for form in HEXADECIMAL for each in form.findall(text))
        or any(all(re.search(kind, each) for kind in ("[A-Z]", "[a-z]", "[0-9]")) for each in RUNS.findall(text))
    )
