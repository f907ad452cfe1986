"""What goes back, as plain values."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Literal, get_args
from xml.sax.saxutils import escape

__all__ = [
    "BREAKAGES",
    "NEVER_SENT",
    "Breakage",
    "Refusal",
    "Reply",
    "broken",
    "envelope",
    "headers_of",
    "is_bodiless",
    "json_reply",
    "pieces_of",
    "plain_refusal",
    "xml_error",
]

_NotSent = Literal[
    "connect", "dns", "connect_timeout", "tls", "certificate", "proxy", "pool", "upload_reset", "upload_timeout"
]
"""How an exchange can break before the order was sent whole: no service can have carried it out."""

_Sent = Literal["timeout", "reset", "garbage", "truncate"]
"""How it can break after that."""

Breakage = _NotSent | _Sent

NEVER_SENT: tuple[str, ...] = get_args(_NotSent)
BREAKAGES: tuple[str, ...] = (*NEVER_SENT, *get_args(_Sent))


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, or the way in which it fails to arrive.

    `headers` has lower-case names; `status` is 0 where no head arrives. With `error` "truncate", the share `kept` of
    `body` arrives; with "garbage", a `body` that is not HTTP, after the head if there is a status; with any other,
    nothing does. `delay` is in seconds, before the first byte; `drip` is how long the body takes to arrive; `hints` are
    so many interim answers before it.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: Breakage | None = None
    delay: float = 0.0
    kept: float = 0.5
    drip: float = 0.0
    hints: int = 0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is not served: HTTP status, the service's code, and a sentence."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


def _error_type(status: int) -> str:
    fallback = "invalid_request_error" if 400 <= status < 500 else "server_error"
    return _TYPES.get(status, fallback)


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """The value as a JSON answer."""
    return Reply(
        status=status,
        headers={"content-type": "application/json", **(headers or {})},
        body=json.dumps(value).encode(),
    )


def envelope(refusal: Refusal, *, request_id: str) -> Reply:
    """The documented error object; its `param` is the request id."""
    error = {
        "message": refusal.message,
        "type": _error_type(refusal.status),
        "param": request_id,
        "code": refusal.code,
    }
    return json_reply({"error": error}, status=refusal.status, headers=refusal.headers)


def xml_error(refusal: Refusal, *, request_id: str) -> Reply:
    """The error of an object store: links do not lead to the API, so nobody there speaks its JSON."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
        f"<RequestId>{escape(request_id)}</RequestId></Error>"
    )
    return Reply(
        status=refusal.status,
        headers={"content-type": "application/xml", **refusal.headers},
        body=text.encode("utf-8", "surrogatepass"),
    )


# Python 3.13 has learnt other words for these; what the emulator says must not hang on who runs it.
_PHRASES: Mapping[int, str] = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


def plain_refusal(status: int) -> Refusal:
    """The refusal for a bare status in the words of HTTP; below 400, an error that hides behind a success."""
    phrase = _PHRASES.get(status) or responses.get(status, "Unknown Error") if status >= 400 else responses[500]
    code = re.sub(r"\W+", "_", phrase.lower())
    return Refusal(status=status, code=code, message=f"{phrase}.")


def broken(error: Breakage) -> Reply:
    """An exchange that breaks before its answer has begun."""
    return Reply(status=0, error=error, body=b"This is not HTTP.\r\n\r\n" if error == "garbage" else b"")


def is_bodiless(status: int, *, method: str) -> bool:
    """Whether no body may follow the head: a client would take it for the next answer."""
    return status in (204, 304) or method == "HEAD"


def headers_of(reply: Reply) -> list[tuple[bytes, bytes]]:
    """The headers as bytes, each on a line of its own; the length is that of the whole, whatever arrives of it."""
    own = [(name, value) for name, value in reply.headers.items() if name not in _CONNECTION_HEADERS]
    return [(_field(name), _field(value)) for name, value in (*own, *_length_of(reply))]


def _length_of(reply: Reply) -> list[tuple[str, str]]:
    if reply.error == "garbage":
        return [("transfer-encoding", "chunked")]
    return [] if reply.status in (204, 304) else [("content-length", str(len(reply.body)))]


_CONNECTION_HEADERS = ("connection", "content-length", "transfer-encoding")
"""What is up to whoever sends a reply."""


def _field(text: str) -> bytes:
    return re.sub(r"[\r\n\x00]", " ", text).strip().encode("utf-8", "surrogatepass")


def pieces_of(reply: Reply, *, method: str) -> list[memoryview]:
    """The body as it arrives: a dripping one in pieces, to be sent at even distances."""
    if is_bodiless(reply.status, method=method):
        return []
    arriving = int(len(reply.body) * reply.kept) if reply.error == "truncate" else len(reply.body)
    body = memoryview(reply.body)[:arriving]
    size = max(1, -(-arriving // _DRIPS)) if reply.drip else _PIECE
    return [body[at : at + size] for at in range(0, arriving, size)]


_DRIPS = 100
"""Into how many pieces a dripping body is cut, if it has so many bytes."""

_PIECE = 1 << 20
