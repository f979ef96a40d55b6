"""The loads of `make soak`, short: every body verified, memory and open files back to what they were."""

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import oracle
from tests import soak
from tests.conftest import Launch, Service, wait_until
from tests.load import MIX, Load

Measure = Callable[[Service, Path], soak.Figures]


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(lambda service, trust: soak.held(service, trust, 512, 3, tls=True), id="TLS held open"),
        pytest.param(lambda service, trust: soak.held(service, trust, 2048, 3, tls=False), id="plaintext held open"),
        pytest.param(lambda service, trust: soak.handshakes(service, trust, 128, 3), id="handshakes"),
        pytest.param(lambda service, trust: soak.soak(service, trust, 64, 4, 2), id="coming and going"),
    ],
)
def test_a_load_is_answered_and_leaves_nothing(
    launch: Launch, pair: dict[str, str], authority_file: Path, measure: Measure
) -> None:
    service = launch(**pair).ready()
    figures = measure(service, authority_file)
    assert figures["failures"] == [], figures
    assert figures["answered"] > 500
    service.stop()
    assert service.errors.read_text() == ""


def test_the_load_finds_a_wrong_body(launch: Launch, tmp_path: Path) -> None:
    """A service of another dataset answers 200 with bodies of its own."""
    dataset = tmp_path / "dataset.json"
    items = json.loads(oracle.BUNDLED.read_text())
    items[0]["quantity"] += 1
    dataset.write_text(json.dumps(items))
    service = launch(DATASET_PATH=str(dataset), WORKERS="1").ready()
    with Load(service.port, 4, requests=2) as load:
        tally = load.tally()
        while tally.wrong < 10:
            tally = load.tally()
    assert tally.answered == 0
    service.stop()


def test_the_load_tells_how_a_connection_ended() -> None:
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
        asked = {connection: connection.recv(65536) for connection in (silent, cut_in_head, cut_in_body)}
        assert load.tally().waiting == 3
        cut_in_head.sendall(head[:20])
        cut_in_body.sendall(head + dict(MIX)[asked[cut_in_body]][4:-1])
        for connection in asked:
            connection.close()
        wait_until(lambda: load.tally().waiting == 0, "the end of the others")
        tally = load.end()
    assert (tally.idle, tally.unanswered, tally.broken, tally.answered, tally.wrong) == (1, 1, 2, 0, 0)


def test_the_document_has_the_figures_of_the_last_run() -> None:
    assert soak.section(json.loads(soak.FIGURES.read_text())) in soak.DOCUMENT.read_text()
