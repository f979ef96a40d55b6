"""Files that a setting names."""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.settings import start
from app.settings.errors import PEM, ConfigurationError, shown

MIB = 2**20


@dataclass(frozen=True)
class NamedFile:
    """A file, and the setting that names it."""

    setting: str
    path: Path

    @classmethod
    def of(cls, setting: str, text: str, remedy: str) -> Self:
        """Return the file that `text` names, as an absolute path, from the working directory of the start.

        Raises ConfigurationError for an empty text, and for one that no path can hold.
        """
        if not text:
            raise ConfigurationError(f"{setting} is empty; {remedy}")
        if any(each in text for each in PEM):  # never shown: it may be a private key
            raise ConfigurationError(
                f"{setting} holds a certificate or a key itself; put it in a file, and give its path"
            )
        if "\0" in text:
            raise ConfigurationError(f"{setting}={shown(text)} holds a NUL character; {remedy}")
        try:
            os.fsencode(text)
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                f"{setting}={shown(ascii(text))} cannot be written in this locale ({error.encoding}); set LC_ALL=C.UTF-8"
            ) from error
        path, folder = Path(text), start.taken().folder
        if folder is None and not path.is_absolute():
            raise ConfigurationError(
                f"{setting}={shown(text)} is relative to a working directory that is gone; {remedy}"
            )
        return cls(setting, path if folder is None else folder / path)

    def __str__(self) -> str:
        """Return setting and value as an error shows them."""
        return f"{self.setting}={self.shown()}"

    def shown(self) -> str:
        """Return the path for an error, but for one that may be a key in its place: nothing is there."""
        return shown(self.path if self.is_there() else str(self.path))

    def is_there(self) -> bool:
        """Return whether anything is at the path; a broken link counts, and so does a file in a closed folder.

        Reading such a file then reports what is wrong with it.
        """
        try:
            self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            return error.errno != errno.ENAMETOOLONG
        return True

    def read(self, most: int, remedy: str) -> bytes:
        """Return the content, of at most `most` bytes.

        Raises ConfigurationError, which names setting, path, reason and `remedy`.
        """
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # reading a pipe would wait for its writer
                raise ConfigurationError(f"{self} is not a regular file; {remedy}")
            with open(self.path, "rb", opener=_without_waiting) as file:
                content: bytes | None = file.read(most + 1)
        except PermissionError as error:
            try:
                mode = f", mode {self.path.stat().st_mode & 0o7777:04o}"
            except PermissionError:  # its folder may not be searched either
                mode = ""
            raise ConfigurationError(f"{self} may not be read by uid {os.geteuid()}{mode}; {remedy}") from error
        except OSError as error:
            raise ConfigurationError(f"{self} cannot be read ({error.strerror}); {remedy}") from error
        if content is None:  # a file of the kernel's that has nothing now, and may later
            raise ConfigurationError(f"{self} cannot be read (it would wait); {remedy}")
        if len(content) > most:
            raise ConfigurationError(f"{self} is larger than {most // 1024:,} KiB; {remedy}")
        return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; one that has become a pipe since it was looked at is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def from_environment(environment: Mapping[str, str], variable: str, remedy: str) -> NamedFile | None:
    """Return the file that a variable names; None if the variable is not set. Raises ConfigurationError."""
    text = environment.get(variable)
    return None if text is None else NamedFile.of(variable, text, remedy)
