"""The memory of workers: how much they may take together, and what they share."""

import gc
import os
from contextlib import suppress
from pathlib import Path

from app.settings.config import Configuration
from app.settings.files import MIB

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Versions 2 and 1 of control groups, as a container sees its own."""
LEAST = 16  # MiB
EXPENDABLE = 500  # thousandths of all memory that a worker seems to have on top, to the kernel that looks for a victim


def growth_limit(configuration: Configuration, limits: tuple[Path, ...] = LIMITS) -> tuple[int, str | None]:
    """Return the MiB that each worker may grow by, and a line if that is less than `worker_growth`.

    A quarter of the control group's memory is for what all processes share. Without a limit it is `worker_growth`: the
    kernel would otherwise kill workers, and whatever else it finds, before one of them is seen to be too large.
    """
    setting = configuration.server.worker_growth
    workers = configuration.server.workers * len(configuration.listeners)
    for path in limits:
        try:
            text = path.read_text().strip()
        except OSError:  # the other version, or none
            continue
        share = int(text) // MIB * 3 // 4 // workers if text.isdigit() else setting
        if share < setting:
            return max(LEAST, share), (
                f"worker_growth={setting} is more than {path} = {int(text) // MIB} MiB has for each of {workers}"
                f" workers: each may grow by {max(LEAST, share)} MiB; raise that limit, or lower WORKERS"
            )
    return setting, None


def resident(process: int | str = "self") -> int:
    """Return the resident bytes of a process (proc(5), /proc/pid/statm). Raises OSError if it has ended."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def be_killed_first() -> None:
    """Have the kernel kill this worker, which is replaced, before the launcher (proc(5), /proc/pid/oom_score_adj)."""
    score = Path("/proc/self/oom_score_adj")
    with suppress(OSError):  # a /proc that may not be written to: the kernel goes by size alone
        score.write_text(str(min(1000, int(score.read_text()) + EXPENDABLE)))


def share() -> None:
    """Keep what is loaded in pages that all workers share: their collectors of garbage leave it alone."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
