"""Ports for what is started."""

import socket
from contextlib import ExitStack


def free_ports(number: int) -> list[int]:
    """Return so many ports that nobody has at this moment, each another."""
    with ExitStack() as stack:
        holders = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in holders:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in holders]
