"""Whom a request comes from: what trusted proxies say, and what everybody else says."""

import ipaddress
import json
import ssl
import timeit
from pathlib import Path
from typing import Any

import httpx
import pytest
from granian.utils.proxies import wrap_asgi_with_proxy_headers

from app.launcher.forwarded import HOPS, Forwarded, parse
from tests.support.asgi import passed_on
from tests.support.configuration import SERVER_TOML, configured, rejected
from tests.support.service import Launch

TRUSTED = [ipaddress.ip_network(each) for each in ("10.0.0.0/8", "2001:db8::/32")]
Headers = list[tuple[bytes, bytes]]


def seen(headers: Headers, peer: str = "10.0.0.1", kind: str = "http", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the scope that the application gets."""
    scope = {"type": kind, "client": (peer, "4711"), "scheme": "ws" if kind == "websocket" else "http"}
    return passed_on(lambda application: Forwarded(application, TRUSTED), {**scope, "headers": headers, **more})


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        ([b"192.0.2.7"], "192.0.2.7"),
        ([b"203.0.113.9, 192.0.2.7"], "192.0.2.7"),  # what is left of it may be invented
        ([b"203.0.113.9, 192.0.2.7, 10.2.3.4"], "192.0.2.7"),
        ([b"203.0.113.9", b"192.0.2.7", b"10.2.3.4 , 10.2.3.5"], "192.0.2.7"),  # fields are one list
        ([b"192.0.2.7:5000, 10.2.3.4:80"], "192.0.2.7"),
        ([b"[2001:DB9::7]:5000"], "2001:db9::7"),
        ([b"[2001:db9::7]"], "2001:db9::7"),
        ([b"2001:db9:0::7,2001:db8::1"], "2001:db9::7"),
        ([b"::ffff:192.0.2.7"], "192.0.2.7"),
        ([b"192.0.2.7, ::ffff:10.2.3.4"], "192.0.2.7"),
        ([b"10.0.0.9, 10.0.0.8"], "10.0.0.9"),  # all are trusted: the first is the client
        ([b"192.0.2.7, unknown, 10.0.0.8"], "10.0.0.8"),  # no address ends the walk
        ([b"192.0.2.7, , 10.0.0.8,"], "192.0.2.7"),  # empty elements are none
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(fields: list[bytes], client: str) -> None:
    assert seen([(b"x-forwarded-for", field) for field in fields])["client"] == (client, 0)


@pytest.mark.parametrize(
    "text",
    [b"", b" ", b",", b"unknown", b"_hidden", b"192.0.2.7, 10.0.0.300", b"010.0.0.1", b"1.2.3.4:", b"1.2.3.4:123456",
     b"[192.0.2.7", b"[192.0.2.7]", b"fe80::1%eth0", b"[fe80::1%eth0]:1", b"\xb9.2.3.4", b"1" * 60_000, b":" * 60_000],
)  # fmt: skip
def test_what_is_no_address_is_not_the_client(text: bytes) -> None:
    assert seen([(b"x-forwarded-for", text)])["client"] == ("10.0.0.1", "4711")


@pytest.mark.parametrize("peer", ["192.0.2.1", "::1", "::ffff:192.0.2.1", "", "unix:/run/x"])
def test_nobody_else_is_believed(peer: str) -> None:
    scope = seen([(b"x-forwarded-for", b"10.0.0.1, 192.0.2.7"), (b"x-forwarded-proto", b"https")], peer)
    assert (scope["client"], scope["scheme"]) == ((peer, "4711"), "http")


@pytest.mark.parametrize("peer", ["10.255.0.1", "::ffff:10.0.0.1", "2001:db8:1::2"])
def test_a_proxy_is_recognised(peer: str) -> None:
    assert seen([(b"x-forwarded-for", b"192.0.2.7")], peer)["client"] == ("192.0.2.7", 0)


@pytest.mark.parametrize(
    ("kind", "said", "scheme"),
    [
        ("http", b"https", "https"),
        ("http", b"HTTPS", "https"),
        ("http", b"http, https", "https"),
        ("http", b"https, http", "http"),
        ("http", b"wss", "http"),
        ("http", b"gopher", "http"),
        ("http", b"", "http"),
        ("websocket", b"https", "wss"),
        ("websocket", b"wss", "wss"),
        ("websocket", b"https, ws", "ws"),
    ],
)
def test_the_scheme_is_what_the_last_proxy_says(kind: str, said: bytes, scheme: str) -> None:
    assert seen([(b"x-forwarded-proto", said)], kind=kind)["scheme"] == scheme


def test_the_servers_own_scope_stays_as_it_is() -> None:
    scope = {"type": "http", "client": ("10.0.0.1", "1"), "scheme": "http", "headers": [(b"x-forwarded-for", b"::7")]}
    before = dict(scope)
    given: list[object] = []
    Forwarded(lambda scope, *_: given.append(scope), TRUSTED)(scope, None, None)  # type: ignore[arg-type]
    assert scope == before
    assert given == [{**before, "client": ("::7", 0)}]


@pytest.mark.parametrize("scope", [{"type": "lifespan"}, {"type": "http", "client": None, "headers": []}])
def test_a_scope_without_a_client_is_passed_on(scope: dict[str, Any]) -> None:
    given: list[object] = []
    Forwarded(lambda scope, *_: given.append(scope), TRUSTED)(scope, None, None)  # type: ignore[arg-type]
    assert given == [scope]


def test_a_long_field_takes_no_longer_than_a_head_may() -> None:
    headers = [(b"x-forwarded-for", b"10.0.0.1, " * 12_000)]
    scope = {"type": "http", "client": ("10.0.0.1", "1"), "scheme": "http", "headers": headers}
    middleware = Forwarded(lambda *_: None, TRUSTED)  # type: ignore[arg-type]
    seconds = min(timeit.repeat(lambda: middleware(scope, None, None), number=1, repeat=50))  # type: ignore[arg-type]
    assert seconds < 0.001
    assert HOPS < 12_000


def test_granians_own_wrapper_is_still_not_exact() -> None:
    """What the module's docstring says of it; if this fails, ours may have become unnecessary."""

    def wrapped(headers: Headers, peer: str = "10.0.0.1") -> dict[str, Any]:
        scopes: list[dict[str, Any]] = []
        scope = {"type": "http", "client": (peer, "1"), "scheme": "http", "headers": headers}
        wrap_asgi_with_proxy_headers(lambda scope, *_: scopes.append(scope), ["10.0.0.0/8"])(scope, None, None)
        return scopes[0]

    assert wrapped([(b"x-forwarded-for", b"unknown")])["client"] == ("unknown", 0)
    assert wrapped([(b"x-forwarded-for", b"192.0.2.7:80")])["client"] == ("192.0.2.7:80", 0)
    assert wrapped([(b"x-forwarded-proto", b"https")])["scheme"] == "http"
    both = [(b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"http")]
    assert wrapped(both)["scheme"] == "https"
    assert wrapped([(b"x-forwarded-for", b"192.0.2.7")], "::ffff:10.0.0.1")["client"] == ("::ffff:10.0.0.1", "1")


def test_a_mapped_address_has_a_port_only_in_brackets() -> None:
    assert str(parse("[::ffff:192.0.2.7]:1")) == "192.0.2.7"
    assert parse("::ffff:192.0.2.7:80") is None


def with_proxies(*networks: str) -> str:
    return SERVER_TOML.rstrip() + f"\ntrusted_proxies = {json.dumps(networks)}\n"


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_over_http(launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, tmp_path: Path, runs: str) -> None:
    service = launch(
        configured(tmp_path, with_proxies("::ffff:127.0.0.0/104")),
        APPLICATION="tests.support.echo_scope:app",
        APPLICATION_RUNS=runs,
        **pair,
    ).ready()
    headers = [
        ("X-Forwarded-For", "203.0.113.9, 192.0.2.7"),
        ("x-forwarded-for", "127.0.0.3"),
        ("X-Forwarded-Proto", "https"),
    ]
    with httpx.Client(base_url=service.url, trust_env=False) as client:
        found = client.get("/a", headers=headers).json()
        assert (found["client"], found["scheme"]) == (["192.0.2.7", 0], "https")
        found = client.get("/a").json()
        assert (found["client"][0], found["scheme"]) == ("127.0.0.1", "http")
    with httpx.Client(verify=trust, base_url=service.tls_url, trust_env=False) as client:
        found = client.get("/a", headers=headers).json()  # this listener trusts nobody
        assert (found["client"][0], found["scheme"]) == ("127.0.0.1", "https")
    service.stop()


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy", "", "10.0.0.0/33", "fe80::1%lo"])
def test_what_is_no_network_is_rejected(tmp_path: Path, pair: dict[str, str], text: str) -> None:
    line = rejected(configured(tmp_path, with_proxies(text)), **pair)
    assert f"listener json: trusted_proxies={text!r} is no network" in line
    assert "write it like 10.0.0.0/8" in line
