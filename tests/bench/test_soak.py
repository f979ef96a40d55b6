"""The loads of `make soak`, short and small: every body verified, memory and open files back to what they were."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import reliability, soak
from bench.soak import Span
from tests.support.service import Service, serving

Measure = Callable[[soak.Target], soak.Figures]

pytestmark = pytest.mark.xdist_group("load")  # one at a time: each loads the machine


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A service that gets one load after the other."""
    with serving(Service(tmp_path_factory.mktemp("loaded"), **pair)) as running:
        yield running


@pytest.mark.server
@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(lambda target: soak.held(target, 256, Span(1), tls=True), id="TLS held open"),
        pytest.param(lambda target: soak.held(target, 1024, Span(1), tls=False), id="plaintext held open"),
        pytest.param(lambda target: soak.handshakes(target, 64, Span(1)), id="handshakes"),
        pytest.param(lambda target: soak.come_and_go(target, 64, Span(1, rounds=2)), id="coming and going"),
    ],
)
def test_a_load_is_served_and_leaves_nothing(loaded: Service, authority_file: Path, measure: Measure) -> None:
    target = soak.Target(loaded.process.pid, loaded.port, loaded.tls_port, authority_file)
    responded, end = 0, time.monotonic() + 60
    while responded < 64 and time.monotonic() < end:  # a busy machine responds to nobody within the second
        figures = measure(target)
        assert figures["failures"] == [], figures
        responded += figures["responded"]
    assert responded >= 64


def test_the_document_has_the_figures_of_the_last_run() -> None:
    assert soak.section(json.loads(soak.FIGURES.read_text())) in reliability.DOCUMENT.read_text()
