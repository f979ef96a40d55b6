"""A service's metrics, as a scraper reads them (Prometheus' text format, version 0.0.4)."""

import re

import httpx

from tests.support.processes import wait_until
from tests.support.service import Service

SAMPLE = re.compile(r'(granian_\w+)(?:\{worker="(\d+)"\})? (-?\d+)')
TYPE = re.compile(r"# TYPE granian_\w+ (counter|gauge)")
Samples = dict[str, dict[str, int]]
"""By name and worker, which is "" for what is of no worker."""


def metrics_url(service: Service, listener: str) -> str:
    """Return where the launcher says that a listener's metrics are."""
    (found,) = re.findall(rf"^{listener}: .*; metrics at (\S+)$", service.output.read_text(), re.MULTILINE)
    return str(found)


def scrape(url: str) -> Samples:
    """Return what a scrape on a connection of its own gets; every line has to be of the format."""
    response = httpx.get(url, timeout=5, trust_env=False)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain"
    samples: Samples = {}
    for line in response.text.split("\n"):
        if TYPE.fullmatch(line):
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        samples.setdefault(found[1], {})[found[2] or ""] = int(found[3])
    return samples


def total(samples: Samples, name: str) -> int:
    """Return the sum over all workers; 0 before the first report."""
    return sum(samples.get(name, {}).values())


def reported(url: str, name: str, number: int) -> Samples:
    """Wait until a metric has that sum over all workers; return the scrape that says so."""
    found: list[Samples] = []

    def there() -> bool:
        found[:] = [scrape(url)]
        return total(found[0], name) == number

    wait_until(there, f"{name} {number}", 15)
    return found[0]
