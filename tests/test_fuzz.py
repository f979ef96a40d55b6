"""Any request at the ASGI boundary against a model of the interface, by hypothesis and by atheris."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import app
from app.service.application import Application
from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN
from bench import oracle
from tests.conftest import ROOT, clean_environment
from tests.test_application import LENGTH, request

METHODS = ["GET", "HEAD", "POST", "OPTIONS", "get"]


def number(digits: str) -> int:
    """Read a number, or of one that Python would not read at once, the first 4000 digits: more than any limit."""
    return int(digits.lstrip("0")[:4000] or "0")


def expected(method: str, path: str, query: bytes) -> tuple[int, bytes | None]:
    """Say status, and the body of a 200, as README.md's table does; written apart from the application."""
    count = re.fullmatch(r"/json/([0-9]+)", path)
    if count is None:
        return 404, None
    if method not in ("GET", "HEAD"):
        return 405, None
    multiplier = 1
    for pair in query.split(b"&"):
        name, _, value = (unquote_to_bytes(each) for each in pair.replace(b"+", b" ").partition(b"="))
        if name == b"m":
            digits = re.fullmatch(rb"(-?)([0-9]+)", value)
            if digits is None:
                return 400, None
            multiplier = number(digits[2].decode()) * (-1 if digits[1] else 1)
            break
    if not MULTIPLIER_MIN <= multiplier <= MULTIPLIER_MAX:
        return 400, None
    return 200, oracle.body(min(number(count[1]), LENGTH), multiplier)


def check(application: Application, method: str, path: str, query: bytes, fields: Sequence[bytes] = ()) -> None:
    """Fail unless the answer is the model's, JSON, and of the length that it says; what it is coded in has its own test."""
    status, body = expected(method, path, query)
    answer = request(application, path, query, method, fields)
    coding = answer.headers.get(b"content-encoding")
    if answer.status == 406:
        assert status == 200
        assert b"identity" in b"".join(fields).lower() or b"*" in b"".join(fields)
    else:
        assert answer.status == status
    if method == "HEAD":
        assert answer.body == b""
        assert body is None or coding or answer.status == 406 or int(answer.headers[b"content-length"]) == len(body)
    elif body is None or answer.status == 406:
        assert list(json.loads(answer.body)) == ["error"]
    else:
        assert (gzip.decompress(answer.body) if coding == b"gzip" else answer.body) == body


digits = st.one_of(
    st.integers(-(2**32), 2**32).map(str),
    st.sampled_from([MULTIPLIER_MIN - 1, MULTIPLIER_MIN, MULTIPLIER_MAX, MULTIPLIER_MAX + 1]).map(str),
    st.sampled_from(
        ["", "-", "+1", "--1", "1_0", "1e3", "0x1", " 1", "1 ", "1\n", "\u0663", "\u00b2", "0" * 5000 + "7"]
    ),
    st.text("0123456789-", max_size=30),
    st.text(max_size=5),
)
names = st.one_of(st.just("m"), st.sampled_from(["M", "mm", "", "%6d", "%6D", "m%00", "m ", "+m", "\u00b5"]), st.text())


def percent_encoded(content: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in content)


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Draw lists of parameters that are, or are nearly, ours, some percent-encoded."""
    pairs = []
    for name, value in draw(st.lists(st.tuples(names, digits), max_size=4)):
        content = percent_encoded(value.encode()) if draw(st.booleans()) else value.encode()
        pairs.append(name.encode() + draw(st.sampled_from([b"=", b"=", b"", b"=="])) + content)
    return draw(st.sampled_from([b"&", b";", b"&&"])).join(pairs)


paths = st.one_of(
    st.integers(0, 60).map("/json/{}".format),
    digits.map("/json/{}".format),
    st.tuples(st.sampled_from(["/json", "/JSON/", "//json/", "/json//", "/json/"]), st.text()).map("".join),
    st.text(),
)


offers = st.one_of(st.sampled_from([b"gzip, br", b"*;q=0", b"identity;q=0", b"gzip;q=0.5, *", b"x-gzip"]), st.binary())


@settings(max_examples=1000, deadline=None)  # the clock decides nothing
@given(st.sampled_from(METHODS), paths, st.one_of(queries(), st.binary()), st.lists(offers, max_size=3))
@example("GET", "/json/5\n", b"m=3", [])
@example("GET", "/json/5", b"m=3\n", [])
@example("GET", "/json/" + "9" * 60_000, b"m=" + b"0" * 60_000 + b"1", [])
@example("GET", "/json/5", b"&" * 60_000 + b"m=2", [b"gzip;q=" * 8000, b"," * 60_000])
def test_any_request_is_answered_as_the_model_says(method: str, path: str, query: bytes, fields: list[bytes]) -> None:
    check(app.app, method, path, query, fields)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine"
)
def test_a_coverage_guided_fuzzer_finds_no_other_answer(tmp_path: Path) -> None:
    bounds = ["-runs=20000", "-max_total_time=20", "-max_len=256"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_asgi", *bounds, f"-artifact_prefix={tmp_path}/", str(tmp_path)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    runs = re.search(r"^Done (\d+) runs", result.stderr, re.MULTILINE)
    assert runs is not None, result.stderr
    assert int(runs[1]) > 1000
