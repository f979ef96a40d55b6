"""Processes as the kernel shows them (proc(5)).

psutil's `Process.children` leaves out children whose start it takes to be before their parent's, which happens when the
machine's clock is set.
"""

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the children of a process, those started first first; none if it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sorted(int(child) for task in tasks for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def open_files(pid: int) -> int:
    """Return how many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def is_running(pid: int) -> bool:
    """Return whether a process exists and is more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False
