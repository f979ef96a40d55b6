"""Parameters of a query string, compared with what urllib's parser makes of them."""

import re
from urllib.parse import parse_qsl, unquote_to_bytes

from hypothesis import example, given
from hypothesis import strategies as st

from app.service.application import first, parse_multiplier
from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN
from tests.support.model import LONG, number


def urllibs_first(query: bytes, name: bytes) -> bytes | None:
    """Return the value of the first parameter of that name as urllib finds and decodes it."""
    found = dict(reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")))
    value = found.get(name.decode())
    return None if value is None else value.encode("latin-1")


def model(query: bytes) -> int | None:
    """Return the first m, 1 if there is none; None if it is no integer within the bounds."""
    value = urllibs_first(query, b"m")
    if value is None:
        return 1
    digits = re.fullmatch(rb"(-?)([0-9]+)", value)
    if digits is None:
        return None
    multiplier = number(digits[2].decode()) * (-1 if digits[1] else 1)
    return multiplier if MULTIPLIER_MIN <= multiplier <= MULTIPLIER_MAX else None


def escaped(text: bytes) -> st.SearchStrategy[bytes]:
    """Write each byte as it is, or percent-encoded in capitals or small letters."""
    ways = [st.sampled_from([bytes([each]), b"%%%02X" % each, b"%%%02x" % each]) for each in text]
    return st.tuples(*ways).map(b"".join)


NUMBERS = st.integers(-(2**33), 2**33).map(lambda value: b"%d" % value)
PIECES = st.one_of(
    st.sampled_from([b"", b"%", b"%3", b"%3%35", b"%%35", b"%2", b"+", b"-", b"%2D", b"%2d", b"%30", b"%3A", b"%2F"]),
    NUMBERS,
    st.binary(max_size=3),
    st.integers(1, 400).map(lambda size: b"0" * size),
    st.integers(1, 400).map(lambda size: b"%30" * size),
)
VALUES = st.one_of(NUMBERS.flatmap(escaped), st.lists(PIECES, max_size=4).map(b"".join))
NAMES = st.one_of(
    escaped(b"m"), st.sampled_from([b"M", b"mm", b"%4d", b"%256d", b"%6", b"", b"a"]), st.binary(max_size=3)
)
PARAMETERS = st.one_of(st.tuples(NAMES, VALUES).map(b"=".join), NAMES)
QUERIES = st.one_of(
    st.lists(PARAMETERS, max_size=6).map(b"&".join),
    st.tuples(escaped(b"m"), VALUES).map(b"=".join),
    st.lists(st.sampled_from([b"m", b"%6d", b"%6D", b"%6", b"=", b"&", b"3", b"%33", b"-", b"%"]), max_size=12).map(
        b"".join
    ),
)


@given(QUERIES)
@example(b"m=%3%35")
@example(b"m=1%3")
@example(b"m=%3")
@example(b"m=%35%3")
@example(b"m=%3%30%35")
@example(b"m=%2D%35")
@example(b"m=%2D%2D5")
@example(b"m=-%2d5")
@example(b"m=%335")
@example(b"%6D=5&m=6")
@example(b"m&m=6")
@example(b"%6d&m=6")
@example(b"%6D")
@example(b"a&%6D&m=6")
@example(b"x=&%6d=%37&m=1")
@example(b"a=m=3&m=4")
@example(b"m==3")
@example(b"m=3;m=4")
@example(b"m=" + b"%30" * (LONG // 3) + b"%37")
@example(b"%4&" * (LONG // 3) + b"m=3")
@example(b"m=" + b"9" * LONG)
@example(b"m=%2D" + b"%39" * (LONG // 3))
def test_m_is_what_urllib_makes_of_it(query: bytes) -> None:
    assert parse_multiplier(query) == model(query)


@given(st.sampled_from([b"m", b"a", b"fa", b"of", b"currency", b"page-size", b"x_1", b"M2"]), st.data())
def test_the_first_parameter_of_any_name_is_urllibs(name: bytes, data: st.DataObject) -> None:
    names = st.one_of(escaped(name), st.sampled_from([name[:-1], name.swapcase(), name + b"s", b"%6%66", b""]))
    parameters = st.one_of(st.tuples(names, st.sampled_from([b"", b"5", b"%35", b"=", b"%6%66"])).map(b"=".join), names)
    query = data.draw(st.lists(parameters, max_size=5).map(b"&".join))
    found = first(query, name)
    assert (None if found is None else unquote_to_bytes(found)) == urllibs_first(query, name)
