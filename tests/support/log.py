"""What a service logs on stderr: records of the form that app/launcher/log.py has."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from app.launcher.log import ListenerLog

RECORD = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (DEBUG|INFO|WARNING|ERROR|CRITICAL) (\S+) (\d+) (.*)")


class KeptLog(ListenerLog):
    """What is logged of a listener, kept instead of written."""

    def __init__(self) -> None:
        super().__init__("test")
        self.events: list[str] = []
        self.warnings: list[str] = []

    def event(self, message: str) -> None:
        """Keep what happens as it should."""
        self.events.append(message)

    def warn(self, message: str) -> None:
        """Keep what deserves a look."""
        self.warnings.append(message)


@dataclass
class Record:
    """A record; `lines` are what follows its first line, as of a traceback."""

    time: str
    level: str
    listener: str
    pid: int
    message: str
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Log:
    """A file that a service's stderr is written to."""

    path: Path

    def records(self) -> list[Record]:
        """Return the records. What is none of them, nor a further line of one, counts as an ERROR of its own."""
        found: list[Record] = []
        for line in self.path.read_text(errors="backslashreplace").splitlines():
            if match := RECORD.fullmatch(line):
                time, level, listener, pid, message = match.groups()
                found.append(Record(time, level, listener, int(pid), message))
            elif line.startswith("  ") and found:
                found[-1].lines.append(line[2:])
            else:
                found.append(Record("", "ERROR", "", 0, line))
        return found

    def events(self) -> list[str]:
        """Return the messages of what happened as it should."""
        return [each.message for each in self.records() if each.level == "INFO"]

    def read_text(self) -> str:
        """Return the lines of what deserves a look: warnings and errors, without what is before each message."""
        return "".join(
            f"{line}\n" for each in self.records() if each.level != "INFO" for line in (each.message, *each.lines)
        )
