"""The memory of workers: how much they may take together, and what they share."""

import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from app.settings.config import Configuration
from app.settings.files import MIB

LEAST = 16  # MiB
EXPENDABLE = 500  # thousandths of all memory that a worker seems to have on top, to the kernel that looks for a victim


def limits(root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield the limits, in bytes, of this process's control group and of those around it, and where each is set.

    They are of version 2 or 1 (cgroups(7)). A container may see its own group as the root of all, whatever its path is.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:  # a kernel without control groups
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = root / "sys/fs/cgroup" / controllers
        parts = path.strip("/").split("/")
        parts = [] if ".." in parts else parts  # else it is outside of what is seen here
        for depth in range(len(parts), -1, -1):
            limit = folder.joinpath(*parts[:depth], "memory.limit_in_bytes" if controllers else "memory.max")
            with suppress(OSError, ValueError):  # it is not there, or there is none ("max")
                yield int(limit.read_text()), limit


def growth_limit(configuration: Configuration, root: Path = Path("/")) -> tuple[int, str | None]:
    """Return the MiB that each worker may grow by, and a line if that is less than `worker_growth`.

    A quarter of the control group's memory is for what all processes share. Without a limit it is `worker_growth`: the
    kernel would otherwise kill workers, and whatever else it finds, before one of them is seen to be too large.
    """
    setting = configuration.server.worker_growth
    workers = configuration.server.workers * len(configuration.listeners)
    limit, path = min(limits(root), default=(0, root))
    share = limit // MIB * 3 // 4 // workers
    if not limit or share >= setting:
        return setting, None
    return max(LEAST, share), (
        f"worker_growth={setting} is more than {path} = {limit // MIB} MiB has for each of {workers}"
        f" workers: each may grow by {max(LEAST, share)} MiB; raise that limit, or lower WORKERS"
    )


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
