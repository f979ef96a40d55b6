"""The loads of `make soak`, short: every body verified, memory and open files back to what they were."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import oracle
from tests import soak
from tests.conftest import Launch, Service
from tests.load import Load

Measure = Callable[[Service, Path], soak.Figures]


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(lambda service, trust: soak.held(service, trust, 512, 4, tls=True), id="TLS held open"),
        pytest.param(lambda service, trust: soak.held(service, trust, 2048, 4, tls=False), id="plaintext held open"),
        pytest.param(lambda service, trust: soak.handshakes(service, trust, 128, 4), id="handshakes"),
        pytest.param(lambda service, trust: soak.soak(service, trust, 64, 6, 2), id="coming and going"),
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


def test_the_document_has_the_figures_of_the_last_run() -> None:
    assert soak.section(json.loads(soak.FIGURES.read_text())) in soak.DOCUMENT.read_text()
