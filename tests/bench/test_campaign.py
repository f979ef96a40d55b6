"""The campaign of `make campaign`, short: what it does to a service, and that it sees what is lost."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from bench import campaign, faults, proc, reliability
from bench.campaign import Record
from bench.faults import Service
from bench.proc import wait_until

pytestmark = pytest.mark.xdist_group("load")  # one at a time: each loads the machine


@pytest.mark.long
@pytest.mark.server
def test_a_short_campaign_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "PEAK", 128)
    figures = campaign.campaign(2, 5, "closed", rest=1)
    assert figures["failures"] == []
    assert figures["lost"] == 0
    assert sum(figures["actions"].values()) >= 1
    assert figures["tally"]["responded"] > 0


@pytest.mark.server
def test_a_campaign_reports_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill_with_requests(service: Service) -> str:
        """Stop a worker first, so that requests wait in it."""
        worker = service.worker()
        proc.send(worker, signal.SIGSTOP)
        time.sleep(0.5)  # clients send one every 0.05 s
        proc.send(worker, signal.SIGKILL)
        wait_until(lambda: not proc.is_running(worker) and service.is_whole(), "another worker", 30)
        return "worker killed"

    monkeypatch.setattr(faults, "LOSSLESS", (kill_with_requests,))
    record = Record()
    with campaign.serving(tmp_path, 1, "file", record.failures) as service:
        campaign.episode(service, record, 0.5, kill=False)
        assert re.match(r"1 workers: Tally\(.*'worker killed'", record.failures.pop())
    assert record.failures == []


def test_the_document_has_the_figures_of_the_last_campaign() -> None:
    assert campaign.section(json.loads(campaign.FIGURES.read_text())) in reliability.DOCUMENT.read_text()
