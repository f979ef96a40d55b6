"""Files that a setting names."""

import os
import stat
from pathlib import Path

from app.settings.errors import ConfigurationError


def is_there(path: Path) -> bool:
    """Say whether there is anything at `path`; a broken link, or a folder that hides what it holds, counts.

    Whoever reads it then says what is wrong with it.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read(setting: str, path: Path, remedy: str) -> bytes:
    """Read the whole of `path`; a ConfigurationError names `setting`, the path, why not, and `remedy`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise ConfigurationError(f"{setting}={path} is not a regular file; {remedy}")
        return path.read_bytes()
    except PermissionError as error:
        try:
            mode = f", mode {path.stat().st_mode & 0o7777:04o}"
        except PermissionError:  # not even its folder may be searched
            mode = ""
        raise ConfigurationError(f"{setting}={path} may not be read by uid {os.geteuid()}{mode}; {remedy}") from error
    except OSError as error:
        raise ConfigurationError(f"{setting}={path} cannot be read ({error.strerror}); {remedy}") from error
