"""The load itself: it notices a wrong body, and how a connection ended."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import oracle
from bench.verified_client import MIX
from bench.verified_load import Load
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.service import Launch


def test_a_load_notices_a_wrong_body(launch: Launch, tmp_path: Path) -> None:
    """A service of another dataset sends 200 with bodies of its own."""
    dataset = tmp_path / "dataset.json"
    items = json.loads(oracle.BUNDLED.read_text())
    items[0]["quantity"] += 1
    dataset.write_text(json.dumps(items))
    service = launch(DATASET_PATH=str(dataset), WORKERS="1").ready()
    with Load(service.port, 4, requests=2) as load:
        wait_until(lambda: load.tally().wrong >= 10, "ten wrong bodies")
        assert load.tally().responded == 0
    service.stop()


@pytest.mark.server
def test_a_load_reports_how_a_connection_ended() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        load = stack.enter_context(Load(listener.getsockname()[1], 4))
        idle, silent, cut_in_head, cut_in_body = [stack.enter_context(listener.accept()[0]) for _ in range(4)]
        load.opened()
        idle.close()
        wait_until(lambda: load.tally().idle == 1, "the end of an idle connection")
        load.begin()
        requests = {connection: connection.recv(65536) for connection in (silent, cut_in_head, cut_in_body)}
        assert load.tally().waiting == 3
        cut_in_head.sendall(head[:20])
        cut_in_body.sendall(head + dict(MIX)[requests[cut_in_body]][4:-1])
        for connection in requests:
            connection.close()
        wait_until(lambda: load.tally().waiting == 0, "the end of the others")
        tally = load.end()
    assert (tally.idle, tally.unresponded, tally.broken, tally.responded, tally.wrong) == (1, 1, 2, 0, 0)


def test_connections_that_send_at_once_cannot_begin_again() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with Load(listener.getsockname()[1], 1, requests=2) as load, pytest.raises(ValueError, match="2 requests each"):
            load.begin()


def test_connections_that_fail_are_reported_at_once() -> None:
    with Load(free_port(), 2) as load, pytest.raises(ConnectionError, match=f"2 of 2 connections to port {load.port}"):
        load.opened()
