"""What goes back: a reply as plain values, and its delivery through httpx."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Literal
from xml.sax.saxutils import escape

from flux_openai.sdk import httpx

__all__ = [
    "Breakage",
    "Refusal",
    "Reply",
    "as_seen",
    "deliver",
    "envelope",
    "json_reply",
    "plain_refusal",
    "xml_error",
]

Breakage = Literal["connect", "timeout", "reset", "truncate"]
"""How an exchange can break below HTTP: before it, while waiting, after sending, or half way through the answer."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, or the way in which it fails to arrive.

    `headers` has lower-case names; `status` is 0 where nothing arrives. With `error` "truncate", the share `kept` of
    `body` arrives; with any other, nothing does. `delay` is in seconds, before the first byte.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: Breakage | None = None
    delay: float = 0.0
    kept: float = 0.5


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
        body=text.encode(),
    )


def plain_refusal(status: int) -> Refusal:
    """The refusal for a bare status in the words of HTTP; below 400, an error that hides behind a success."""
    phrase = responses.get(status, "Unknown Error") if status >= 400 else responses[500]
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    return Refusal(status=status, code=code, message=f"{phrase}.")


class _BrokenStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The first part of a body, then a broken connection."""

    def __init__(self, body: bytes, *, kept: float) -> None:
        self._part = body[: int(len(body) * kept)]
        self._error = f"peer closed connection after {len(self._part)} of {len(body)} bytes"

    def __iter__(self) -> Iterator[bytes]:
        yield self._part
        raise httpx.RemoteProtocolError(self._error)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._part
        raise httpx.RemoteProtocolError(self._error)


def as_seen(reply: Reply, *, request: httpx.Request) -> Reply:
    """The reply as its caller sees it: what would come after the read time-out is given up then, and never comes."""
    limits: Mapping[str, float | None] = request.extensions.get("timeout", {})
    read = limits.get("read")
    return reply if read is None or reply.delay <= read else Reply(status=0, error="timeout", delay=read)


def deliver(reply: Reply, *, request: httpx.Request) -> httpx.Response:
    """The reply as httpx hands it to its caller.

    Raises httpx.ConnectError, httpx.ReadTimeout or httpx.ReadError; a truncated answer raises
    httpx.RemoteProtocolError while it is read. Nothing is unpacked yet, as on a wire: that is up to the caller.
    """
    match reply.error:
        case "connect":
            raise httpx.ConnectError("connection refused by the emulator", request=request)
        case "timeout":
            raise httpx.ReadTimeout("the emulator did not answer in time", request=request)
        case "reset":
            raise httpx.ReadError("connection reset by the emulator", request=request)
        case "truncate":
            return _response(reply, stream=_BrokenStream(reply.body, kept=reply.kept))
        case None:
            return _response(reply, stream=httpx.ByteStream(reply.body))


def _response(reply: Reply, *, stream: httpx.ByteStream | _BrokenStream) -> httpx.Response:
    headers = {**reply.headers, "content-length": str(len(reply.body))}
    return httpx.Response(reply.status, headers=headers, stream=stream)
