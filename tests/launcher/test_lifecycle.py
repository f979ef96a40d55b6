"""The table of app/launcher/lifecycle.py with server processes that are only said to be there: no fork, no client."""

import dataclasses
import errno
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from app.launcher import filters, granian_server, lifecycle
from app.launcher.child import Child
from app.launcher.lifecycle import HANDSHAKES, LEAST, NOTICE, Lifecycle
from app.launcher.pair_watch import PairWatch
from app.launcher.renewal import PAUSE, Renewal
from app.launcher.server_process import Endpoint, ListenerError, ServerProcess, State, Work
from app.launcher.sockets import ReuseportGroup, clients_wait
from app.settings import certificate, config
from app.settings.config import Listener, PairFiles
from app.settings.files import NamedFile
from tests.support.log import KeptLog
from tests.support.ports import free_port
from tests.support.processes import ROOT, children, is_running, wait_until


class Told(ServerProcess):
    """A server process that does what it is told to have done."""

    response: bool | None = None
    asked = 0
    may_ask = True
    is_asked = False  # no process is there
    end: str | None = None

    def start(self, *_: object) -> None:
        """Fork nothing."""

    def prove(self, *_: object) -> None:
        """Ask nobody."""
        if not self.may_ask:
            refuse()
        self.asked += 1
        self.is_asked = True

    def ask_again(self) -> None:
        self.is_asked = False

    def proved(self) -> bool | None:
        return self.response

    def ended(self) -> str | None:
        return self.end


def refuse(*_: object) -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.fixture
def made(pair: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lifecycle]:
    """A listener whose first server process has been started, and is to be proved."""
    monkeypatch.setattr(lifecycle, "ServerProcess", Told)
    server = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"}).server
    server = msgspec.structs.replace(server, workers=2, certificate_interval=0)
    files = PairFiles(NamedFile("TLS_CERT", ROOT / pair["TLS_CERT"]), NamedFile("TLS_KEY", ROOT / pair["TLS_KEY"]))
    application = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"}).listeners[0].application
    listener = Listener("test", free_port(), "TEST_PORT", "TEST_PORT", "http/1.1", application, files)
    with closing(ReuseportGroup(server, listener)) as group:
        endpoint = Endpoint(server, listener, certificate.load(files), None, group, group.bind(2))
        one = Lifecycle(endpoint, Work(lambda *_: None, lambda _: None), lambda *_: None)
        one.start()
        yield one


def current(one: Lifecycle) -> Told:
    assert isinstance(one.current, Told)
    return one.current


def serve(one: Lifecycle) -> Told:
    current(one).response = True
    one.advance(time.monotonic())
    assert current(one).state is State.SERVING
    return current(one)


def serve_by_all_workers(one: Lifecycle) -> Told:
    process = serve(one)
    for worker in range(2):
        process.startups.note_service(worker)
    return process


def replace(one: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Have a replacement started; return it."""
    pairs = [one.endpoint.pair]
    monkeypatch.setattr(PairWatch, "look", lambda *_: pairs.pop() if pairs else None)
    one.advance(time.monotonic())
    assert isinstance(one.replacement, Told)
    return one.replacement


@pytest.fixture
def warned(made: Lifecycle) -> list[str]:
    made.reports = made.renewal.reports = reports = KeptLog()
    return reports.warnings


@pytest.mark.parametrize(("step", "what"), [("start", "started"), ("prove", "asked for a response")])
def test_a_first_process_that_cannot_be_forked_is_an_error_with_a_way_out(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch, step: str, what: str
) -> None:
    monkeypatch.setattr(Told, step, refuse)
    with pytest.raises(ListenerError) as raised:
        made.start()
    reason = r"\(\[Errno 12\] Cannot allocate memory\); raise the limits on processes \(ulimit -u\) and memory"
    assert re.fullmatch(f"listener test cannot be {what} {reason}", str(raised.value))


def test_a_replacement_whose_filter_cannot_be_attached_has_failed(
    made: Lifecycle, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve(made)
    replace(made, monkeypatch).response = True
    monkeypatch.setattr(filters, "attach", refuse)
    made.advance(time.monotonic())
    assert (made.current, made.replacement, made.predecessor) == (first, None, None)
    assert first.state is State.SERVING
    assert made.group.members == made.group.held == list(first.endpoint.sockets)
    (line,) = warned
    assert "Cannot allocate memory" in line
    assert line.endswith("; the pair from before is served on")


def test_want_of_memory_for_a_replacement_leaves_no_socket(
    made: Lifecycle, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve(made)
    monkeypatch.setattr(lifecycle, "ServerProcess", refuse)
    pairs = [made.endpoint.pair]
    monkeypatch.setattr(PairWatch, "look", lambda *_: pairs.pop() if pairs else None)
    made.advance(time.monotonic())
    assert made.group.members == made.group.held == list(first.endpoint.sockets)
    (line,) = warned
    assert "Cannot allocate memory" in line


@pytest.mark.parametrize("accepts", [True, False])
def test_a_predecessor_is_not_drained_while_clients_wait_in_its_sockets(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch, *, accepts: bool
) -> None:
    """Its workers are at their limit: they accept when clients leave, which they may for `drain_deadline`."""
    first = serve(made)
    with socket.create_connection(("127.0.0.1", made.endpoint.listener.port)):
        wait_until(lambda: clients_wait(first.endpoint.sockets), "a client in a socket")
        replace(made, monkeypatch).response = True
        now = time.monotonic()
        made.advance(now)
        now += HANDSHAKES
        made.advance(now)
        for _ in range(2 if accepts else made.endpoint.server.drain_deadline - 1):
            made.advance(now := now + NOTICE)
            assert first.deadline == now + NOTICE
        if accepts:
            for each in first.endpoint.sockets:
                with suppress(BlockingIOError):
                    each.accept()[0].close()
        made.advance(now := now + NOTICE)
        assert first.state is State.DRAINING


def test_clients_follow_the_workers_that_serve_while_a_replacement_is_asked(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = serve_by_all_workers(made)
    replacement = replace(made, monkeypatch)
    first, second = process.endpoint.sockets
    assert (made.group.clients_to, replacement.asked) == ([first, second], 1)
    process.startups.begin(0, accepts=False)
    made.advance(time.monotonic())
    assert (made.group.clients_to, replacement.asked) == ([second], 2)
    process.startups.note_service(0)
    made.advance(time.monotonic())
    assert (made.group.clients_to, replacement.asked) == ([first, second], 3)


def test_clients_that_could_not_be_given_to_a_worker_are_given_later(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = serve(made)
    process.startups.note_service(0)
    made.advance(time.monotonic())
    process.startups.note_service(1)
    with monkeypatch.context() as patch:
        patch.setattr(filters, "attach", refuse)
        made.advance(time.monotonic())
        assert made.group.clients_to == [process.endpoint.sockets[0]]
    due = made.next_event()
    assert due is not None
    assert due < time.monotonic() + 1
    made.advance(due)
    assert made.group.clients_to == process.endpoint.sockets


def test_a_replacement_that_nobody_could_ask_again_is_asked_later(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has died, and another process cannot be forked just then: that costs no reload."""
    process = serve_by_all_workers(made)
    replacement = replace(made, monkeypatch)
    replacement.may_ask = False
    process.startups.begin(0, accepts=False)
    made.advance(time.monotonic())
    assert made.replacement is replacement
    assert made.group.clients_to == [process.endpoint.sockets[1]]
    replacement.may_ask = True
    due = replacement.next_look(made.group.clients_to)
    assert due is not None
    made.advance(due)
    assert (replacement.asked, replacement.next_look(made.group.clients_to)) == (2, None)


def test_clients_follow_the_first_worker_that_serves_once_all_have_ended(made: Lifecycle) -> None:
    process = serve_by_all_workers(made)
    made.advance(time.monotonic())
    assert process.next_look(made.group.clients_to) is None
    for worker in range(2):
        process.startups.begin(worker, accepts=False)
    made.advance(time.monotonic())
    due = process.next_look(made.group.clients_to)
    assert due is not None
    process.startups.note_service(1)
    made.advance(due)
    assert made.group.clients_to == [process.endpoint.sockets[1]]


def test_a_stop_leaves_time_to_drain_though_the_launcher_has_had_no_turn(made: Lifecycle) -> None:
    """It was stopped itself, or starved, beyond its deadline."""
    process = serve(made)
    made.stop(time.monotonic())
    assert made.stop_end is not None
    late = made.stop_end + 5
    for moment in (late, late + LEAST - 0.01):
        made.advance(moment)
        assert process.state is State.DRAINING
    made.advance(late + LEAST)
    assert process.state is State.ENDED


def test_a_stopped_worker_ends_with_its_server_process(made: Lifecycle) -> None:
    """However young it is."""

    def serve_with_a_young_worker(*_: object) -> None:
        granian_server.let_forks_die_with(os.getpid())
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        signal.pause()

    process = ServerProcess(made.endpoint)
    process.start(serve_with_a_young_worker)
    wait_until(lambda: bool(children(process.pid)), "the worker")
    (worker,) = children(process.pid)
    wait_until(lambda: "(stopped)" in Path(f"/proc/{worker}/status").read_text(), "its stop")
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: process.ended() is not None, "the end of the server process")
    wait_until(lambda: not is_running(worker), "the end of its worker")


def test_a_pair_that_waits_for_room_comes_with_the_reload_that_waits(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or reload after reload would put it off."""
    serve(made)
    replace(made, monkeypatch).response = True
    made.advance(now := time.monotonic())
    predecessor, pair = made.predecessor, made.endpoint.pair
    assert isinstance(predecessor, Told)
    assert pair is not None
    newer = dataclasses.replace(pair, chain_pem=pair.chain_pem + b" ")
    monkeypatch.setattr(
        PairWatch, "look", lambda self, now: newer if self.next_look is not None and now >= self.next_look else None
    )
    made.renewal.ask(now)
    made.renewal.reload(
        dataclasses.replace(made.endpoint, server=msgspec.structs.replace(made.endpoint.server, backlog=9))
    )
    made.advance(time.monotonic())  # there is no room: both wait
    predecessor.end = "it ended"
    made.advance(now := time.monotonic())
    assert (made.predecessor, made.replacement) == (None, None)
    made.advance(now + PAUSE + 0.1)
    assert made.replacement is not None
    assert (made.replacement.endpoint.pair, made.replacement.endpoint.server.backlog) == (newer, 9)


def test_a_replacement_has_the_deadlines_that_it_is_to_serve_with(made: Lifecycle) -> None:
    serve(made)
    server = msgspec.structs.replace(made.endpoint.server, start_deadline=1000, drain_deadline=9)
    made.renewal.reload(dataclasses.replace(made.endpoint, server=server))
    made.advance(now := time.monotonic())
    assert made.replacement is not None
    assert made.replacement.deadline == pytest.approx(now + 1000, abs=10)


def test_the_first_server_process_whose_filter_cannot_be_attached_is_an_error_of_its_listener(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    current(made).response = True
    monkeypatch.setattr(filters, "attach", refuse)
    with pytest.raises(ListenerError, match="Cannot allocate memory"):
        made.advance(time.monotonic())


def test_a_predecessor_serves_on_though_no_filter_can_be_attached(
    made: Lifecycle, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve(made)
    second = replace(made, monkeypatch)
    second.response = True
    made.advance(time.monotonic())
    assert (made.current, made.predecessor) == (second, first)
    second.end = "listener test ended (killed by SIGKILL)"
    monkeypatch.setattr(filters, "attach", refuse)
    made.advance(time.monotonic())
    assert (made.current, made.predecessor) == (first, None)
    assert first.state is State.SERVING
    assert made.group.members == list(first.endpoint.sockets)
    assert len(warned) == 1


def test_a_response_counts_though_it_is_seen_after_the_deadline(made: Lifecycle) -> None:
    """The launcher was stopped (SIGSTOP) meanwhile."""
    life = current(made)
    life.response = True
    assert life.deadline is not None
    made.advance(life.deadline + 1)
    assert life.state is State.SERVING


def reloaded(endpoint: Endpoint) -> Endpoint:
    return dataclasses.replace(endpoint, server=msgspec.structs.replace(endpoint.server, backlog=7))


def test_a_reload_that_another_has_undone_is_not_served(made: Lifecycle) -> None:
    serve(made)
    renewal, before = made.renewal, made.endpoint
    renewal.reload(reloaded(before))
    assert renewal.wanted(time.monotonic(), before, busy=True) is None
    renewal.reload(before)
    assert renewal.wanted(time.monotonic(), before, busy=False) is None


def test_a_reload_while_another_is_proved_is_served_afterwards(made: Lifecycle) -> None:
    serve(made)
    before = made.endpoint
    made.renewal.reload(reloaded(before))
    made.advance(time.monotonic())
    made.renewal.reload(before)
    assert isinstance(made.replacement, Told)
    made.replacement.response = True
    made.advance(time.monotonic())
    assert made.endpoint.server.backlog == 7
    wanted = made.renewal.wanted(time.monotonic(), made.endpoint, busy=False)
    assert wanted is not None
    assert wanted.serves_like(before)


def test_a_pair_is_tried_with_what_is_served_last(made: Lifecycle) -> None:
    """What was served before may have no sockets any more."""
    asked: list[Endpoint] = []
    renewal = Renewal(lambda endpoint: asked.append(endpoint), KeptLog())  # noqa: PLW0108 - returns None
    renewal.served(made.endpoint)
    later = dataclasses.replace(made.endpoint, sockets=())
    renewal.served(later)
    assert renewal.watch is not None
    assert later.pair is not None
    renewal.watch.why_rejected(later.pair)
    assert asked == [later]


def test_a_stop_shortens_a_close_notice_that_is_being_sent(made: Lifecycle) -> None:
    now = time.monotonic()
    serve(made).enter(State.CLOSING, now + lifecycle.NOTICE)
    made.stop(now)
    assert current(made).deadline == now + lifecycle.NOTICE_AT_STOP


def test_a_port_is_held_after_a_stop_while_something_of_what_was_given_up_is_left(
    made: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = serve(made)
    process._server = holder = Child(lambda: time.sleep(60), leads_session=True, keeps=made.endpoint.sockets)  # noqa: SLF001
    monkeypatch.setattr(process, "send_close_notice", lambda: None)
    monkeypatch.setattr(process, "kill", lambda: None)  # it is slow to die
    made.stop(time.monotonic())
    made.group.close()
    made.release(process)
    wait_until(made.still_holds_its_port, "its group")
    holder.send_kill()
    wait_until(lambda: holder.exitcode is not None, "its end")
    assert not made.still_holds_its_port()
