"""What others did to the machine while something was measured: CPU time they took, and how much slower work became."""

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import proc

FOREIGN, STOLEN = 0.10, 0.02
"""Shares of one CPU; more of either disturbs. A quiet machine shows up to 0.05 and 0.01, most of it rounded ticks."""
SWING = 1.5
"""The most that `pace` may vary by within a round. Where the hypervisor shares cores and does not say so, nothing else
shows it."""
WORK = 100_000
"""Squares added: 5 to 12 ms where this was written."""
CALM_DEADLINE = 5.0  # seconds to wait for a calm machine before a round is taken again


class Used(NamedTuple):
    """CPU time in seconds since the machine started: stolen from it, and used by whomever on the CPUs of this process."""

    stolen: float
    busy: float


def parse_stat(stat: str, cpus: set[int]) -> Used:
    """Read /proc/stat (proc(5)), of those CPUs."""
    stolen = busy = 0
    for line in stat.splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _, _, interrupts, soft, steal, *_ = map(int, numbers)
            stolen, busy = stolen + steal, busy + user + nice + system + interrupts + soft
    ticks = os.sysconf("SC_CLK_TCK")
    return Used(stolen / ticks, busy / ticks)


def _own() -> float:
    """CPU time of this process, and of its children that have ended: the load generators."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usages)


class Watch:
    """The time since its making; `pid` is the subject's first process, whose tree is no stranger."""

    def __init__(self, cpus: set[int], pid: int | None = None) -> None:
        self.cpus, self.pid = cpus, pid
        self.begin = self._now()

    def _now(self) -> tuple[float, Used, float]:
        used = parse_stat(Path("/proc/stat").read_text(), self.cpus)
        subject = proc.cpu_time([self.pid, *proc.descendants(self.pid)]) if self.pid else 0.0
        return time.monotonic(), used, _own() + subject

    def shares(self) -> tuple[float, float]:
        """Return what others used, and what was stolen, as shares of one CPU."""
        (begin, before, own_before), (end, after, own_after) = self.begin, self._now()
        foreign = (after.busy - before.busy) - (own_after - own_before)
        return foreign / (end - begin), (after.stolen - before.stolen) / (end - begin)

    def was_disturbed(self) -> bool:
        """Return whether either was too much."""
        foreign, stolen = self.shares()
        return foreign > FOREIGN or stolen > STOLEN


def pace() -> float:
    """Return the CPU time in seconds of a piece of work that is always the same, the shortest of three."""

    def once() -> float:
        begin = time.thread_time()
        sum(number * number for number in range(WORK))
        return time.thread_time() - begin

    return min(once() for _ in range(3))


def swung(paces: Sequence[float]) -> bool:
    """Return whether the slowest is more than SWING times the fastest."""
    return max(paces) > SWING * min(paces)


def await_calm(cpus: set[int], deadline: float = CALM_DEADLINE) -> None:
    """Wait until half a second passes undisturbed, at most about `deadline` seconds."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        watch = Watch(cpus)
        time.sleep(0.5)
        if not watch.was_disturbed():
            return
