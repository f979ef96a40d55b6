"""The one kind of error that a user can correct."""

SHOWN = 200
"""Characters of a value that an error shows."""


class ConfigurationError(Exception):
    """An invalid setting; its text is one line: setting, value, way out. `details` may be a traceback."""

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


def described(error: BaseException) -> str:
    """Return what an exception of somebody else's code says of itself, or its type if that raises, too."""
    try:
        return shown(repr(error))
    except Exception:  # noqa: BLE001 - of the application's code
        return type(error).__name__


def shown(value: object) -> str:
    """Return `value` as text for an error, cut at SHOWN characters."""
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
