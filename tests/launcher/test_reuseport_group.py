"""The sockets of a port, on loopback: their order, and which of them a connection gets."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import msgspec
import pytest

from app.launcher import filters, sockets
from app.launcher.child import Child
from app.launcher.sockets import ReuseportGroup
from app.settings import config
from app.settings.application import main_application
from app.settings.config import Listener
from app.settings.errors import ConfigurationError
from app.settings.files import NamedFile
from app.settings.tables import Server
from tests.support.ports import free_port, is_free
from tests.support.processes import ROOT, open_files, wait_until

MANY = 60  # connections: with 3 sockets, one gets none in a run of 2.4e10


@pytest.fixture(scope="module")
def settings() -> Server:
    return config.read(NamedFile("test", ROOT / "server.toml"), {"SELF_SIGNED": "1"}).server


@pytest.fixture(params=["127.0.0.1", "::1"])
def group(request: pytest.FixtureRequest, settings: Server) -> Iterator[ReuseportGroup]:
    server = msgspec.structs.replace(settings, host=request.param)
    if ":" in request.param and not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 on this machine")
    with closing(
        ReuseportGroup(
            server,
            Listener("test", free_port(), "TEST_PORT", "TEST_PORT", "http/1.1", main_application(None, {}), None),
        )
    ) as made:
        yield made


def test_sockets_that_leave_get_no_connection_even_if_fewer_stay(group: ReuseportGroup) -> None:
    """Whatever the kernel picks while they are closed: what comes to one of them is sent again, to one that stays."""
    leaving = group.bind(6)
    group.listen(leaving)
    group.spread(leaving)
    staying = group.bind(1)
    group.listen(staying)
    group.spread(staying)
    started: list[socket.socket] = []
    with ExitStack() as stack:

        def end_slowly(leaving: Sequence[socket.socket]) -> None:
            for each in leaving[::-1]:
                each.close()
                for _ in range(5):
                    client = stack.enter_context(socket.socket(group.family))
                    client.setblocking(False)  # noqa: FBT003 - socket's signature
                    with suppress(BlockingIOError):
                        client.connect((group.server.host, group.listener.port))
                    started.append(client)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sockets, "end_from_the_last", end_slowly)
            group.remove(leaving)
        wait_until(lambda: all(map(is_connected, started)), "all connections")
        ports = {each.getsockname()[1] for each in started}
        assert set(accepted(staying[0], stack)) == ports


def is_connected(client: socket.socket) -> bool:
    try:
        client.getpeername()
    except OSError:
        return False
    return True


def test_what_has_left_gets_no_connection_whoever_holds_it(group: ReuseportGroup) -> None:
    """What was killed may be slow to die; what an application has started may live on."""
    staying, leaving = listening(group, 1), listening(group, 2)
    made = Child(lambda: time.sleep(60), keeps=leaving)
    try:
        with ExitStack() as stack:
            group.remove(leaving)
            clients = [connect(group, stack) for _ in range(20)]
            assert len(accepted(staying[0], stack)) == len(clients)
            group.remove(staying)
            with pytest.raises(ConnectionRefusedError):
                connect(group, stack)
        assert is_free(group.listener.port)
    finally:
        made.kill()


def test_a_port_is_held_while_another_process_listens_on_it(group: ReuseportGroup) -> None:
    bound = group.bind(1)
    group.listen(bound)
    made = Child(lambda: time.sleep(60), keeps=bound)
    group.close()
    assert group.is_held()
    made.send_kill()
    wait_until(lambda: not group.is_held(), "the end of what listens")


def connect(group: ReuseportGroup, stack: ExitStack, bound: socket.socket | None = None) -> socket.socket:
    client = bound or stack.enter_context(socket.socket(group.family))
    client.settimeout(5)
    client.connect((group.server.host, group.listener.port))
    return client


def accepted(each: socket.socket, stack: ExitStack) -> list[int]:
    """Accept what waits in a socket; return the clients' ports."""
    ports: list[int] = []
    while True:
        try:
            connection, address = each.accept()
        except BlockingIOError:
            return ports
        stack.enter_context(connection)
        ports.append(address[1])


def counts(group: ReuseportGroup, members: Sequence[socket.socket]) -> list[int]:
    """Make MANY connections, and return how many each of the sockets gets."""
    with ExitStack() as stack:
        for _ in range(MANY):
            connect(group, stack)
        return [len(accepted(each, stack)) for each in members]


def listening(group: ReuseportGroup, number: int) -> list[socket.socket]:
    bound = group.bind(number)
    group.listen(bound)
    group.spread(bound)
    return bound


def test_before_the_first_spread_none_but_the_special_client_gets_in(group: ReuseportGroup) -> None:
    members = group.bind(2)
    group.listen(members)
    with ExitStack() as stack:
        client, other = (stack.enter_context(socket.socket(group.family)) for _ in range(2))
        client.bind((group.server.host, 0))
        for special in members[::-1]:
            group.spread_but_one(members, client, special)
        connect(group, stack, client)
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            other.connect((group.server.host, group.listener.port))
        assert accepted(members[0], stack) == [client.getsockname()[1]]
        group.spread(members)
        assert sum(counts(group, members)) == MANY


def test_spread_gives_each_of_them_some_and_no_other_any(group: ReuseportGroup) -> None:
    before, after = listening(group, 3), listening(group, 3)
    for chosen, others in ((before, after), (after, before)):
        group.spread(chosen)
        served = dict(zip(group.members, counts(group, group.members), strict=True))
        assert all(served[each] for each in chosen)
        assert not any(served[each] for each in others)


@pytest.mark.parametrize("chosen", [(0,), (2,), (0, 2), (1, 3), (0, 1, 3)])
def test_spread_gives_connections_to_members_that_do_not_follow_each_other(
    group: ReuseportGroup, chosen: tuple[int, ...]
) -> None:
    members = listening(group, 4)
    group.spread([members[each] for each in chosen])
    served = counts(group, members)
    assert [number for number, count in enumerate(served) if count] == list(chosen)


def test_spread_but_one_gives_the_special_client_to_the_special_socket(group: ReuseportGroup) -> None:
    before, after = listening(group, 2), listening(group, 2)
    for special in after:
        with ExitStack() as stack:
            client = stack.enter_context(socket.socket(group.family))
            client.bind((group.server.host, 0))
            group.spread_but_one(before, client, special)
            others = [connect(group, stack) for _ in range(MANY)]
            connect(group, stack, client)
            port = client.getsockname()[1]
            assert accepted(special, stack) == [port]
            assert sum(len(accepted(each, stack)) for each in before) == len(others)


def test_removed_first_members_leave_the_others_in_order(group: ReuseportGroup) -> None:
    before, after = listening(group, 3), listening(group, 3)
    group.spread(after)
    group.remove(before)
    assert group.members == group.held == after
    assert all(counts(group, after))
    for each in after:  # the kernel's numbers are those of `members`
        group.spread([each])
        assert counts(group, after) == [MANY * (other is each) for other in after]


@pytest.mark.parametrize(("leave", "stay"), [(1, 3), (2, 5), (4, 5)])
def test_all_that_stay_get_connections_if_more_stay_than_leave(group: ReuseportGroup, leave: int, stay: int) -> None:
    """As after a reload to more workers: one of them got all connections. What comes after them is in order, too."""
    before, after = listening(group, leave), listening(group, stay)
    group.spread(after)
    group.remove(before)
    assert all(counts(group, after))
    for each in group.members:  # the kernel's numbers are those of `members`
        group.spread([each])
        assert counts(group, group.members) == [MANY * (other is each) for other in group.members]
    last = listening(group, 2)
    group.spread(after)
    assert all(counts(group, after))
    group.spread(last)
    group.remove(after)
    assert set(group.members) == set(group.held) == set(last)
    assert all(counts(group, last))


def test_removed_last_members_leave_the_others_in_order(group: ReuseportGroup) -> None:
    before, after = listening(group, 3), listening(group, 3)
    group.spread(before)
    group.remove(after)
    assert group.members == group.held == before
    for each in before:
        group.spread([each])
        assert counts(group, before) == [MANY * (other is each) for other in before]


def test_no_connection_is_refused_or_lost_while_members_close(group: ReuseportGroup) -> None:
    before, after = listening(group, 3), listening(group, 3)
    group.spread(after)
    with ExitStack() as stack:
        clients = [connect(group, stack) for _ in range(MANY)]
        group.remove(before)
        clients += [connect(group, stack) for _ in range(MANY)]
        assert sum(len(accepted(each, stack)) for each in after) == 2 * MANY


def test_members_are_removed_though_no_filter_can_be_attached(
    group: ReuseportGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = listening(group, 3), listening(group, 3)
    group.spread(after)

    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(filters, "attach", refuse)
    group.remove(before)
    assert group.members == group.held == after
    assert sum(counts(group, after)) == MANY


def test_of_two_that_have_bound_a_port_one_can_listen(group: ReuseportGroup) -> None:
    rival = ReuseportGroup(group.server, group.listener)
    with closing(rival):
        ours, theirs = group.bind(2), rival.bind(2)
        group.listen(ours)
        with pytest.raises(ConfigurationError, match="Address already in use"):
            rival.listen(theirs)


def test_what_fails_leaves_no_descriptor(group: ReuseportGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    listening(group, 1)
    before = open_files(os.getpid())
    rival = ReuseportGroup(group.server, group.listener)
    with pytest.raises(ConfigurationError, match="cannot be bound"):
        rival.bind(3)
    refused = group.bind(2)

    def refuse(*_: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket.socket, "listen", refuse)
    with pytest.raises(ConfigurationError):
        group.listen(refused)
    assert open_files(os.getpid()) == before
    assert len(group.held) == len(group.members) == 1


def test_a_group_without_filters_says_so_and_goes_on(group: ReuseportGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(92, "Protocol not available")

    monkeypatch.setattr(filters, "attach", refuse)
    members = listening(group, 2)
    assert not group.has_filters
    group.spread(members)
    assert sum(counts(group, members)) == MANY
    group.close()
    assert is_free(group.listener.port)


def held_in_a_fork(group: ReuseportGroup, path: Path, fork: Callable[[Callable[[], None]], None]) -> int:
    """Fork a process by `fork`, which writes a file at `path`; return how many of the group's sockets it has open."""
    sockets = {str(Path(f"/proc/self/fd/{each.fileno()}").readlink()) for each in group.held}

    def work() -> None:
        with os.scandir("/proc/self/fd") as found:  # so that the folder is open until its own descriptor is read
            path.write_text("\n".join(str(Path(each.path).readlink()) for each in found))

    fork(work)
    return len(sockets & set(path.read_text().splitlines()))


def by_multiprocessing(work: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(10)


def through(child: Child) -> None:
    wait_until(lambda: child.exitcode is not None, "the end of a child")


def test_what_an_application_forks_holds_no_socket(group: ReuseportGroup, tmp_path: Path) -> None:
    """A preloaded one does so in the launcher: its socket would keep a number, and connections would wait in it."""
    listening(group, 2)
    assert held_in_a_fork(group, tmp_path / "forked", by_multiprocessing) == 0
    assert held_in_a_fork(group, tmp_path / "child", lambda work: through(Child(work))) == 0


def test_a_child_keeps_the_sockets_that_it_is_to_keep(group: ReuseportGroup, tmp_path: Path) -> None:
    first, *_ = listening(group, 2)
    assert held_in_a_fork(group, tmp_path / "child", lambda work: through(Child(work, keeps=[first]))) == 1
