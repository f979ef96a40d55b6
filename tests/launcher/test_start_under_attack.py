"""The start while clients take all that a worker lets them have, and connect again at once."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from tests.support.configuration import SERVER_TOML, configured
from tests.support.processes import wait_until
from tests.support.service import Launch

CLIENTS = 60
SETTINGS = {"backpressure": 4, "header_read_timeout": 60, "start_deadline": 8}


def wait_for_the_end(connection: socket.socket, ending: threading.Event) -> None:
    """Return when a connection has been closed, or soon after all are: it may have been opened after the others' end."""
    connection.settimeout(0.5)
    while not ending.is_set():
        try:
            connection.recv(1)
        except TimeoutError:
            continue
        except OSError:
            return
        return


@contextmanager
def clients(port: int) -> Iterator[Callable[[], int]]:
    """Keep as many connections open as connect(2) gives, without a word; yield how many there are."""
    ending = threading.Event()
    opened: list[socket.socket] = []

    def hold() -> None:
        while not ending.is_set():
            each = socket.socket()
            each.settimeout(1.5)  # beyond the moment at which a SYN is sent again
            try:
                each.connect(("127.0.0.1", port))
            except OSError:  # nobody listens yet, or the SYN was dropped
                each.close()
                ending.wait(0.001)
                continue
            opened.append(each)
            wait_for_the_end(each, ending)

    threads = [threading.Thread(target=hold) for _ in range(CLIENTS)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
        try:
            yield lambda: len(opened)
        finally:
            ending.set()
            for each in opened:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for each in opened:
                stack.enter_context(each)


def test_clients_cannot_keep_the_service_from_starting(launch: Launch, pair: dict[str, str], tmp_path: Path) -> None:
    text = SERVER_TOML
    for name, value in SETTINGS.items():
        text, replaced = re.subn(rf"^{name} = \d+", f"{name} = {value}", text, flags=re.MULTILINE)
        assert replaced == 1
    service = launch(configured(tmp_path, text), **pair)
    with clients(service.tls_port), clients(service.port) as number:
        service.ready()
        wait_until(lambda: number() >= 2 * SETTINGS["backpressure"], "clients that have got in")
    wait_until(lambda: httpx.get(f"{service.url}/json/1", trust_env=False).status_code == 200, "a response")
    service.stop()
