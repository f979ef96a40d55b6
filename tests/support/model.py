"""What the interface promises for any request, written apart from the application, to compare it with."""

import gzip
import json
import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from app.service.application import Application
from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN
from bench import oracle
from tests.support.asgi import request

ITEMS = 50  # of the bundled dataset
METHODS = ["GET", "HEAD", "POST", "OPTIONS", "get"]
LONG = 60_000
"""Bytes of a long path, query or field: a target of 65,534 is the longest that hyper lets through."""


def number(digits: str) -> int:
    """Read a number; of one too long for `int`, the first 4000 digits, which are above any limit."""
    return int(digits.lstrip("0")[:4000] or "0")


def multiplier(query: bytes) -> int | None:
    """Return the first m, 1 if there is none; None if it is no integer within the bounds."""
    for parameter in query.split(b"&"):
        name, _, value = (unquote_to_bytes(each) for each in parameter.replace(b"+", b" ").partition(b"="))
        if name == b"m":
            digits = re.fullmatch(rb"(-?)([0-9]+)", value)
            if digits is None:
                return None
            found = number(digits[2].decode()) * (-1 if digits[1] else 1)
            return found if MULTIPLIER_MIN <= found <= MULTIPLIER_MAX else None
    return 1


def expected(method: str, path: str, query: bytes) -> tuple[int, bytes | None]:
    """Return the status, and the body of a 200, by README.md's table; written apart from the application."""
    count, m = re.fullmatch(r"/json/([0-9]+)", path), multiplier(query)
    if count is None:
        status = 404
    elif method not in ("GET", "HEAD"):
        status = 405
    elif m is None:
        status = 400
    else:
        return 200, oracle.body(min(number(count[1]), ITEMS), m)
    return status, None


def check(application: Application, method: str, path: str, query: bytes, fields: Sequence[bytes] = ()) -> None:
    """Fail unless the response is the model's, JSON, and of the length it states; test_negotiation.py checks its coding."""
    status, body = expected(method, path, query)
    response = request(application, path, query, method, fields)
    coding = response.headers.get(b"content-encoding")
    if response.status == 406:
        assert status == 200
        assert b"identity" in b"".join(fields).lower() or b"*" in b"".join(fields)
    else:
        assert response.status == status
    if method == "HEAD":
        assert response.body == b""
        assert body is None or coding or response.status == 406 or int(response.headers[b"content-length"]) == len(body)
    elif body is None or response.status == 406:
        assert list(json.loads(response.body)) == ["error"]
    else:
        assert (gzip.decompress(response.body) if coding == b"gzip" else response.body) == body
