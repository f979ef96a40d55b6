"""A load whose every body is compared with the oracle's: client processes, and what became of their requests."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from bench import ROOT
from bench.proc import wait_until
from bench.verified_client import BEGIN, REPORT, Plan, Tally


class Load:
    """Client processes that load a port until `end`: each has its own limit on open files, and its own interpreter."""

    def __init__(  # noqa: PLR0913 - each is an option of the load
        self,
        port: int,
        connections: int,
        *,
        authority: Path | None = None,
        requests: int = 0,
        pause: float = 0.0,
        processes: int = 1,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        """Start them; `python` is the command of an interpreter with the repository as its working directory."""
        plan = Plan(port, connections // processes, str(authority) if authority else None, requests, pause)
        self.port, self.connections, self.requests = port, plan.connections * processes, requests
        self.processes = [
            subprocess.Popen(
                [*python, "-m", "bench.verified_client", json.dumps(asdict(plan))],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(processes)
        ]
        self.pipes = [(each.stdin, each.stdout) for each in self.processes if each.stdin and each.stdout]

    def tally(self) -> Tally:
        """Return what has become of connections and requests so far."""
        self._command(REPORT)
        return self._read()

    def opened(self, deadline: float = 60.0) -> None:
        """Wait until all connections are open; raise TimeoutError after `deadline` seconds, OSError if some fail."""

        def tried() -> bool:
            tally = self.tally()
            return tally.opened + tally.unopened >= self.connections

        wait_until(tried, f"{self.connections} connections", deadline)
        if failed := self.tally().unopened:
            raise ConnectionError(f"{failed} of {self.connections} connections to port {self.port} failed")

    def begin(self) -> None:
        """Make the connections that are kept send requests; raise ValueError if none are, as the others send at once."""
        if self.requests:
            raise ValueError(f"connections for {self.requests} requests each have begun when they were opened")
        self._command(BEGIN)

    def _command(self, command: bytes) -> None:
        for stdin, _ in self.pipes:
            stdin.write(command)
            stdin.flush()

    def _read(self) -> Tally:
        return Tally.sum([Tally(**json.loads(stdout.readline())) for _, stdout in self.pipes])

    def end(self) -> Tally:
        """Wait for the responses still awaited, close all connections, and return what became of all."""
        for stdin, _ in self.pipes:
            stdin.close()
        tally = self._read()
        for process in self.processes:
            process.wait(10)
        return tally

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for pipe in itertools.chain(*self.pipes):
            pipe.close()
