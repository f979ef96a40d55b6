"""The arena's application in process: every route, its numbers and its bodies."""

import random
import time
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app
from app.service import arena
from app.service.arena import LARGEST_DROPPED, LARGEST_ECHO, PARAMETERS, ROUTES, parse_sum
from bench import asgi as bench_asgi
from bench import oracle
from tests.support import asgi
from tests.support.asgi import Response

TEXT, JSON = b"text/plain", b"application/json"
PLAIN = ((b"content-type", TEXT),)


def call(
    method: str,
    target: str,
    parts: Sequence[bytes | None] | None = None,
    fields: tuple[tuple[bytes, bytes], ...] = (),
    *,
    kind: bytes = TEXT,
) -> Response:
    path, _, query = target.partition("?")
    response = asgi.call(arena.app, method, path, query.encode(), fields, parts)
    assert response.headers[b"content-type"] == kind
    return response


def test_it_is_built_when_it_is_asked_for_and_once() -> None:
    assert arena.app is arena.app
    with pytest.raises(AttributeError, match="has no attribute 'application_'"):
        _ = arena.application_


@pytest.mark.parametrize("path", ["/baseline11", "/baseline2"])
def test_a_get_is_the_sum_of_its_query(path: str) -> None:
    a, b = random.randint(-(10**9), 10**9), random.randint(-(10**9), 10**9)
    response = call("GET", f"{path}?a={a}&b={b}")
    assert (response.status, response.body) == (200, b"%d" % (a + b))
    head = call("HEAD", f"{path}?a={a}&b={b}")
    assert (head.status, head.headers, head.body) == (200, response.headers, b"")


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("", 0),
        ("a=1", 1),
        ("&&a=1&", 1),
        ("a=1&a=2&c=3&=4", 10),
        ("a=-1&b=1", 0),
        ("a=%31%33&b=%2d%31", 12),
        ("a=%2D1&b=000000000000000000000000000000000000000000000000000001", 0),
        (f"a={2**63 - 1}&b={-(2**63)}", -1),
        ("&".join(["a=1"] * PARAMETERS), PARAMETERS),
    ],
)
def test_all_parameters_count(query: str, total: int) -> None:
    assert parse_sum(query.encode()) == total
    assert call("GET", f"/baseline11?{query}").body == b"%d" % total


@pytest.mark.parametrize(
    "query",
    [
        *("a", "a=", "a=1&b=", "a=-", "a=--1", "a=+1", "a=1+", "a=1.5", "a=0x1", "a=1_0", "a=1e3", "a=x", "a=1&b=x"),
        *("a=%", "a=%3", "a=%3a", "a=1%00", "a=%D9%A1", "a= 1", "a=1=2", f"a={2**63}", f"a={-(2**63) - 1}"),
        *("a=" + "9" * 60_000, "&" * 60_000, "&".join(["a=1"] * (PARAMETERS + 1))),
    ],
)
def test_what_is_no_integer_is_a_400(query: str) -> None:
    assert parse_sum(query.encode()) is None
    assert call("GET", f"/baseline11?{query}").status == 400
    assert call("POST", f"/baseline11?{query}", [b"1"]).status == 400


integers = st.integers(-(2**64), 2**64).map(str)
values = st.one_of(integers, integers.map(quote), integers.map(lambda each: "".join(f"%{ord(x):x}" for x in each)))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "", "%61"]), values), max_size=5))
def test_a_sum_is_that_of_urllibs_parser(parameters: list[tuple[str, str]]) -> None:
    query = "&".join(f"{name}={value}" for name, value in parameters)
    numbers = [int(value) for _, value in parse_qsl(query)]
    valid = all(-(2**63) <= each < 2**63 for each in numbers)
    assert parse_sum(query.encode()) == (sum(numbers) if valid else None)


@pytest.mark.parametrize("parts", [[b"20"], [b"20", b""], [b"2", b"0"], [b"", b"2", b"", b"0", b""]])
@pytest.mark.parametrize("stated", [False, True])
def test_a_post_adds_its_body(parts: list[bytes], *, stated: bool) -> None:
    fields = ((b"content-length", b"2"),) if stated else ()
    response = call("POST", "/baseline11?a=13&b=42", parts, fields)
    assert (response.status, response.body) == (200, b"75")
    assert call("POST", "/baseline11?a=13&b=42", [b"-20"]).body == b"35"


@pytest.mark.parametrize("body", [b"", b"x", b"-", b"+1", b" 1", b"1\n", b"%31", b"1.5", "\u0661".encode(), b"9" * 64])
def test_a_body_that_is_no_integer_is_a_400(body: bytes) -> None:
    assert call("POST", "/baseline11?a=1", [body]).status == 400


@pytest.mark.parametrize(("path", "limit"), [("/baseline11", 64), ("/echo", LARGEST_ECHO)])
def test_a_body_above_the_limit_is_a_413_and_read_to_its_end(path: str, limit: int) -> None:
    assert call("POST", path, [b"0" * (limit - 1), b"1"], PLAIN).status == 200
    coming: list[bytes | None] = [b"0" * limit, b"1", b"2" * limit, b""]
    response = call("POST", path, coming, PLAIN)
    assert response.status == 413
    assert b"connection" not in response.headers


@pytest.mark.parametrize(("path", "limit"), [("/baseline11", 64), ("/echo", LARGEST_ECHO)])
def test_a_body_that_is_far_too_large_closes_the_connection(path: str, limit: int) -> None:
    most = limit + LARGEST_DROPPED
    for length in (most + 1, 10**30):
        unread = call("POST", path, None, ((b"content-length", b"%d" % length),))
        assert (unread.status, unread.headers[b"connection"]) == (413, b"close")
    part = b"0" * (most // 4)
    endless = call("POST", path, [*[part] * 5, b"", b""])
    assert (endless.status, endless.headers[b"connection"]) == (413, b"close")


@pytest.mark.parametrize("path", ["/baseline11", "/echo"])
@pytest.mark.parametrize("parts", [[None], [b"1", None]])
def test_a_body_without_an_end_is_a_400_that_closes(path: str, parts: list[bytes | None]) -> None:
    response = call("POST", path, parts)
    assert (response.status, response.headers[b"connection"]) == (400, b"close")


def test_nothing_is_read_behind_a_stated_length() -> None:
    parts = [b"2", b"0", None]
    assert call("POST", "/baseline11?a=55", parts, ((b"content-length", b"2"),)).body == b"75"


@pytest.mark.parametrize("size", [0, 1, 100_000, LARGEST_ECHO])
def test_an_echo_is_the_body_with_its_type(size: int) -> None:
    body = random.randbytes(size)
    cut = random.randint(0, size)
    response = call("POST", "/echo", [body[:cut], body[cut:], b""], ((b"content-type", b"a/b; c"),), kind=b"a/b; c")
    assert (response.status, response.body) == (200, body)
    assert call("POST", "/echo", [body], kind=b"application/octet-stream").body == body


@pytest.mark.parametrize("milliseconds", [0, 1, 30])
def test_a_delay_takes_as_many_milliseconds(milliseconds: int) -> None:
    begin = time.perf_counter()
    response = call("GET", f"/delay/{milliseconds}")
    assert milliseconds / 1000 <= time.perf_counter() - begin
    assert (response.status, response.body) == (200, b"%d" % milliseconds)
    assert call("HEAD", f"/delay/{milliseconds}").body == b""


def test_no_delay_is_a_response_at_once() -> None:
    scope = {"type": "http", "method": "GET", "path": "/delay/0", "query_string": b"", "headers": []}
    assert bench_asgi.call(arena.app, scope) == 200  # raises if it waits
    with pytest.raises(RuntimeError, match="waited"):
        bench_asgi.call(arena.app, {**scope, "path": "/delay/1"})


@pytest.mark.parametrize("number", ["", "10001", "-1", "+1", "1.5", "x", "\u0661", "1 ", "9" * 60_000, "\ud800"])
def test_a_delay_that_is_no_number_up_to_10000_is_a_400(number: str) -> None:
    assert call("GET", f"/delay/{number}").status == 400


@pytest.mark.parametrize(
    "path", ["/", "/pipeline/", "/Pipeline", "/baseline11/1", "/baseline", "/delay", "/delay/1/2", "/echo/"]
)
def test_any_other_path_is_a_404(path: str) -> None:
    assert call("GET", path).status == 404
    assert call("POST", path).status == 404


@pytest.mark.parametrize("path", ROUTES)
def test_another_method_is_a_405_that_names_the_routes(path: str) -> None:
    methods = ROUTES[path].methods
    for method in {"GET", "HEAD", "POST", "PUT", "OPTIONS", "get"} - set(methods):
        response = call(method, path)
        assert response.status == 405
        assert response.headers[b"allow"].decode().split(", ") == list(methods)


def test_pipeline_is_ok() -> None:
    assert call("GET", "/pipeline").body == b"ok"
    assert call("HEAD", "/pipeline").headers[b"content-length"] == b"2"


def test_json_is_that_of_the_json_service() -> None:
    count, multiplier = random.randint(1, 50), random.randint(2, 89)
    response = call("GET", f"/json/{count}?m={multiplier}", kind=JSON)
    assert response.body == oracle.body(count, multiplier)
    for target, status in ((f"/json/{count}?m=x", 400), ("/json/x", 404)):
        assert call("GET", target, kind=JSON).status == status
    assert call("POST", "/json/1", kind=JSON).headers[b"allow"] == b"GET, HEAD"
    assert asgi.call(app.app, "GET", "/pipeline").status == 404
