"""What systemd is told of the service's state (sd_notify(3)), if it has asked for it by NOTIFY_SOCKET."""

import socket
import time

from app.launcher.log import warn
from app.settings import start

PATIENCE = 1.0  # seconds
READY, STOPPING = "READY=1", "STOPPING=1"


def reloading() -> str:
    """Return the state that a reload begins with; READY ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(state: str) -> None:
    """Send a state, within PATIENCE: systemd may have others' to read first (sd_notify(3)).

    One that cannot be sent is reported: systemd ends what does not become ready.
    """
    address = start.taken().environment.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        warn(f"NOTIFY_SOCKET={address} cannot be written to ({error.strerror or error}); it is systemd's to make")
