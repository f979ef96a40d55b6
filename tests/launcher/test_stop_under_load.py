"""A stop while clients send requests without a pause: no response is cut."""

import signal

import pytest

from bench.verified_client import Tally
from bench.verified_load import Load
from tests.support.load import Loads
from tests.support.processes import wait_until
from tests.support.service import STOP_DEADLINE, Launch, Service

pytestmark = pytest.mark.xdist_group("load")  # one at a time: each loads the machine


def stop_under(service: Service, loads: list[Load]) -> list[Tally]:
    """Load a service fully, stop it, and return what became of the requests."""
    for each in loads:
        each.opened()
    for each in loads:
        each.begin()
    wait_until(lambda: all(each.tally().responded > each.connections for each in loads), "a request each", 30)
    service.remember()
    service.signal(signal.SIGTERM)
    assert service.wait(STOP_DEADLINE) == 0, service.report()
    service.gone()
    wait_until(lambda: all(each.tally().waiting == 0 for each in loads), "every connection's end")
    return [each.end() for each in loads]


def no_response_is_cut(tally: Tally, connections: int) -> None:
    """No response is wrong or cut short.

    Clients get a close notice before the end; only a request sent on an idle connection just as the server closes it gets
    no byte of a response (RFC 9112, section 9.3.1). So do some of clients that are late: beside other load this one
    takes longer for a turn of all its connections than the notice lasts (23 of 512 once).
    """
    assert (tally.broken, tally.wrong, tally.waiting) == (0, 0, 0), tally
    assert tally.unresponded <= connections / 10, tally
    assert tally.idle + tally.unresponded == connections, tally


def test_a_stop_under_load_on_both_listeners_cuts_no_response(
    launch: Launch, pair: dict[str, str], load: Loads
) -> None:
    service = launch(**pair).ready()
    tallies = stop_under(service, [load(service, listener, 256) for listener in ("json-tls", "json")])
    for tally in tallies:
        no_response_is_cut(tally, 256)
    assert service.errors.read_text() == ""


def test_a_stop_under_load_over_tls_cuts_no_response(launch: Launch, pair: dict[str, str], load: Loads) -> None:
    service = launch(**pair).ready()
    (tally,) = stop_under(service, [load(service, "json-tls", 512)])
    no_response_is_cut(tally, 512)
    assert service.errors.read_text() == ""


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_connections_that_arrive_during_a_stop_are_served_or_refused(
    launch: Launch, pair: dict[str, str], load: Loads, listener: str
) -> None:
    service = launch(**pair).ready()
    coming = load(service, listener, 256, requests=2)
    wait_until(lambda: coming.tally().responded > 1000, "a thousand responses")
    service.signal(signal.SIGTERM)
    assert service.wait(STOP_DEADLINE) == 0, service.report()
    service.gone()
    wait_until(lambda: coming.tally().unopened == 256, "every client refused")
    tally = coming.end()
    assert (tally.broken, tally.wrong, tally.waiting) == (0, 0, 0), tally
    assert tally.unresponded < 128, tally  # they waited to be accepted when the listener closed
