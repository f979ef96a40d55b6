"""What a request costs in process, against msgspec's encode of the same Structs: `python -m bench.app`.

Both go through the arena's mix, in turn; the ratio is taken round by round, and medians are printed. The heads that cost
most follow (see heads.py); the exit status is 1 if one is over its bound.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import msgspec

from app.service import arena
from app.service.application import Application, build
from app.service.catalogue import Catalogue, Item, Line, Page, load
from bench import asgi, heads, oracle

PASSES = 300
ROUNDS = 101


def encode_alone(items: list[Item]) -> Callable[[], None]:
    """Prepare one pass of the mix in which the Structs are ready and only encoded."""
    encode = msgspec.json.Encoder().encode
    pages = []
    for count, multiplier in oracle.MIX:
        lines = [
            Line(**msgspec.structs.asdict(item), total=item.price * item.quantity * multiplier)
            for item in items[:count]
        ]
        pages.append(Page(lines, count))
        if encode(pages[-1]) != Catalogue(items).page(count, multiplier):
            raise RuntimeError(f"the two encode other bodies at count={count} m={multiplier}")

    def one_pass() -> None:
        for page in pages:
            encode(page)

    return one_pass


def whole_request(app: Application) -> Callable[[], None]:
    """Prepare one pass of the mix through the application, as a server calls it."""
    scopes = [asgi.scope(f"/json/{count}", b"m=%d" % multiplier) for count, multiplier in oracle.MIX]
    receive, send = asgi.receive, asgi.send

    def one_pass() -> None:
        for scope in scopes:
            try:  # asgi.call, without the cost of a call
                app(scope, receive, send).send(None)
            except StopIteration:
                continue
            raise RuntimeError("the application waited for something")

    return one_pass


def seconds(one_pass: Callable[[], None]) -> float:
    """Time a round of passes, as seconds a request."""
    begin = time.perf_counter()
    for _ in range(PASSES):
        one_pass()
    return (time.perf_counter() - begin) / (PASSES * len(oracle.MIX))


class Cost(msgspec.Struct):
    """Medians in microseconds, the median of the ratios of request to encode, and the span of their middle eight tenths."""

    encode: float
    request: float
    ratio: float
    low: float
    high: float


def measure() -> Cost:
    """Measure what an encode and a request cost; raises SystemExit if the dataset has too few items for the mix."""
    items = load(os.environ)
    if len(items) < 50:
        raise SystemExit(f"DATASET_PATH: {len(items)} items; the arena's mix needs 50")
    encode, request = encode_alone(items), whole_request(build(items))
    seconds(encode)
    seconds(request)
    rounds = [(seconds(encode), seconds(request)) for _ in range(ROUNDS)]
    each = sorted(request / encode for encode, request in rounds)
    return Cost(
        encode=statistics.median(encode for encode, _ in rounds) * 1e6,
        request=statistics.median(request for _, request in rounds) * 1e6,
        ratio=statistics.median(each),
        low=each[len(each) // 10],
        high=each[-len(each) // 10],
    )


def main() -> int:
    """Measure the mix, then the heads that cost most, of the arena's routes, too.

    Print all; the exit status is 1 if a head is over its bound.
    """
    cost = measure()
    print(f"Python {platform.python_version()} in {sys.base_prefix}, msgspec {msgspec.__version__}")
    print(f"encode alone  {cost.encode:6.2f} us")
    print(f"request       {cost.request:6.2f} us")
    print(f"ratio         {cost.ratio:6.2f}    (8 in 10 rounds between {cost.low:.2f} and {cost.high:.2f})")
    print()
    service = build(load(os.environ))
    rows = heads.measure(service)
    print(heads.text(rows))
    print()
    print("The arena's routes (app/service/arena.py):")
    of_arena = heads.measure_arena(arena.build(service))
    print(heads.text(of_arena))
    return 1 if heads.number_over([*rows, *of_arena]) else 0


if __name__ == "__main__":
    sys.exit(main())
