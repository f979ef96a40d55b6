"""Variables of the environment. An empty one counts as not set, but for one that names a file: that is an error."""

from collections.abc import Mapping

from app.settings.errors import ConfigurationError, shown

TRUTHS = {"1": True, "true": True, "0": False, "false": False}


def text(environment: Mapping[str, str], variable: str | None) -> str | None:
    """Return the value of a variable; None if it is not set, or empty."""
    return environment.get(variable) or None if variable else None


def integer(environment: Mapping[str, str], variable: str | None, least: int, most: int) -> int | None:
    """Return a variable as an integer; None if it is not set, or empty. Raises ConfigurationError."""
    value = text(environment, variable)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 10 and least <= int(value) <= most):
        raise ConfigurationError(
            f"{shown(variable)}={shown(repr(value))} is not an integer from {least} to {most}; correct or unset it"
        )
    return int(value)


def truth(environment: Mapping[str, str], variable: str, *, otherwise: bool) -> bool:
    """Return a variable as a truth value; `otherwise` if it is not set, or empty. Raises ConfigurationError."""
    value = text(environment, variable)
    if value is None:
        return otherwise
    if value.lower() not in TRUTHS:
        raise ConfigurationError(f"{variable}={shown(repr(value))} is neither true nor false; correct or unset it")
    return TRUTHS[value.lower()]
