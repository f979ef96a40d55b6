"""The heads that cost most: their sizes, what is shown of them, and the status of the command that times them."""

from collections.abc import Callable

import pytest

from bench import app, heads
from bench.heads import Row

SLOW = Row("slow", [0.0002, 0.0009], [200, 400])
FAST = Row("fast", [0.0001, 0.001], [404, 404])


@pytest.mark.parametrize("size", heads.SIZES)
@pytest.mark.parametrize("kind", [heads.paths, heads.queries, heads.fields, heads.arena])
def test_heads_are_as_long_as_they_are_said_to_be(kind: Callable[[int], dict[str, heads.Head]], size: int) -> None:
    usual = heads.Head()
    for name, head in kind(size).items():
        target = sum(len(part) for part, same in zip(head[:2], usual[:2], strict=True) if part != same)
        length = target + sum(len(field) + len(value) for field, value in head.fields)
        few = name.startswith(f"{heads.FIELDS} ") or name.endswith(
            "digits"
        )  # short fields; characters of several bytes
        assert (0 if few else size * 0.95) < length <= size, name


def test_heads_over_their_bound_are_shown_as_over() -> None:
    first, _, slow, fast = heads.text([SLOW, FAST]).splitlines()
    assert first == "1 of 2 kinds of heads are over their bound"
    assert slow.split() == ["200.0", "over", "200", "900.0", "under", "400", "'slow'"]
    assert fast.split() == ["100.0", "under", "404", "1000.0", "under", "404", "'fast'"]


def test_the_worst_head_of_a_size_is_one_that_is_accepted_at_that_size() -> None:
    short, long = Row("short", [0.0001, 0.0009], [200, 414]), Row("long", [0.00005, 0.0005], [200, 200])
    assert heads.worst_accepted([SLOW, short, long, FAST]) == ["slow", "long"]
    assert heads.worst_accepted([short, FAST]) == ["short"]
    assert heads.worst_accepted([FAST]) == []


@pytest.mark.parametrize(("rows", "status"), [([SLOW, FAST], 1), ([FAST], 0)])
def test_the_command_fails_if_a_head_is_over_its_bound(
    monkeypatch: pytest.MonkeyPatch, rows: list[Row], status: int
) -> None:
    monkeypatch.setattr(app, "measure", lambda: app.Cost(encode=1.0, request=1.6, ratio=1.6, low=1.6, high=1.6))
    monkeypatch.setattr(heads, "measure", lambda _: rows)
    monkeypatch.setattr(heads, "measure_arena", lambda _: [])
    assert app.main() == status
