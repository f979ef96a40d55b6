"""Listening sockets: one for each worker, in a group that shares a port, and which of them a connection gets."""

import errno
import os
import socket
import weakref
from collections.abc import Sequence
from contextlib import suppress

from app.launcher import filters
from app.launcher.child import kept_sockets
from app.settings.config import Listener
from app.settings.errors import ConfigurationError, cut
from app.settings.tables import Server

MORE_FILES = "raise the limit on open files (ulimit -n), or lower WORKERS"
WAITING = slice(24, 28)  # `tcpi_unacked` of struct tcp_info: of a listening socket, how many connections wait
REMEDIES = {
    errno.EADDRINUSE: "stop what holds it, or choose another port or address",
    errno.EACCES: "choose a port from 1024 on, or allow it (CAP_NET_BIND_SERVICE, net.ipv4.ip_unprivileged_port_start)",
    errno.EMFILE: MORE_FILES,
    errno.ENFILE: MORE_FILES,
}
"""Ways out for a port that cannot be bound, by the error."""


class ReuseportGroup:
    """The sockets that share a listener's port.

    The kernel numbers them in the order in which they begin to listen; when one closes, the last takes its number.
    `members` is in that order, and `held` has those that do not listen yet, too. A reuseport filter (filters.py) picks
    the number for each new connection; without one, or if no socket has it, the kernel picks any by a hash.
    """

    def __init__(self, server: Server, listener: Listener) -> None:
        self.server = server
        self.listener = listener
        self.members: list[socket.socket] = []
        self.held: list[socket.socket] = []
        self.has_filters = True
        self.clients_to: list[socket.socket] = []  # what `spread` has given them to; nothing is known after `remove`
        self.shielded = False  # whether its sockets listen, and take no client before a process has proved itself
        self.family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self.owner = os.getpid()
        _groups.add(self)

    def bind(self, number: int) -> list[socket.socket]:
        """Bind `number` more sockets, which do not listen yet.

        The first of the group gets the port only if nobody else listens on it: with SO_REUSEPORT it would share the
        port with another server of the same user, in silence. Raises ConfigurationError if the port cannot be had.
        """
        sockets: list[socket.socket] = []
        try:
            for _ in range(number):
                each = socket.socket(self.family, socket.SOCK_STREAM)
                sockets.append(each)
                self.held.append(each)  # at once: a thread of a preloaded application may fork meanwhile
                self._set_options(each, share=bool(self.members) or len(sockets) > 1)
                each.bind((self.server.host, self.listener.port))
        except OSError as error:
            close(sockets)
            self.held = [each for each in self.held if each not in sockets]
            raise self._not_bound(error) from error
        return sockets

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Make sockets members: connections wait in them until a worker accepts. Raises ConfigurationError."""
        self.shielded = self.shielded or not self.members
        try:
            for each in sockets:
                if not self.members:
                    self._prepare_for_filters(each)
                if self.shielded:
                    self._shield(each, 0)
                each.listen(self.server.backlog)
                # The first listens without it: of two launchers that have both bound the port, one fails here.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                self.members.append(each)
        except OSError as error:
            self.remove(sockets)
            raise self._not_bound(error) from error

    def _prepare_for_filters(self, first: socket.socket) -> None:
        """Have the kernel make the group now: it would take no filter for one that listens alone and unshared."""
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            filters.attach(first, filters.the_same(0))
        except OSError:
            self.has_filters = False  # a sandbox, or a seccomp profile; reported when the listener serves
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)

    def _set_options(self, each: socket.socket, *, share: bool) -> None:
        each.setblocking(False)  # noqa: FBT003 - socket's signature
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former run may linger
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Granian waits for ever for a client that does not read, or that has vanished; connections inherit this (tcp(7)).
        unread_timeout = self.server.unread_timeout
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_timeout * 1000)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, -(-unread_timeout // 2))
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, -(-unread_timeout // 6))  # three until it is over
        if share:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def _not_bound(self, error: OSError) -> ConfigurationError:
        reason = f"{self.listener.port_setting}={self.listener.port} cannot be bound on {self.server.host}"
        remedy = REMEDIES.get(error.errno or 0, "choose another port or address")
        return ConfigurationError(f"listener {cut(self.listener.name)}: {reason} ({error.strerror}); {remedy}")

    def spread(self, sockets: Sequence[socket.socket]) -> None:
        """Give each new connection to one of `sockets`, at random.

        Raises OSError, but for a system without such filters: there nothing changes.
        """
        if self.has_filters:
            filters.attach(self.members[0], self._at_random(sockets))
        self.clients_to = list(sockets)
        if self.shielded:
            for each in self.members:
                with suppress(OSError):  # it has no filter
                    filters.let_all_in(each)
            self.shielded = False

    def _shield(self, each: socket.socket, port: int) -> None:
        """Drop what comes to a listening socket, but from the source port `port`; others send it again after 1 s.

        Clients that hold whatever a worker lets them could otherwise keep the first workers from ever being proved.
        """
        if self.has_filters:
            with suppress(OSError):  # no such filters here: then it is as without them
                filters.let_in(each, port)

    def spread_but_one(self, sockets: Sequence[socket.socket], client: socket.socket, special: socket.socket) -> None:
        """As `spread`, but the connection that `client`, a bound socket, is going to make gets to `special`."""
        if self.shielded:
            self._shield(special, client.getsockname()[1])
        number = self.members.index(special)
        filters.attach(self.members[0], filters.one_client(client, number, self._at_random(sockets)))

    def _at_random(self, sockets: Sequence[socket.socket]) -> filters.Program:
        return filters.at_random(sorted(map(self.members.index, sockets)))

    def remove(self, sockets: Sequence[socket.socket]) -> None:
        """End members that are the group's first or its last, whoever holds them, so that no connection meets one.

        If the first are closed, the filter names a number meanwhile that one of those that stay has until the last is
        closed; nobody has it then, so the kernel spreads the connections. If that filter cannot be attached it does so
        from the first on. If fewer stay than leave, nobody has it earlier: those that leave then drop what comes.
        """
        leaving = [each for each in self.members if each in sockets]
        staying = len(self.members) - len(leaving)
        if len(leaving) > staying > 0:
            for each in leaving:
                self._shield(each, 0)
        if leaving and self.members[: len(leaving)] == leaving and staying and self.has_filters:
            with suppress(OSError):  # no memory for it, or none allowed
                filters.attach(self.members[0], filters.the_same(max(len(leaving), staying)))
        self.clients_to = []
        end_from_the_last(leaving)
        close(sockets)  # those that are no members yet
        self.held = [each for each in self.held if each not in sockets]
        for each in leaving[::-1]:
            self.members[self.members.index(each)] = self.members[-1]
            self.members.pop()

    def beside(self, sockets: Sequence[socket.socket]) -> Sequence[socket.socket]:  # noqa: ARG002 - a subclass has some
        """Return what goes together with `sockets`, which `bind` has returned: nothing."""
        return ()

    def close(self) -> None:
        """Give up the port, as far as this process holds it."""
        close(self.held)
        self.members, self.held = [], []

    def is_held(self) -> bool:
        """Return whether a process listens on the port, once this one has given it up."""
        with socket.socket(self.family, socket.SOCK_STREAM) as each:
            self._set_options(each, share=False)
            try:
                each.bind((self.server.host, self.listener.port))
            except OSError as error:
                return error.errno == errno.EADDRINUSE
        return False


_groups: weakref.WeakSet[ReuseportGroup] = weakref.WeakSet()


def _close_in_forks() -> None:
    """Close what is not kept in a fork of the launcher, or of an application in it: that may outlive a killed launcher."""
    for group in list(_groups):
        if group.owner == os.getppid():  # a server process forks its workers, which have their own
            close([each for each in group.held if each not in kept_sockets()])


os.register_at_fork(after_in_child=_close_in_forks)


def clients_wait(sockets: Sequence[socket.socket]) -> bool:
    """Return whether a connection waits to be accepted in one of these listening sockets (tcp(7), TCP_INFO)."""
    return any(
        each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, WAITING.stop)[WAITING] != bytes(4) for each in sockets
    )


def close(sockets: Sequence[socket.socket]) -> None:
    """Close this process's hold on sockets."""
    for each in sockets:
        each.close()


def end_from_the_last(sockets: Sequence[socket.socket]) -> None:
    """Have members of a group listen no more, in the order that `ReuseportGroup.remove` relies on.

    What was killed may take a while to close its sockets, and what an application has started may never do so. They
    would stay members, and connections would wait in them: shutdown(2) ends them for all who hold them.
    """
    for each in sockets[::-1]:
        with suppress(OSError):  # it is closed already
            each.shutdown(socket.SHUT_RDWR)
        each.close()
