"""Content codings: which of them a client takes, and a body in one of them."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from isal import isal_zlib

Header = tuple[bytes, bytes]
Encode = Callable[[bytes, Iterable[Header]], tuple[bytes, list[Header]] | None]

LARGEST = 2**20
"""Bytes of the largest body that is compressed: 4 ms at most, in which a worker answers nobody else."""

ELEMENTS = 64
"""How much of an Accept-Encoding is read: more than there are codings, less than would keep the event loop waiting."""

VARY = (b"vary", b"accept-encoding")
ASKED_MOST = (b"gzip, br", b"gzip, deflate", b"gzip, deflate, br", b"gzip, deflate, br, zstd")

# RFC 9110, section 12.5.3: codings = content-coding / "identity" / "*", each with a weight (12.4.2) or without.
_OFFER = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?",
    re.IGNORECASE,
)


class Coding(NamedTuple):
    """A content coding: its name (RFC 9110, section 8.4.1) and what makes a body of bytes."""

    name: bytes
    compress: Callable[[bytes], bytes]


class Acceptable(NamedTuple):
    """What a client takes; `coded` is False, too, where it takes the coding but prefers the plain body."""

    coded: bool
    plain: bool


def _gzip(body: bytes) -> bytes:
    return isal_zlib.compress(body, 2, 31)  # 31: the gzip format, with a window of 32 KiB


GZIP = Coding(b"gzip", _gzip)
"""The one with the best score in the arena's json-comp (bench/REPORT.md)."""


def acceptable(field: bytes, coding: bytes) -> Acceptable:
    """Read an Accept-Encoding field for a server that has `coding` beside the plain body (RFC 9110, section 12.5.3).

    Of a coding that is named twice the first counts. What breaks the field's grammar, or comes after ELEMENTS others, is
    taken as not said.
    """
    weights: dict[bytes, float] = {}
    for element in field.split(b",", ELEMENTS)[:ELEMENTS]:
        if offer := _OFFER.fullmatch(element):
            name = offer[1].lower()
            # Section 8.4.1.3 has one alias that is still to be understood.
            weights.setdefault(b"gzip" if name == b"x-gzip" else name, float(offer[2] or 1))
    others = weights.get(b"*")
    coded = weights.get(coding, others or 0.0)
    plain = weights.get(b"identity", others)
    if plain is None:  # not refused, but nor was it asked for
        return Acceptable(coded=coded > 0, plain=True)
    return Acceptable(coded=0 < coded >= plain, plain=plain > 0)


def encoder(coding: Coding) -> Encode:
    """Build what puts a body into the coding that a request's headers ask for.

    It returns the body and the headers that tell of it; None where nothing is acceptable (406, RFC 9110, section 15.5.7).
    """
    plainly = [VARY]
    coded = [VARY, (b"content-encoding", coding.name)]
    read = {field: acceptable(field, coding.name) for field in ASKED_MOST}  # what the client takes, not what it gets

    def encode(body: bytes, headers: Iterable[Header]) -> tuple[bytes, list[Header]] | None:
        field = None
        for name, value in headers:
            if name == b"accept-encoding":
                field = value if field is None else field + b"," + value  # RFC 9110, section 5.3
        if field is None:
            return body, plainly
        takes = read.get(field) or acceptable(field, coding.name)
        if takes.coded and len(body) <= LARGEST:
            packed = coding.compress(body)
            if len(packed) < len(body) or not takes.plain:
                return packed, coded
        return (body, plainly) if takes.plain else None

    return encode
