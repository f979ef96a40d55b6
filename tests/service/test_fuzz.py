"""Any request at the ASGI boundary against a model of the interface, by hypothesis and by atheris."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import app
from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN
from tests.support.model import LONG, METHODS, check
from tests.support.processes import ROOT, clean_environment

digits = st.one_of(
    st.integers(-(2**32), 2**32).map(str),
    st.sampled_from([MULTIPLIER_MIN - 1, MULTIPLIER_MIN, MULTIPLIER_MAX, MULTIPLIER_MAX + 1]).map(str),
    st.sampled_from(
        ["", "-", "+1", "--1", "1_0", "1e3", "0x1", " 1", "1 ", "1\n", "\u0663", "\u00b2", "0" * LONG + "7"]
    ),
    st.text("0123456789-", max_size=30),
    st.text(max_size=5),
)
names = st.one_of(st.just("m"), st.sampled_from(["M", "mm", "", "%6d", "%6D", "m%00", "m ", "+m", "\u00b5"]), st.text())


def percent_encoded(content: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in content)


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Draw parameters that are, or nearly are, the interface's, some percent-encoded."""
    parameters = []
    for name, value in draw(st.lists(st.tuples(names, digits), max_size=4)):
        content = percent_encoded(value.encode()) if draw(st.booleans()) else value.encode()
        parameters.append(name.encode() + draw(st.sampled_from([b"=", b"=", b"", b"=="])) + content)
    return draw(st.sampled_from([b"&", b";", b"&&"])).join(parameters)


paths = st.one_of(
    st.integers(0, 60).map("/json/{}".format),
    digits.map("/json/{}".format),
    st.tuples(st.sampled_from(["/json", "/JSON/", "//json/", "/json//", "/json/"]), st.text()).map("".join),
    st.text(),
)


offers = st.one_of(st.sampled_from([b"gzip, br", b"*;q=0", b"identity;q=0", b"gzip;q=0.5, *", b"x-gzip"]), st.binary())


@settings(max_examples=500)
@given(st.sampled_from(METHODS), paths, st.one_of(queries(), st.binary()), st.lists(offers, max_size=3))
@example("GET", "/json/5\n", b"m=3", [])
@example("GET", "/json/5", b"m=3\n", [])
@example("GET", "/json/" + "9" * LONG, b"m=" + b"0" * LONG + b"1", [])
@example("GET", "/json/5", b"&" * LONG + b"m=2", [b"gzip;q=" * (LONG // 7), b"," * LONG])
def test_any_request_gets_the_models_response(method: str, path: str, query: bytes, fields: list[bytes]) -> None:
    check(app.app, method, path, query, fields)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine"
)
def test_a_coverage_guided_fuzzer_finds_no_other_response(tmp_path: Path) -> None:
    bounds = ["-runs=5000", "-max_total_time=20", "-max_len=256"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.service.fuzz_asgi", *bounds, f"-artifact_prefix={tmp_path}/", str(tmp_path)],
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
