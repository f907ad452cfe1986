"""What the service sends back, as plain values: no transport and no HTTP library."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Literal, get_args
from xml.sax.saxutils import escape

__all__ = [
    "NEVER_SENT",
    "TRANSPORT_FAULTS",
    "Reply",
    "ServiceError",
    "TransportFault",
    "body_pieces",
    "broken",
    "error_response",
    "is_bodiless",
    "json_reply",
    "raw_headers",
    "status_error",
    "xml_error",
]

_NotSent = Literal[
    "connect", "dns", "connect_timeout", "tls", "certificate", "proxy", "pool", "upload_reset", "upload_timeout"
]
"""How an exchange can break before the whole request was sent: no service can have carried it out."""

_Sent = Literal["timeout", "reset", "garbage", "truncate"]
"""How it can break after that."""

TransportFault = _NotSent | _Sent

NEVER_SENT: tuple[str, ...] = get_args(_NotSent)
TRANSPORT_FAULTS: tuple[str, ...] = (*NEVER_SENT, *get_args(_Sent))

_PIECE = 1 << 20
"""Bytes of a body that are handed to the transport at once."""

_DRIPS = 100
"""Pieces that a dripping body is cut into, if it has that many bytes."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, or the way in which it fails to arrive.

    `headers` has lower-case names; `status` is 0 where no head arrives. With `error` "truncate", the share `kept` of
    `body` arrives; with "garbage", a `body` that is not HTTP, after the head if there is a status; with any other
    error, nothing arrives. `delay` is in seconds, before the first byte; `drip` is the seconds over which the body
    arrives; `hints` is the number of interim answers (103) before it.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: TransportFault | None = None
    delay: float = 0.0
    kept: float = 0.5
    drip: float = 0.0
    hints: int = 0


@dataclass(frozen=True, kw_only=True)
class ServiceError:
    """Why the service does not serve a request: the HTTP status, the service's code, and a sentence."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


_ERROR_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """The value as a JSON answer."""
    return Reply(
        status=status,
        headers={"content-type": "application/json", **(headers or {})},
        body=json.dumps(value).encode(),
    )


def error_response(error: ServiceError, *, request_id: str) -> Reply:
    """The documented error object; its `param` is the request id."""
    fallback = "invalid_request_error" if 400 <= error.status < 500 else "server_error"
    content = {
        "message": error.message,
        "type": _ERROR_TYPES.get(error.status, fallback),
        "param": request_id,
        "code": error.code,
    }
    return json_reply({"error": content}, status=error.status, headers=error.headers)


def xml_error(error: ServiceError, *, request_id: str) -> Reply:
    """The error as an object store writes it: links do not lead to the API, so they do not answer in its JSON."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        f"<RequestId>{escape(request_id)}</RequestId></Error>"
    )
    return Reply(
        status=error.status,
        headers={"content-type": "application/xml", **error.headers},
        body=text.encode("utf-8", "surrogatepass"),
    )


# Python 3.13 renamed these reason phrases; an answer must not depend on the Python that runs the emulator.
_PHRASES: Mapping[int, str] = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


def status_error(status: int) -> ServiceError:
    """The error for a bare status, in HTTP's own words; below 400, an internal error inside of a success."""
    phrase = _PHRASES.get(status) or responses.get(status, "Unknown Error") if status >= 400 else responses[500]
    return ServiceError(status=status, code=re.sub(r"\W+", "_", phrase.lower()), message=f"{phrase}.")


def broken(error: TransportFault) -> Reply:
    """An exchange that breaks before its answer has begun."""
    return Reply(status=0, error=error, body=b"This is not HTTP.\r\n\r\n" if error == "garbage" else b"")


def is_bodiless(status: int, *, method: str) -> bool:
    """Whether no body may follow the head: a client would take it for the beginning of the next answer."""
    return status in (204, 304) or method == "HEAD"


def raw_headers(reply: Reply) -> list[tuple[bytes, bytes]]:
    """The headers as bytes without line breaks; the length is that of the whole body, also of a truncated one."""
    # The framing is up to the transport, whatever a fault script sets.
    framing = ("connection", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in reply.headers.items() if name not in framing]
    if reply.error == "garbage":
        headers.append(("transfer-encoding", "chunked"))
    elif reply.status not in (204, 304):
        headers.append(("content-length", str(len(reply.body))))
    return [(_header_bytes(name), _header_bytes(value)) for name, value in headers]


def _header_bytes(text: str) -> bytes:
    return re.sub(r"[\r\n\x00]", " ", text).strip().encode("utf-8", "surrogatepass")


def body_pieces(reply: Reply, *, method: str) -> list[memoryview]:
    """The part of the body that arrives; a dripping one in pieces, to be sent at equal intervals."""
    if is_bodiless(reply.status, method=method):
        return []
    arriving = int(len(reply.body) * reply.kept) if reply.error == "truncate" else len(reply.body)
    body = memoryview(reply.body)[:arriving]
    size = max(1, -(-arriving // _DRIPS)) if reply.drip else _PIECE
    return [body[at : at + size] for at in range(0, arriving, size)]
