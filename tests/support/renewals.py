"""A service whose pair is renewed."""

import signal
import ssl
from pathlib import Path

import trustme

from tests.support.certificates import issue, leaf_of, served_leaf
from tests.support.configuration import configured, with_certificate_interval
from tests.support.processes import children, freeze, wait_until
from tests.support.service import Launch, Service


class Renewing:
    """A service and the pair that it serves, in the folder `certs`; it looks at the pair when it gets SIGHUP."""

    def __init__(self, launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, folder: Path) -> None:
        self.launch, self.authority, self.trust, self.folder = launch, authority, trust, folder
        self.certs = issue(authority, folder / "certs")

    def start(
        self, text: str = with_certificate_interval(0), wrapper: tuple[str, ...] = (), **variables: str
    ) -> Service:
        """Start it with that text of a server.toml, and wait until it is ready."""
        self.service: Service = self.launch(configured(self.folder, text), wrapper=wrapper, **variables)
        return self.service.ready()

    def renew(self) -> bytes:
        """Write a new pair and say so; return its leaf."""
        issue(self.authority, self.certs)
        self.service.signal(signal.SIGHUP)
        return leaf_of(self.certs)

    def serves(self, leaf: bytes) -> bool:
        return served_leaf(self.service, self.trust) == leaf

    def said(self, text: str) -> bool:
        return text in self.service.errors.read_text()

    def replacement(self) -> tuple[int, int, int]:
        """Wait for a replacement of two workers; return its process and them, the first of which is stopped.

        So nobody can have asked both for a response yet.
        """
        before = set(self.service.server_processes)
        found: list[int] = []

        def forked() -> bool:
            found[:] = [each for each in self.service.server_processes if each not in before and children(each)]
            return bool(found)

        wait_until(forked, "a replacement")
        (process,) = found
        first = children(process)[0]
        freeze(first)
        wait_until(lambda: len(children(process)) == 2, "its second worker")
        self.service.remember()
        return process, first, max(children(process))
