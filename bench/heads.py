"""The request heads that cost the application most, in process.

A worker parses heads in the thread that serves everyone, so a slow one delays all clients of the worker. The bounds: 100 us
for a head of up to 4 KiB, 1 ms for any that hyper lets through. `python -m bench.app` shows each, and fails if one is over
its bound.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.service.application import Application
from app.service.arena import PARAMETERS
from bench import asgi

SIZES = {4096: 100e-6, 65_000: 1e-3}
"""Bytes of a target or of all fields, and the seconds that such a head may take. hyper's longest target has 65,534."""
FIELDS = 100
"""hyper reads no more than this."""
ELEMENTS = 64
"""Of an Accept-Encoding: about as many as an application may read, each as long as that leaves."""
PASSES, ENOUGH = 15, 0.1
"""A head is timed PASSES times, or at least 3 times if those take more than ENOUGH seconds."""

ACCEPT = b"accept-encoding"


class Head(NamedTuple):
    """What varies in a request's head."""

    path: str = "/json/0"
    query: bytes = b"m=3"
    fields: tuple[tuple[bytes, bytes], ...] = ()


class Row(NamedTuple):
    """The shortest time of a kind of head in seconds, and the status of its response, for each of SIZES."""

    name: str
    seconds: list[float]
    statuses: list[int]

    @property
    def slowness(self) -> float:
        """Its time divided by its bound, at the size at which that is more; over 1 is over its bound."""
        return max(time / bound for time, bound in zip(self.seconds, SIZES.values(), strict=True))


def fill(size: int, part: bytes, begin: bytes = b"", end: bytes = b"") -> bytes:
    """Repeat `part` between `begin` and `end`, as often as `size` bytes have room for."""
    return begin + part * ((size - len(begin) - len(end)) // len(part)) + end


def paths(size: int) -> dict[str, Head]:
    """Make heads with a long path; `size` counts its bytes in UTF-8."""
    begin = b"/json/"
    arabic = "\u0661".encode()
    made = {
        "9...": fill(size, b"9", begin),
        "0...": fill(size, b"0", begin),
        "0...1": fill(size, b"0", begin, b"1"),
        "9...x": fill(size, b"9", begin, b"x"),
        "-9...": fill(size, b"9", begin + b"-"),
        "Arabic digits": fill(size, arabic, begin),
        "9... and an Arabic digit": fill(size, b"9", begin, arabic),
        "superscript digits": fill(size, "\u00b2".encode(), begin),
        "mathematical digits": fill(size, "\U0001d7d8".encode(), begin),
        "spaces": fill(size, b" ", begin),
        "slashes": fill(size, b"/", begin),
        "/json/...": fill(size, begin),
        "another": fill(size, b"a", b"/"),
    }
    return {f"path: {name}": Head(path=path.decode()) for name, path in made.items()}


def queries(size: int) -> dict[str, Head]:
    """Make heads with a long query."""
    pieces = (
        *("%4&", "&", "m", "m&", "a&", "a=&", "=", "=&", "a=1&", "a=%6d&", "%6d", "%6d%6d&", "mm&", "M=1&", "%4d=1&"),
        *(
            "%",
            "%&",
            "%6&",
            "%f",
            "%zz&",
            "%ff",
            "%ff&",
            "%C3%A9",
            "%E2%82&",
            "%25",
            "%2526&",
            "%00&",
            "+",
            "+&",
            ";",
            "m;",
        ),
        *("a;&", "?", "\u00e9&", "\u00ff"),
    )
    values = ("0", "9", "-", "+", "%", "%30", "%39", "%2D", "%2", "%%30", "=", ";", "\u0661", "%D9%A1")
    made = {f"{each}...": fill(size, each.encode()) for each in pieces}
    made |= {f"{each}...&m=3": fill(size, each.encode(), end=b"&m=3") for each in pieces if each != "m&"}
    made |= {f"m={each}...": fill(size, each.encode(), b"m=") for each in values}
    made |= {f"%6d=-{each}...1": fill(size, each.encode(), b"%6d=-", b"1") for each in values}
    return {f"query: {name}": Head(query=query) for name, query in made.items()}


PIECES = (
    *(",", "a,", "A,", "gzip,", "x-gzip,", "*,", "identity;q=0,", "a;q=0.5,", "a;q=0.0005,", "*;q=0,", " a ; q=1 ,"),
    *(" ", "\t", " \t", " ,", "a", "A", "a;", ";", ";q=1", "a;q=", "a=", '"', '",', "(", "\u00e9", "!#$%&'*+.^_`|~"),
)
ENDS = ("\u00e9", "(", " ", ";", ";q=", ";q=0.", ";q=0.5", ";q=0.5(", " x")


def fields(size: int) -> dict[str, Head]:
    """Make heads with a long Accept-Encoding, with many, and with many fields of other names."""
    return _long_fields(size) | _many_fields(size)


def _long_fields(size: int) -> dict[str, Head]:
    room = size - len(ACCEPT)
    element = room // ELEMENTS - 1
    after = (" ", "\t", " \t", "0", ";q=1")
    one = {f"{each}...": fill(room, each.encode()) for each in PIECES}
    one |= {f"a...{end}": fill(room, b"a", end=end.encode()) for end in ENDS}
    one |= {f"gzip{each}...": fill(room, each.encode(), b"gzip") for each in after}
    one |= {f"gzip{each}...x": fill(room, each.encode(), b"gzip", b"x") for each in after}
    one |= {f"gzip{each}...;q=1": fill(room, each.encode(), b"gzip", b";q=1") for each in after}
    one |= {f"{each}...gzip": fill(room, each.encode(), end=b"gzip") for each in (" ", "\t", "a,", " ,")}
    one |= {
        "long tokens": fill(room, b"a" * element + b","),
        "long tokens in capitals": fill(room, b"A" * element + b","),
        "long tokens with a bad last byte": fill(room, b"a" * (element - 1) + b"\xff,"),
        "long tokens and bad weights": fill(room, b"a" * (element - 6) + b";q=0.x,"),
        "tokens, spaces and a bad last byte": fill(room, b"a" + b" " * (element - 2) + b"(,"),
    }
    return {f"accept-encoding: {name}": Head(fields=((ACCEPT, value),)) for name, value in one.items()}


def _many_fields(size: int) -> dict[str, Head]:
    each = size // FIELDS - len(ACCEPT)
    many = {
        "empty": b"",
        "short": b"a",
        "of a token": b"a" * each,
        "of a token with a bad last byte": b"a" * (each - 1) + b"\xff",
        "of spaces": b" " * each,
        "of ,...": b"," * each,
        "of a,...": fill(each, b"a,"),
        "of gzip;q=0,...": fill(each, b"gzip;q=0,"),
    }
    heads = {
        f"{FIELDS} accept-encoding fields {name}": Head(fields=((ACCEPT, value),) * FIELDS)
        for name, value in many.items()
    }
    heads[f"{FIELDS} fields of another name"] = Head(fields=((b"accept-encodinh", b"a" * each),) * FIELDS)
    heads[f"{FIELDS} fields of long names"] = Head(fields=((b"a" * (len(ACCEPT) + each), b""),) * FIELDS)
    return heads


def arena(size: int) -> dict[str, Head]:
    """Make heads for the arena's routes: the same long queries, as many parameters as are added up, and long delays."""
    path = "/baseline11"
    rest = size - len(path)
    heads = {f"sum: {name}": head._replace(path=path) for name, head in queries(rest).items()}
    room = rest // PARAMETERS - len("a=&")
    for value in ("0", "9", "%30", "-%30", "%2d%30", "%2d", "%", "%%30", "\u0661"):
        query = b"&".join([b"a=" + fill(room, value.encode())] * PARAMETERS)
        heads[f"sum: {PARAMETERS} of {value}..."] = Head(path, fill(rest, b"a", end=query))
    heads |= {
        f"delay: {name}": head._replace(path=head.path.replace("/json/", "/delay/", 1))
        for name, head in paths(size - len("/delay/") + len("/json/")).items()
        if not name.endswith("0...1")  # it would wait
    }
    return heads


def seconds(app: Application, head: Head) -> tuple[float, int]:
    """Time a request with that head; return its fastest pass, which other processes slowed least, and the status."""
    request = asgi.scope(head.path, head.query, (asgi.LOCALHOST, *head.fields))
    status = asgi.call(app, request)
    series: list[float] = []
    end = time.perf_counter() + ENOUGH
    while len(series) < PASSES and (len(series) < 3 or time.perf_counter() < end):
        begin = time.thread_time()
        asgi.call(app, request)
        series.append(time.thread_time() - begin)
    return min(series), status


def _rows(app: Application, make: Callable[[int], Mapping[str, Head]]) -> list[Row]:
    timed = [{name: seconds(app, head) for name, head in make(size).items()} for size in SIZES]
    return [Row(name, [each[name][0] for each in timed], [each[name][1] for each in timed]) for name in timed[0]]


def worst_accepted(targets: Sequence[Row]) -> list[str]:
    """Name the slowest head that is accepted, for each of SIZES that has one: only then are fields read, too."""
    worst = []
    for index in range(len(SIZES)):
        accepted = [row for row in targets if row.statuses[index] == 200]
        worst += [max(accepted, key=lambda row: row.seconds[index]).name] if accepted else []
    return list(dict.fromkeys(worst))


def measure(app: Application) -> list[Row]:
    """Time all heads, and the worst queries together with the worst fields; the slowest come first."""
    targets, lists = _rows(app, queries), _rows(app, fields)
    accepted = worst_accepted(targets)
    field = max(lists, key=lambda row: row.slowness).name

    def both(size: int) -> dict[str, Head]:
        # A target and fields of 65,000 bytes each make a head of 128 KiB.
        share = size // 2 if size == min(SIZES) else size
        made, other = queries(share), fields(share)[field].fields
        return {f"both: {query}; {field}": Head(query=made[query].query, fields=other) for query in accepted}

    rows = [*_rows(app, paths), *targets, *lists, *_rows(app, both)]
    return sorted(rows, key=lambda row: row.slowness, reverse=True)


def measure_arena(app: Application) -> list[Row]:
    """Time the heads of the arena's routes; the slowest come first."""
    return sorted(_rows(app, arena), key=lambda row: row.slowness, reverse=True)


def number_over(rows: Sequence[Row]) -> int:
    """Count the kinds of heads that are over their bound."""
    return sum(row.slowness > 1 for row in rows)


def text(rows: Sequence[Row]) -> str:
    """Write a line for each head: microseconds, whether they are within the bound, and the status, for each of SIZES."""
    sizes = "".join(f"{f'{size:,} bytes':>24}" for size in SIZES)
    bounds = ", ".join(f"{bound * 1e6:.0f}" for bound in SIZES.values())
    lines = [f"{number_over(rows)} of {len(rows)} kinds of heads are over their bound"]
    lines += [f"us by size of the head{sizes}   (bounds: {bounds})"]
    for row in rows:
        cells = [
            f"{time * 1e6:14.1f} {'over' if time > bound else 'under':>5} {status}"
            for time, bound, status in zip(row.seconds, SIZES.values(), row.statuses, strict=True)
        ]
        lines.append(f"{''.join(cells)}   {row.name!r}")
    return "\n".join(lines)
