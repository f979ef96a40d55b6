"""ASGI middleware: whom a request comes from if it comes by proxies that are trusted.

Granian has a wrapper of this kind (granian/utils/proxies.py), which is not exact enough: it takes text that is no
address (`unknown`) or has a port for the client, ignores X-Forwarded-Proto if there is no X-Forwarded-For, takes the
first X-Forwarded-Proto, which a client may have written, and does not recognise a proxy whose IPv4 address is mapped
(`::ffff:10.0.0.1`, as a listener on `::` sees it).
"""

import ipaddress
import re
from collections.abc import Awaitable, Iterable
from functools import lru_cache

from app.launcher.asgi import Application, Message, Receive, Send
from app.settings.proxies import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HOPS = 32  # elements of X-Forwarded-For that are looked at, from the right: a client may write thousands
FORMS = re.compile(r"\[(?P<six>[^\]]{2,45})\](:\d{1,5})?|(?P<four>[\d.]{7,15})(:\d{1,5})?|(?P<bare>[\da-fA-F:.]{2,45})")
"""An address in brackets or of IPv4, either with a port, or one of IPv6 alone."""
SCHEMES = {
    "http": {b"http": "http", b"https": "https"},
    "websocket": {b"http": "ws", b"https": "wss", b"ws": "ws", b"wss": "wss"},
}
"""What X-Forwarded-Proto may be for each type of scope, and the scheme that it stands for."""


class Forwarded:
    """Set `client` and `scheme` to what trusted proxies say. Nobody else's headers are looked at."""

    def __init__(self, application: Application, trusted: Iterable[Network]) -> None:
        self.application = application
        self.trusted = tuple(trusted)
        self._is_proxy = lru_cache(maxsize=1024)(self._is_trusted)

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine: there is none of our own around it."""
        peer = scope.get("client")
        if peer and scope["type"] in SCHEMES and self._is_proxy(peer[0]):
            scope = {**scope, **self._what_proxies_say(scope)}
        return self.application(scope, receive, send)

    def _what_proxies_say(self, scope: Message) -> Message:
        said: Message = {}
        hops = _elements(scope, b"x-forwarded-for")
        if hops and (client := self._client(hops)):
            said["client"] = (client, 0)
        if protocols := _elements(scope, b"x-forwarded-proto"):
            scheme = SCHEMES[scope["type"]].get(protocols[-1].lower())
            if scheme:
                said["scheme"] = scheme
        return said

    def _client(self, hops: list[bytes]) -> str | None:
        """Return the last address that is no trusted proxy's, else the first; None if the last is no address.

        A proxy appends whom it got the request from, so that what is left of an untrusted address may be invented.
        """
        found = None
        for hop in reversed(hops):
            if (address := parse(hop.decode("latin-1"))) is None:
                break
            found = address
            if not self._trusts(address):
                break
        return str(found) if found else None

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self.trusted)

    def _is_trusted(self, text: str) -> bool:
        address = parse(text)
        return address is not None and self._trusts(address)


def _elements(scope: Message, name: bytes) -> list[bytes]:
    """Return the last elements of a list, which may be in several fields (RFC 9110, sections 5.3 and 5.6.1)."""
    values = [value for key, value in scope["headers"] if key == name]
    if not values:
        return []
    last = b",".join(values).rsplit(b",", HOPS)[-HOPS:]
    return [element for each in last if (element := each.strip())]


def parse(text: str) -> Address | None:
    """Return an address, with or without brackets and port, a mapped one as IPv4; None if it is none, or has a zone."""
    found = FORMS.fullmatch(text)
    if found is None:
        return None
    try:
        if found["four"]:
            return ipaddress.IPv4Address(found["four"])
        address = ipaddress.IPv6Address(found["six"] or found["bare"])
    except ValueError:
        return None
    if address.scope_id is not None:
        return None
    return address.ipv4_mapped or address
