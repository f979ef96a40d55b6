"""A file that is only in memory."""

import os
from pathlib import PosixPath


class SealedFile(PosixPath):
    """A file in memory that this process and those forked from it can open, and no other process can change.

    Granian resolves the paths that it is given. A descriptor has no other name, so `resolve` returns this path.
    """

    @classmethod
    def of(cls, content: bytes) -> "SealedFile":
        """Return a file that lives as long as a process holds its descriptor. Raises OSError."""
        descriptor = os.memfd_create("pem")
        try:
            os.ftruncate(descriptor, len(content))  # fails if the limit is below; a write would stop there
            os.write(descriptor, content)
        except OSError:  # a limit on file sizes counts here, too
            os.close(descriptor)
            raise
        return cls(f"/proc/self/fd/{descriptor}")

    def resolve(self, strict: bool = False) -> "SealedFile":  # noqa: ARG002, FBT001, FBT002 - Path's signature
        """Return this path, unresolved."""
        return self

    def close(self) -> None:
        """Close the descriptor."""
        os.close(int(self.name))
