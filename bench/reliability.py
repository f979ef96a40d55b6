"""docs/reliability.md: the sections that commands write, between markers of their own."""

import os
import platform
import time
from typing import Any

from bench import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"


def circumstances(command: str) -> dict[str, Any]:
    """Return when, how and on what a command is run."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": command,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def put(text: str, begin: str, end: str) -> None:
    """Put a text into the document, in place of what is between its markers."""
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{text}{after}")
