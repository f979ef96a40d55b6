"""The body of a response: as long as its headers say, and none where none may be.

Granian sends whatever it gets (2.8.7; docs/upstream.md, o), and a client takes what is too much for its next response.
"""

from app.launcher.asgi import Message
from app.settings.errors import shown

WITHOUT_BODY = (204, 304)
"""Statuses of responses that have none (RFC 9110, section 6.4.1)."""


class Body:
    """What is still to come of a response's body."""

    client_has_left = False
    """Whether the application has been told so: it may end its response then."""

    def __init__(self, method: str, http_version: str) -> None:
        """Expect a response to a request with this method, over this version of HTTP."""
        self._method = method
        self._http_version = http_version
        self._is_dropped = False
        self._left: int | None = None  # bytes; None if any number may come
        self._has_started = self._has_begun = self._has_ended = False

    def start(self, message: Message) -> Message:
        """Take the start of the response, whose headers are a sequence, and return it as it is to be sent.

        Transfer-Encoding is the server's (ASGI, "HTTP Connection Scope, Response Start"). Raises ValueError for a
        Content-Length that is none (RFC 9110, section 8.6).
        """
        if self._has_started:  # Granian refuses it, and the first one stays
            return message
        has_none = self._method == "HEAD" or message["status"] in WITHOUT_BODY
        self._is_dropped = has_none and self._http_version == "2"  # over HTTP/1.1 hyper does so, and counts its bytes
        headers = message.get("headers", ())
        length, is_encoded = None, False
        for name, value in headers:
            lower = name.lower()
            if lower == b"content-length":
                if not value.strip().isdigit() or length not in (None, int(value)):
                    raise ValueError(
                        f"a response's Content-Length is {shown(value)}; give the number of its bytes, once"
                    )
                length = int(value)
            elif lower == b"transfer-encoding":
                is_encoded = True
        self._left = None if has_none else length
        self._has_started = True
        if is_encoded:
            return {**message, "headers": [each for each in headers if each[0].lower() != b"transfer-encoding"]}
        return message

    def part(self, message: Message) -> tuple[Message | None, ValueError | None]:
        """Take a part; return what is to be sent of it, None for nothing, and what is then to be raised.

        Raises ValueError if nothing has been sent yet, and TypeError if the part is not bytes.
        """
        message = with_bytes(message, "body")
        has_begun, self._has_begun = self._has_begun, True
        # Over HTTP/2 it would be an empty frame, of which some clients take few before they end a connection.
        is_needless = has_begun and message.get("more_body") and not message.get("body")
        if self._is_dropped or is_needless:
            return (None if has_begun else {**message, "body": b"", "more_body": False}), None
        if self._left is None:
            return message, None
        body = message.get("body", b"")
        left = self._left - len(body)
        if left == 0 or (left > 0 and message.get("more_body")):
            self._left = left
            return message, None
        if left > 0 and self.client_has_left:
            return {**message, "more_body": True}, None
        error = ValueError(
            f"a response's body has {abs(left)} bytes {'less' if left > 0 else 'more'} than its Content-Length; correct"
            f" that, or leave it out"
        )
        if not has_begun:
            raise error
        if self._has_ended:
            return None, error
        self._has_ended = True  # with what fits, or without its end, so that Granian closes the connection
        return {**message, "body": body[: self._left], "more_body": left > 0}, error


def with_bytes(message: Message, key: str) -> Message:
    """Return a message with bytes, which Granian needs. Raises TypeError if it has something else."""
    value = message.get(key)
    if value is None or isinstance(value, bytes):
        return message
    return {**message, key: memoryview(value).tobytes()}
