"""The lines that are printed. Whatever happens to an output, nothing that is served depends on it."""

import logging
import os
import select
import shlex
import stat

from app.settings.certificate import Pair
from app.settings.config import Configuration, Listener, PairFiles, needs_client_certificate, reachable
from app.settings.errors import shown

PIPE_BUF = 4096  # bytes that a pipe takes at once if poll(2) says that it is writable (pipe(7))


class Output:
    """Lines on a file descriptor. A line that cannot be written is dropped; the next that can says how many were."""

    def __init__(self, descriptor: int) -> None:
        """Write to `descriptor`, which is looked at only when there is a line."""
        self.descriptor = descriptor
        self.dropped = 0
        self.torn = False  # whether a line was cut by a disk that filled

    def line(self, text: str) -> None:
        """Write a line, without waiting for a reader."""
        note = f"({self.dropped} lines before this one could not be written)\n" if self.dropped else ""
        data = ("\n" if self.torn else "") + note + printable(text) + "\n"
        try:
            self._write(data.encode(errors="backslashreplace"))
        except OSError:  # closed, full, hung up, or nobody reads: counted, and reported when it is over
            self.dropped += 1
        else:
            self.dropped, self.torn = 0, False

    def _write(self, data: bytes) -> None:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        begun = False
        while data:
            if not any(event & select.POLLOUT for _, event in poll.poll(0)):
                self.torn = self.torn or begun
                raise BlockingIOError
            try:
                written = os.write(self.descriptor, data[:PIPE_BUF])
            except OSError:
                self.torn = self.torn or begun
                raise
            data, begun = data[written:], True


_out, _err = Output(1), Output(2)


def say(line: str) -> None:
    """Print a line that says what is served."""
    _out.line(line)


def warn(line: str) -> None:
    """Print a line about what deserves a look."""
    _err.line(line)


class LogHandler(logging.Handler):
    """Granian's log as lines on stderr, for a process that Granian configures."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; each line of a traceback is a line."""
        for line in self.format(record).splitlines():
            warn(line)


def open_standard_streams() -> None:
    """Make the standard streams such that no process of ours waits for them, and no line of ours gets elsewhere.

    One that is closed becomes /dev/null: a socket would take its number, and get our lines. A pipe or a terminal is
    opened anew, without waiting, for this process and its children alone: Python's tracebacks and Rust's panics go
    there, too, and a worker would wait for ever if nobody reads. A socket (of systemd's journal), and another user's
    pipe or terminal, cannot be: what whoever else has it open shares is changed to not wait, and stays so.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for descriptor in (1, 2):
        if stat.S_ISFIFO(mode := os.fstat(descriptor).st_mode) or stat.S_ISCHR(mode):
            try:
                again = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:  # it is another user's, or hung up
                os.set_blocking(descriptor, False)
            else:
                os.dup2(again, descriptor)
                os.close(again)
        elif stat.S_ISSOCK(mode):
            os.set_blocking(descriptor, False)


def printable(line: str) -> str:
    """Escape what would break a line, or cannot be written: paths and the contents of files may hold anything."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)


def address(host: str, port: int) -> str:
    """Write host and port as a URL does (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe(configuration: Configuration, listener: Listener, pair: Pair | None) -> str:
    """Return the line that says what a listener serves, and where its metrics are."""
    at = listener.metrics
    return _served(configuration, listener, pair) + (
        f"; metrics at http://{address(at.host, at.port)}/metrics" if at else ""
    )


def _served(configuration: Configuration, listener: Listener, pair: Pair | None) -> str:
    server = configuration.server
    workers = f"{server.workers} worker{'s' if server.workers > 1 else ''}"
    if not listener.application.is_bundled:
        workers += f"; {'WebSockets; ' if listener.websockets else ''}application {listener.application.target} ({listener.application.runs})"
    line = f"{listener.name}: {'https' if pair else 'http'}://{address(server.host, listener.port)}"
    if listener.protocol == "h2c":
        return f"{line} HTTP/2 by prior knowledge, plaintext, no ALPN, {workers}"
    if pair is None:
        return f"{line} HTTP/1.1, plaintext, no ALPN, {workers}"
    protocols = (
        "HTTP/2 or HTTP/1.1 over TLS 1.3, ALPN h2, http/1.1"
        if listener.protocol == "auto"
        else ("HTTP/1.1 over TLS 1.3, ALPN http/1.1")
    )
    return (
        f"{line} {protocols}, {workers}; certificate for"
        f" {shown(', '.join(pair.names))} ({pair.origin}); SHA-256 {pair.fingerprint};"
        f" expires {pair.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC;{_clients(listener)} records encrypted in user"
        f" space"
    )


def _clients(listener: Listener) -> str:
    """Return what clients need, to be put into a line."""
    files = listener.tls
    if not isinstance(files, PairFiles) or files.client_authority is None:
        return ""
    revocations = f", revoked by {files.client_revocations.path}" if files.client_revocations else ""
    return f" clients need a certificate ({files.client_authority.path}{revocations});"


def curl(configuration: Configuration, listener: Listener, pair: Pair | None, target: str) -> str:
    """Return a command that gets `target` from a listener and verifies its certificate."""
    host = reachable(configuration.server.host)
    if pair is None:
        option = "--http2-prior-knowledge " if listener.protocol == "h2c" else ""
        return f"curl {option}{_quoted(f'http://{address(host, listener.port)}{target}')}"
    if not pair.names:
        return "(the certificate has no names: no client can verify it)"
    authority = shlex.quote(str(pair.authority))
    if needs_client_certificate(listener):
        authority += " --cert client.crt --key client.key"
    if host in pair.names:
        return f"curl --cacert {authority} {_quoted(f'https://{address(host, listener.port)}{target}')}"
    name = pair.names[0].replace("*", "www")
    return (
        f"curl --cacert {authority} --connect-to '::{address(host, listener.port)}'"
        f" {_quoted(f'https://{address(name, listener.port)}{target}')}"
    )


def _quoted(text: str) -> str:
    """Quote a text for a shell, whether it needs that or not: a certificate may have any name."""
    quoted = shlex.quote(text)
    return quoted if quoted.startswith("'") else f"'{text}'"
