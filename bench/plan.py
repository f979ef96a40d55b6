"""What a run measures, and with what: subjects, certificates, rounds, CPUs."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from bench.subjects import SUBJECTS, Subject

KeyType = Literal["RSA-2048", "P-256"]
KEY_TYPES: tuple[KeyType, ...] = ("RSA-2048", "P-256")


class Pair:
    """A pair, RSA-2048 as the arena's or P-256, and the authority that signed it."""

    def __init__(self, folder: Path, kind: KeyType) -> None:
        """Make both; `certificate` and `key` are files in `folder`."""
        self.authority = trustme.CA()
        key_type = trustme.KeyType.RSA if kind == "RSA-2048" else trustme.KeyType.ECDSA
        leaf = self.authority.issue_cert("127.0.0.1", "localhost", key_type=key_type)
        self.certificate, self.key = folder / f"{kind}.crt", folder / f"{kind}.key"
        leaf.private_key_pem.write_to_path(str(self.key))
        leaf.cert_chain_pems[0].write_to_path(str(self.certificate))
        public = x509.load_pem_x509_certificate(self.certificate.read_bytes()).public_key()
        if isinstance(public, rsa.RSAPublicKey) != (kind == "RSA-2048"):
            raise RuntimeError(f"the authority made another key than {kind}")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    `tell` shows the user what is being measured, and that so many seconds of what the measurement costs are over.
    """

    subjects: Sequence[Subject]
    pairs: Mapping[KeyType, Pair]
    tell: Callable[[str, float], None]
    rounds: int = 9
    seconds: float = 1.0
    """Of a burst that counts."""
    server_cpus: set[int] = field(default_factory=lambda: set(sorted(os.sched_getaffinity(0))[:1]))
    load_cpus: set[int] = field(default_factory=lambda: set(sorted(os.sched_getaffinity(0))[1:]))

    @property
    def cpus(self) -> set[int]:
        """All that are used."""
        return self.server_cpus | self.load_cpus

    def of(self, profile: str, without: Collection[str] = ()) -> "Plan":
        """Keep only the subjects measured under this profile, and of those leave out some by name."""
        kept = [each for each in self.subjects if profile in each.profiles and each.name not in without]
        return replace(self, subjects=kept)

    def of_service(self) -> "Plan":
        """Keep only this service, whatever subjects the user named."""
        return replace(self, subjects=SUBJECTS[:1])
