"""Content codings: which of them a client accepts, and a body in one of them."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from isal import isal_zlib

Header = tuple[bytes, bytes]
Negotiate = Callable[[bytes, Iterable[Header]], tuple[bytes, list[Header]] | None]

LARGEST = 2**20
"""Bytes of the largest body that is compressed: 4 ms at most, in which a worker serves nobody else."""

ELEMENTS, FIELD = 32, 2048
"""Elements and bytes of an Accept-Encoding that are read: more than there are codings, and soon read."""

VARY = (b"vary", b"accept-encoding")
ASKED_MOST = (b"gzip, br", b"gzip, deflate", b"gzip, deflate, br", b"gzip, deflate, br, zstd")

# RFC 9110, section 12.5.3: codings = content-coding / "identity" / "*", each with a weight (12.4.2) or without.
_OFFER = re.compile(
    rb"[ \t]*+([!#$%&'*+.^_`|~0-9a-z-]++)[ \t]*+(?:;[ \t]*+q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*+)?+",
    re.IGNORECASE,
)


class Coding(NamedTuple):
    """A content coding: its name (RFC 9110, section 8.4.1) and the function that applies it to a body."""

    name: bytes
    compress: Callable[[bytes], bytes]


class Acceptable(NamedTuple):
    """What a client accepts; `coded` is False, too, if it prefers the plain body."""

    coded: bool
    plain: bool


def _gzip(body: bytes) -> bytes:
    return isal_zlib.compress(body, 2, 31)  # 31: the gzip format, with a window of 32 KiB


GZIP = Coding(b"gzip", _gzip)
"""The one with the best score in the arena's json-comp (bench/REPORT.md)."""


def acceptable(field: bytes, coding: bytes) -> Acceptable:
    """Return what an Accept-Encoding field accepts of `coding` and the plain body (RFC 9110, section 12.5.3).

    Of a coding that is named twice the first counts. What breaks the field's grammar, comes after ELEMENTS others or
    does not end within FIELD bytes, is ignored.
    """
    weights: dict[bytes, float] = {}
    if len(field) > FIELD:
        field = field[: FIELD + 1].rpartition(b",")[0]  # half an element may mean something else
    for element in field.split(b",", ELEMENTS)[:ELEMENTS]:
        if offer := _OFFER.fullmatch(element):
            name = offer[1].lower()
            # Section 8.4.1.3 has one alias that still has to be understood.
            weights.setdefault(b"gzip" if name == b"x-gzip" else name, float(offer[2] or 1))
    others = weights.get(b"*")
    coded = weights.get(coding, others or 0.0)
    plain = weights.get(b"identity", others)
    if plain is None:  # not refused, but nor was it asked for
        return Acceptable(coded=coded > 0, plain=True)
    return Acceptable(coded=0 < coded >= plain, plain=plain > 0)


def negotiator(coding: Coding) -> Negotiate:
    """Return a function that puts a body into the coding that a request's headers accept.

    It returns the body and the headers that describe it; None if nothing is acceptable (406, RFC 9110, section 15.5.7).
    """
    identity = [VARY]
    coded = [VARY, (b"content-encoding", coding.name)]
    known = {field: acceptable(field, coding.name) for field in ASKED_MOST}  # what is accepted, not what is sent

    def negotiate(body: bytes, headers: Iterable[Header]) -> tuple[bytes, list[Header]] | None:
        field = None
        for name, value in headers:
            if name == b"accept-encoding" and (field is None or len(field) < FIELD):
                field = value if field is None else field + b"," + value  # RFC 9110, section 5.3
        if field is None:
            return body, identity
        accepts = known.get(field) or acceptable(field, coding.name)
        if accepts.coded and len(body) <= LARGEST:
            compressed = coding.compress(body)
            if len(compressed) < len(body) or not accepts.plain:
                return compressed, coded
        return (body, identity) if accepts.plain else None

    return negotiate
