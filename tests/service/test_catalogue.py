"""The dataset: which file is read, and what is wrong with it on one line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from app.service.catalogue import Catalogue, load
from app.settings.errors import ConfigurationError
from bench import oracle
from tests.support.configuration import check

ITEM: dict[str, Any] = {
    "id": 1,
    "name": "Änderung",
    "category": "tools",
    "price": 3,
    "quantity": 4,
    "active": True,
    "tags": ["new"],
    "rating": {"score": 5, "count": 6},
}


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ITEM.items() if name != field}


def written(folder: Path, *items: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def test_the_bundled_dataset_has_fifty_items_and_exercises_utf_8() -> None:
    text = oracle.BUNDLED.read_text(encoding="utf-8")
    items = json.loads(text)
    assert len(items) == 50
    assert len({item["id"] for item in items}) == 50
    names = "".join(item["name"] for item in items)
    assert {'"', "\\", "\n", "\t", "é", "茶"} <= set(names)
    assert any(ord(character) > 0xFFFF for character in names)
    assert len({tuple(item) for item in items}) == 1
    assert list(items[0]) == list(ITEM)


@pytest.mark.parametrize("length", [1, 2, 99, 100, 101, 250])
def test_any_length(tmp_path: Path, length: int) -> None:
    path = written(tmp_path, *({**ITEM, "id": number} for number in range(length)))
    catalogue = Catalogue(load({"DATASET_PATH": str(path)}))
    for count in {0, 1, length // 2, length}:
        assert catalogue.page(count, 7) == oracle.body(count, 7, path)


@pytest.mark.parametrize(
    ("items", "named"),
    [
        ([], "holds no items"),
        *[([ITEM, without(field)], rf"\$\[1\].*|`{field}`") for field in ITEM],
        ([ITEM, {**ITEM, "rating": {"score": 5}}], r"`count`.*\$\[1\]\.rating"),
        ([{**ITEM, "price": 1.5}], r"\$\[0\]\.price"),
        ([{**ITEM, "price": "1"}], r"\$\[0\]\.price"),
        ([{**ITEM, "quantity": True}], r"\$\[0\]\.quantity"),
        ([{**ITEM, "id": None}], r"\$\[0\]\.id"),
        ([{**ITEM, "active": 1}], r"\$\[0\]\.active"),
        ([{**ITEM, "tags": "new"}], r"\$\[0\]\.tags"),
        ([{**ITEM, "tags": [1]}], r"\$\[0\]\.tags\[0\]"),
        ([{**ITEM, "total": 12}], r"`total`.*\$\[0\]"),
        ([{**ITEM, "rating": {"score": 1, "count": 2, "stars": 3}}], r"`stars`.*\$\[0\]\.rating"),
        ([ITEM, 5], r"\$\[1\]"),
        ([ITEM, {**ITEM, "price": 2**16, "quantity": 2**16 + 1}], r"\$\[1\].*price 65536 .*quantity 65537"),
        ([{**ITEM, "price": -(2**16), "quantity": 2**16}], r"\$\[0\].*price -65536"),
    ],
)
def test_an_invalid_item_is_reported(tmp_path: Path, items: list[object], named: str) -> None:
    path = written(tmp_path, *items)
    with pytest.raises(ConfigurationError, match=named) as error:
        load({"DATASET_PATH": str(path)})
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("price", [2**16, -(2**16) + 1])
def test_totals_may_fill_64_bits(tmp_path: Path, price: int) -> None:
    path = written(tmp_path, {**ITEM, "price": price, "quantity": 2**16})
    catalogue = Catalogue(load({"DATASET_PATH": str(path)}))
    for multiplier in (-(2**31), 2**31 - 1):
        assert catalogue.page(1, multiplier) == oracle.body(1, multiplier, path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"null", b"[1,", b'[{"id":"\xff"}]', b"\xef\xbb\xbf[]"])
def test_a_file_that_is_no_dataset_is_exit_2(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    result = check(DATASET_PATH=str(path))
    assert result.returncode == 2
    assert result.stderr.startswith(f"configuration: DATASET_PATH={path}")
    assert result.stderr.count("\n") == 1


def test_a_file_that_cannot_be_read_is_exit_2(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "absent", "cannot be read (No such file"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "pipe", "is not a regular file"),
    ):
        result = check(DATASET_PATH=str(path))
        assert result.returncode == 2
        assert result.stderr.startswith(f"configuration: DATASET_PATH={path} {reason}")
        assert result.stderr.count("\n") == 1


def test_a_line_break_in_a_path_or_a_file_makes_no_second_line(tmp_path: Path) -> None:
    path = written(tmp_path, {**ITEM, "a\nb": 1})
    for chosen in (path, tmp_path / "a\nb"):
        result = check(DATASET_PATH=str(chosen))
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert "a\\nb" in result.stderr
