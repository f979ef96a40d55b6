"""The cookies of HTTP/2, which a client may send as a field each (RFC 9113, section 8.2.3)."""

import json
from contextlib import closing
from typing import Any

import pytest

from app.launcher.cookies import JoinedCookies
from tests.support.asgi import passed_on
from tests.support.http2 import Client
from tests.support.ports import free_port
from tests.support.service import Launch

Headers = list[tuple[bytes, bytes]]
TWO: Headers = [(b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2; c=3")]


def seen(headers: Headers, version: str = "2", kind: str = "http") -> Headers:
    """Return the headers that the application gets."""
    scope: dict[str, Any] = {"type": kind, "headers": headers}
    if kind != "lifespan":
        scope["http_version"] = version
    found: Headers = passed_on(JoinedCookies, scope)["headers"]
    return found


def test_several_fields_are_one_in_the_place_of_the_first() -> None:
    given = list(TWO)
    assert seen(given) == [(b"cookie", b"a=1; b=2; c=3"), (b"accept", b"*/*")]
    assert given == TWO


@pytest.mark.parametrize(
    ("headers", "version", "kind"), [(TWO[1:], "2", "http"), (TWO, "1.1", "http"), (TWO, "", "lifespan")]
)
def test_all_else_is_left_as_it_is(headers: Headers, version: str, kind: str) -> None:
    assert seen(headers, version, kind) is headers


def test_an_application_gets_them_over_http2(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(APPLICATION="tests.support.echo_scope:app", H2C_PORT=str(free_port()), WORKERS="1", **pair).ready()
    with closing(Client(service.h2c_port)) as client:
        stream = client.request("/", ("cookie", "a=1"), ("cookie", "b=2"))
        client.until_whole([stream])
        assert json.loads(client.bodies[stream])["cookies"] == ["a=1; b=2"]
    service.stop()
