"""The application at the ASGI boundary, without a server."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app as package
from app.service.application import Application, Message, build, parse_count, parse_multiplier
from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN, load
from bench import oracle
from tests.support.asgi import request
from tests.support.model import ITEMS, LONG


@pytest.fixture(scope="module")
def app() -> Application:
    return build(load({}))


def test_the_package_offers_the_application() -> None:
    assert callable(package.app)
    assert package.app is package.app
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


@pytest.mark.parametrize(
    ("count", "multiplier"), [*oracle.MIX, (0, 1), (50, -3), (7, 0), (50, 2**31 - 1), (50, -(2**31))]
)
def test_a_body_is_the_oracles(app: Application, count: int, multiplier: int) -> None:
    response = request(app, f"/json/{count}", f"m={multiplier}".encode())
    assert response.status == 200
    assert response.body == oracle.body(count, multiplier)


def test_head_has_the_headers_and_no_body(app: Application) -> None:
    get, head = request(app, "/json/9", b"m=4"), request(app, "/json/9", b"m=4", "HEAD")
    assert (head.status, head.headers, head.body) == (200, get.headers, b"")
    rejected = request(app, "/nowhere", method="HEAD")
    assert (rejected.status, rejected.body) == (404, b"")


@pytest.mark.parametrize(
    "count", ["51", "1000", "00000000000000000000000000000050", "9" * 19, "1" + "0" * 30, "8" * LONG]
)
def test_a_count_beyond_the_dataset_is_all_items(app: Application, count: str) -> None:
    response = request(app, f"/json/{count}")
    assert (response.status, response.body) == (200, oracle.body(ITEMS, 1))


@pytest.mark.parametrize("count", ["0", "00", "0" * LONG])
def test_count_zero_is_no_items(app: Application, count: str) -> None:
    assert request(app, f"/json/{count}").body == b'{"items":[],"count":0}'


@pytest.mark.parametrize(
    ("query", "multiplier"),
    [
        (b"", 1),
        (b"n=3", 1),
        (b"mm=3&M=4", 1),
        (b"m=3&m=4", 3),
        (b"m=3&m=x", 3),
        (b"x=1&m=5&y=2", 5),
        (b"m=-7", -7),
        (b"m=007", 7),
        (b"m=" + b"0" * LONG + b"7", 7),
        (b"m=-0", 0),
        (b"m=%35", 5),
        (b"%6d=5", 5),
        (b"m=2147483647", 2**31 - 1),
        (b"m=-2147483648", -(2**31)),
        (b"&&m=6&", 6),
        (b"\xff\xfe=\xff&m=6", 6),
    ],
)
def test_m(app: Application, query: bytes, multiplier: int) -> None:
    response = request(app, "/json/3", query)
    assert (response.status, response.body) == (200, oracle.body(3, multiplier))


@pytest.mark.parametrize(
    "query",
    [
        b"m",
        b"m=",
        b"m=&m=3",
        b"m=x",
        b"m=+5",
        b"m=%2B5",
        b"m=--5",
        b"m=-",
        b"m=5-",
        b"m=1_0",
        b"m=5.0",
        b"m=1e3",
        b"m=0x10",
        b"m= 5",
        b"m=5%20",
        b"m=5%00",
        b"m=%D9%A3",
        b"m=\xd9\xa3",
        b"m=%C2%B2",
        b"m=2147483648",
        b"m=-2147483649",
        b"m=" + b"9" * LONG,
        b"m=-" + b"9" * LONG,
    ],
)
def test_an_invalid_m_is_reported(app: Application, query: bytes) -> None:
    response = request(app, "/json/3", query)
    assert response.status == 400
    error = json.loads(response.body)["error"]
    assert error.startswith("m must be")
    assert str(MULTIPLIER_MIN) in error
    assert str(MULTIPLIER_MAX) in error


@pytest.mark.parametrize(
    "path",
    [
        *("/", "", "/json", "/json/", "/json/5/", "/json/abc", "/json/-1", "/json/+5", "/json/1_0", "/json/5.0"),
        *("/json/ 5", "/json/\u0663", "/json/\u096b", "/json/\u00b2", "/json/5\n", "/json/5\0", "/json//5", "//json/5"),
        *("/JSON/5", "/jsonx5", "*"),
    ],
)
def test_any_other_path_is_not_found(app: Application, path: str) -> None:
    response = request(app, path)
    assert response.status == 404
    assert list(json.loads(response.body)) == ["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "BREW"])
def test_another_method_is_not_allowed(app: Application, method: str) -> None:
    response = request(app, "/json/5", b"m=x", method)
    assert (response.status, response.headers[b"allow"]) == (405, b"GET, HEAD")
    assert "GET" in json.loads(response.body)["error"]
    assert request(app, "/", method=method).status == 404


@given(st.integers(0, 2**70), st.integers(-(2**33), 2**33))
def test_any_count_and_m(count: int, multiplier: int) -> None:
    response = request(build(load({})), f"/json/{count}", b"m=%d" % multiplier)
    if MULTIPLIER_MIN <= multiplier <= MULTIPLIER_MAX:
        assert (response.status, response.body) == (200, oracle.body(count, multiplier))
    else:
        assert response.status == 400


@given(st.text(max_size=30))
def test_parse_count_takes_ascii_digits_alone(text: str) -> None:
    count = parse_count(f"/json/{text}")
    if text and set(text) <= set("0123456789"):
        assert count is not None
        assert count == int(text) or (len(text) > 20 and count >= 10**19)
    else:
        assert count is None


@given(st.binary(max_size=60))
def test_parse_multiplier_accepts_anything(query: bytes) -> None:
    multiplier = parse_multiplier(query)
    assert multiplier is None or MULTIPLIER_MIN <= multiplier <= MULTIPLIER_MAX


@given(st.text(), st.binary(), st.sampled_from(["GET", "HEAD", "POST"]))
def test_no_input_is_a_500(path: str, query: bytes, method: str) -> None:
    assert request(package.app, path, query, method).status in (200, 400, 404, 405)
    assert request(package.app, f"/json/{path}", query, method).status in (200, 400, 404, 405)


@pytest.fixture
def eager_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_switches")
def test_threads_that_share_it_get_their_own_totals(app: Application) -> None:
    wrong: list[int] = []
    threads_meet = threading.Barrier(4)

    def send_many(multiplier: int) -> None:
        expected = oracle.body(ITEMS, multiplier)
        query = b"m=%d" % multiplier
        sent: list[bytes] = []

        async def receive() -> Message:
            raise AssertionError("a GET has no body to read")

        async def send(message: Message) -> None:
            sent.append(message.get("body", b""))

        scope = {"type": "http", "method": "GET", "path": f"/json/{ITEMS}", "query_string": query, "headers": []}
        threads_meet.wait()
        for _ in range(1500):
            sent.clear()
            with pytest.raises(StopIteration):
                app(scope, receive, send).send(None)
            if sent[-1] != expected:
                wrong.append(multiplier)

    threads = [threading.Thread(target=send_many, args=(multiplier,)) for multiplier in (2, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_lifespan_completes(app: Application) -> None:
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[str] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan", "state": {}}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_websocket_is_closed_before_it_is_accepted(app: Application) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app({"type": "websocket", "path": "/json/5"}, receive, send))
    assert sent == [{"type": "websocket.close"}]
