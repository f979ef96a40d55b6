"""A service whose pair is renewed."""

import signal
import ssl
from pathlib import Path

import trustme

from tests.support.certificates import issue, leaf_of, served_leaf
from tests.support.configuration import configured, with_certificate_interval
from tests.support.processes import children, wait_until
from tests.support.service import Launch, Service


class Renewing:
    """A service and the pair that it serves, in the folder `certs`; it looks at the pair when it gets SIGHUP."""

    def __init__(self, launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, folder: Path) -> None:
        self.launch, self.authority, self.trust, self.folder = launch, authority, trust, folder
        self.certs = issue(authority, folder / "certs")
        self.hold = folder / "hold"

    def start(
        self,
        text: str = with_certificate_interval(0),
        wrapper: tuple[str, ...] = (),
        *,
        to_hold: bool = False,
        **variables: str,
    ) -> Service:
        """Start it with that text of a server.toml, and wait until it is ready; `to_hold` for `renew_held`."""
        if to_hold:
            variables |= {"APPLICATION": "tests.support.applications:held", "HOLD": str(self.hold)}
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

    def renew_held(self) -> tuple[bytes, int, int, int]:
        """Write a new pair; return its leaf, the replacement's process and its two workers, whose startup is held.

        The service was started `to_hold`.
        """
        self.hold.touch()
        before = set(self.service.server_processes)
        leaf = self.renew()
        found: list[int] = []

        def forked() -> bool:
            found[:] = [
                each for each in self.service.server_processes if each not in before and len(children(each)) == 2
            ]
            return bool(found)

        wait_until(forked, "a replacement with two workers")
        (process,) = found
        first, second = children(process)
        self.service.remember()
        return leaf, process, first, second

    def go_on(self) -> None:
        """Let the workers start up that are held."""
        self.hold.unlink()
