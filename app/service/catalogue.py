"""The items: read and checked once, priced and encoded for each request."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from app.settings.errors import ConfigurationError, shown
from app.settings.files import MIB, NamedFile, from_environment

MULTIPLIER_MIN = -(2**31)
MULTIPLIER_MAX = 2**31 - 1
TOTAL_MIN = -(2**63)
TOTAL_MAX = 2**63 - 1

SELECTIONS_READY = 100  # counts whose lists of items are made once; for every count they would take the items' square

MOUNTED = Path("/data/dataset.json")  # where the arena mounts its own
BUNDLED = Path(__file__).parent / "dataset.json"
REMEDY = "name a readable file, or unset DATASET_PATH"
LARGEST = 64 * MIB
"""Bytes of the largest dataset that is read: it takes about ten times as much memory."""

counts: dict[Path, int] = {}
"""How many items this process has found in a file."""


class Rating(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """How buyers rated an item."""

    score: int
    count: int


class Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An item of the dataset, its fields in the order in which they are served."""

    id: int
    name: str
    category: str
    price: int
    quantity: int
    active: bool
    tags: list[str]
    rating: Rating


class Line(Item, gc=False):
    """An item as served: `total` is price x quantity x multiplier."""

    total: int = 0


class Page(msgspec.Struct, gc=False):
    """The body of a response."""

    items: list[Line]
    count: int


_to_json = msgspec.json.Encoder().encode


def source_of(environment: Mapping[str, str]) -> NamedFile:
    """Return which dataset is read: DATASET_PATH, else the arena's mount, else the bundled one."""
    source = from_environment(environment, "DATASET_PATH", REMEDY) or NamedFile("DATASET_PATH", MOUNTED)
    if source.path == MOUNTED and "DATASET_PATH" not in environment and not source.is_there():
        return NamedFile("DATASET_PATH", BUNDLED)
    return source


def digest(environment: Mapping[str, str]) -> bytes:
    """Return a digest of the dataset's file, whatever it holds. Raises ConfigurationError if it cannot be read."""
    return hashlib.sha256(source_of(environment).read(LARGEST, REMEDY)).digest()


def load(environment: Mapping[str, str]) -> list[Item]:
    """Read and check the dataset.

    Raises ConfigurationError, which names the file, the item and the field.
    """
    source = source_of(environment)
    content = source.read(LARGEST, REMEDY)
    try:
        items = msgspec.json.decode(content, type=list[Item])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"{source}: {shown(error)}; it must be a JSON array of items with the fields"
            f" {', '.join(Item.__struct_fields__)}"
        ) from error
    counts[source.path] = len(items)
    if not items:
        raise ConfigurationError(f"{source} holds no items; give it at least one")
    for index, item in enumerate(items):
        base = item.price * item.quantity
        extremes = (base * MULTIPLIER_MIN, base * MULTIPLIER_MAX)
        if min(extremes) < TOTAL_MIN or max(extremes) > TOTAL_MAX:
            raise ConfigurationError(
                f"{source}: item $[{index}]: price {item.price} x quantity {item.quantity} can pass 64 bits"
                f" when multiplied by m; keep price x quantity between -2**32 and 2**32"
            )
    return items


def _renderer(items: Sequence[Item]) -> Callable[[int, int], bytes]:
    lines = [Line(*msgspec.structs.astuple(item)) for item in items]
    priced = [(line, line.price * line.quantity) for line in lines]

    def select(count: int) -> tuple[list[tuple[Line, int]], Page]:
        return priced[:count], Page(lines[:count], count)

    ready = [select(count) for count in range(min(len(lines), SELECTIONS_READY) + 1)]

    def page(count: int, multiplier: int) -> bytes:
        selected, response = ready[count] if count < len(ready) else select(count)
        for line, base in selected:
            line.total = base * multiplier
        return _to_json(response)

    return page


class Catalogue(threading.local):
    """The items, a copy for each thread: totals are set in place, and a thread must see its own.

    Setting them and encoding happen in one call, so that coroutines of one thread cannot meet in it.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        """Copy the items; called anew, with the same ones, in each thread that uses the catalogue."""
        self.page = _renderer(items)
        """`page(count, multiplier)`: the JSON of the first `count` items (0 to their number)."""
