"""Accept-Encoding to content coding, at the ASGI boundary: every body is decoded and compared."""

import gzip

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.service.application import Application, build
from app.service.catalogue import Item, Rating, load
from app.service.negotiation import FIELD, GZIP, LARGEST, Acceptable, Coding, acceptable, negotiator
from bench import oracle
from tests.support.asgi import Response, request

GAIN = oracle.body(50, 2)
TINY = b'{"items":[],"count":0}'


def get(app: Application, target: str, *fields: bytes, method: str = "GET") -> Response:
    """Request a target with those Accept-Encoding fields."""
    path, _, query = target.partition("?")
    return request(app, path, query.encode(), method, fields)


@pytest.fixture(scope="module")
def app() -> Application:
    return build(load({}))


def encoded(field: bytes | None, body: bytes = GAIN) -> str:
    """Return what a body becomes: `gzip`, `plain`, or `none` for a 406."""
    headers = [] if field is None else [(b"accept-encoding", field)]
    result = negotiator(GZIP)(body, headers)
    if result is None:
        return "none"
    sent, about = result
    assert (b"vary", b"accept-encoding") in about
    if (b"content-encoding", b"gzip") in about:
        assert gzip.decompress(sent) == body
        return "gzip"
    assert sent == body
    return "plain"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (None, "plain"),
        (b"", "plain"),
        (b" \t, ,", "plain"),
        (b"gzip, br", "gzip"),
        (b"gzip", "gzip"),
        (b"GZip", "gzip"),
        (b"x-gzip", "gzip"),
        (b"X-Gzip;q=0, identity;q=0", "none"),
        (b"\tgzip\t;\tQ=0.001\t", "gzip"),
        (b"br", "plain"),
        (b"deflate, zstd", "plain"),
        (b"gzip;q=0", "plain"),
        (b"gzip;q=0.000", "plain"),
        (b"*", "gzip"),
        (b"*;q=0.5", "gzip"),
        (b"*;q=0", "none"),
        (b"identity", "plain"),
        (b"identity;q=0", "none"),
        (b"identity;q=0, *", "gzip"),
        (b"identity;q=0, gzip", "gzip"),
        (b"identity;q=0, br", "none"),
        (b"gzip;q=0, *", "plain"),
        (b"gzip;q=0, identity;q=0, *", "none"),
        (b"gzip, *;q=0", "gzip"),
        (b"identity, *;q=0", "plain"),
        (b"identity;q=0.3, *;q=0", "plain"),
        (b"gzip;q=0.2, identity;q=0.8", "plain"),
        (b"gzip;q=0.2, *;q=0.8", "plain"),
        (b"gzip;q=0.8, identity;q=0.2", "gzip"),
        (b"gzip;q=1.000, identity;q=1", "gzip"),
        (b"br;q=1.0, gzip;q=0.1", "gzip"),
        (b"gzip;q=0, gzip", "plain"),  # named twice: the first counts
        (b"gzip, gzip;q=0", "gzip"),
    ],
)
def test_a_field_decides(field: bytes | None, expected: str) -> None:
    assert encoded(field) == expected


@pytest.mark.parametrize(
    "element",
    [
        b"gzip;q=2",
        b"gzip;q=1.001",
        b"gzip;q=0.0001",
        b"gzip;q=-1",
        b"gzip;q=",
        b"gzip;q",
        b"gzip;q=1;x=1",
        b"gzip;level=1",
        b"gzip gzip",
        b"gz\xc3\xafp",
        b'"gzip"',
        b"gzip\x00",
        b";q=1",
        b"gzip;q=.5",
        b"gzip; q = 1",
        b"gzip\n",
    ],
)
def test_an_invalid_element_is_ignored(element: bytes) -> None:
    assert encoded(element) == "plain"
    assert encoded(element + b", gzip") == "gzip"
    assert encoded(element + b", identity;q=0") == "none"


def test_a_field_is_read_to_its_32nd_element() -> None:
    assert encoded(b"a," * 31 + b"gzip") == "gzip"
    assert encoded(b"a," * 32 + b"gzip, identity;q=0") == "plain"


weights = st.one_of(st.none(), st.integers(0, 1000))
codings = st.sampled_from(["gzip", "identity", "*", "br", "deflate", "zstd", "x-unknown"])
blanks = st.text(" \t", max_size=2)


@given(st.dictionaries(codings, weights, max_size=6), st.data())
def test_negotiation_is_the_rfcs(said: dict[str, int | None], data: st.DataObject) -> None:
    """The weights are known here before the field is written: nothing is parsed."""

    def write(name: str, thousandths: int | None) -> str:
        name = "".join(data.draw(st.sampled_from([each.lower(), each.upper()])) for each in name)
        if thousandths is None:
            return f"{data.draw(blanks)}{name}{data.draw(blanks)}"
        weight = f"{thousandths / 1000:.3f}"
        weight = data.draw(st.sampled_from([weight, weight.rstrip("0").rstrip(".")]))
        blank = [data.draw(blanks) for _ in range(3)]
        return f"{blank[0]}{name}{blank[1]};{blank[2]}{data.draw(st.sampled_from('qQ'))}={weight}"

    elements = [write(name, weight) for name, weight in said.items()]
    split = data.draw(st.integers(0, len(elements)))
    fields = [",".join(part).encode() for part in (elements[:split], elements[split:])]

    def weight(name: str, unsaid: int) -> int:
        each = said.get(name, said.get("*", unsaid) if "*" in said else unsaid)
        return 1000 if each is None else each

    gzipped, plain = weight("gzip", 0), weight("identity", -1)
    rejected = plain == 0
    preferred = gzipped > 0 and gzipped >= plain
    expected = "gzip" if preferred else "none" if rejected else "plain"
    result = negotiator(GZIP)(GAIN, [(b"accept-encoding", field) for field in fields])
    assert expected == ("none" if result is None else "gzip" if len(result[1]) == 2 else "plain")
    assert encoded(b",".join(fields)) == expected


@pytest.mark.parametrize(
    ("element", "read", "expected"),
    [
        (b"identity;q=0.5", b"identity;q=0", "plain"),  # cut there it would refuse the plain body
        (b"gzip;q=0.5", b"gzip;q=0.5", "gzip"),
        (b"gzip;q=0.5", b"gzip", "plain"),  # does not end in time
    ],
)
def test_an_element_that_is_cut_is_none(element: bytes, read: bytes, expected: str) -> None:
    assert encoded(b"x" * (FIELD - len(read) - 1) + b"," + element + b",identity;q=0.1") == expected


@given(st.binary(max_size=60))
def test_no_field_is_an_error(field: bytes) -> None:
    assert isinstance(acceptable(field, b"gzip"), Acceptable)


def test_a_body_too_small_to_compress_is_plain_unless_identity_is_rejected() -> None:
    assert encoded(b"gzip", TINY) == "plain"
    assert encoded(b"gzip, identity;q=0", TINY) == "gzip"


def test_a_body_too_large_to_compress_is_plain_or_a_406() -> None:
    large = b"1" * (LARGEST + 1)
    assert encoded(b"gzip", large[1:]) == "gzip"
    assert encoded(b"gzip", large) == "plain"
    assert encoded(b"gzip, identity;q=0", large) == "none"


@pytest.mark.parametrize(("count", "multiplier"), [*oracle.MIX, *oracle.CHECKS, (0, 1)])
@pytest.mark.parametrize("fields", [(), (b"gzip, br",), (b"identity;q=0, gzip",), (b"br", b"gzip"), (b"gzip;q=0",)])
def test_every_body_decodes_to_the_oracles(
    app: Application, count: int, multiplier: int, fields: tuple[bytes, ...]
) -> None:
    target = f"/json/{count}?m={multiplier}"
    response, head = get(app, target, *fields), get(app, target, *fields, method="HEAD")
    assert response.status == 200
    assert response.headers[b"vary"] == b"accept-encoding"
    assert int(response.headers[b"content-length"]) == len(response.body)
    assert (head.status, head.headers, head.body) == (200, response.headers, b"")
    coding = response.headers.get(b"content-encoding")
    decoded = gzip.decompress(response.body) if coding == b"gzip" else response.body
    assert decoded == oracle.body(count, multiplier)
    if not fields or fields == (b"gzip;q=0",):
        assert coding is None
    elif count >= 5 or fields == (b"identity;q=0, gzip",):
        assert coding == b"gzip"


def test_no_acceptable_coding_is_a_406_that_names_gzip(app: Application) -> None:
    response = get(app, "/json/5", b"br, identity;q=0")
    assert response.status == 406
    assert response.headers[b"vary"] == b"accept-encoding"
    assert b"gzip" in response.body
    assert b"content-encoding" not in response.headers
    head = get(app, "/json/5", b"br, identity;q=0", method="HEAD")
    assert (head.status, head.headers, head.body) == (406, response.headers, b"")


@pytest.mark.parametrize(("target", "status"), [("/nowhere", 404), ("/json/5?m=x", 400)])
def test_errors_are_plain_and_do_not_vary(app: Application, target: str, status: int) -> None:
    response = get(app, target, b"gzip, identity;q=0")
    assert response.status == status
    assert not {b"content-encoding", b"vary"} & response.headers.keys()


def test_another_coding_replaces_gzip() -> None:
    app = build(load({}), Coding(b"br", lambda body: brotli.compress(body, quality=2)))
    response = get(app, "/json/50?m=2", b"gzip, br")
    assert response.headers[b"content-encoding"] == b"br"
    assert brotli.decompress(response.body) == GAIN
    assert b"content-encoding" not in get(app, "/json/50?m=2", b"gzip").headers


def test_a_body_beyond_the_limit_is_served_plain() -> None:
    item = Item(1, "n" * 100, "c", 1, 1, active=True, tags=[], rating=Rating(1, 1))
    app = build([item] * 10_000)
    assert get(app, "/json/1000", b"gzip").headers[b"content-encoding"] == b"gzip"
    assert b"content-encoding" not in get(app, "/json/10000", b"gzip").headers
    assert get(app, "/json/10000", b"gzip, identity;q=0").status == 406
