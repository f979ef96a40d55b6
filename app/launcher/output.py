"""Lines on stdout and stderr. Whatever happens to an output, nothing that is served depends on it."""

import os
import select
import stat
from collections.abc import Callable

PIPE_BUF = 4096  # bytes that a pipe takes at once if poll(2) says that it is writable (pipe(7))


class Output:
    """Lines on a file descriptor. A line that cannot be written is dropped; the next that can says how many were."""

    def __init__(self, descriptor: int, note: Callable[[str], str] = "({})".format) -> None:
        """Write to `descriptor`, which is looked at only when there is a line; `note` makes a line of Output's own."""
        self.descriptor = descriptor
        self.note = note
        self.dropped = 0
        self.torn = False  # whether a line was cut by a disk that filled

    def line(self, text: str) -> None:
        """Write a line, without waiting for a reader."""
        self.lines(printable(text))

    def lines(self, text: str) -> None:
        """Write lines that are printable already and belong together, without waiting for a reader."""
        note = self.note(f"{self.dropped} lines before this one could not be written") + "\n" if self.dropped else ""
        data = ("\n" if self.torn else "") + note + text + "\n"
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
