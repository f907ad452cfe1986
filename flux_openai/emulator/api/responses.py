"""The replies of the emulated service as plain values; the transports turn them into HTTP."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Literal, get_args
from xml.sax.saxutils import escape

from flux_openai.errors import DOCUMENTED_CODES, DocumentedCode

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
"""Transport faults before the whole request was sent: the service cannot have carried it out."""

_Sent = Literal["timeout", "reset", "garbage", "truncate"]
"""Transport faults after the request was sent."""

TransportFault = _NotSent | _Sent

NEVER_SENT: tuple[str, ...] = get_args(_NotSent)
TRANSPORT_FAULTS: tuple[str, ...] = (*NEVER_SENT, *get_args(_Sent))

_PIECE = 1 << 20
"""How many bytes of a body are written at a time."""

_DRIPS = 100
"""The largest number of pieces of a body that arrives slowly."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, or a transport fault in its place.

    Attributes:
        status: The HTTP status; 0 if no head is sent.
        headers: The headers, with names in lower case.
        body: The body.
        error: The transport fault. With "truncate" only the share `kept` of the body is sent. With "garbage" `body` is
            not HTTP, and follows the head if there is a status. With any other fault nothing is sent.
        delay: Seconds before the first byte.
        kept: The share of the body that is sent with "truncate", from 0 to 1.
        drip: Seconds over which the body is sent in small pieces.
        hints: The number of interim answers (103) before this one.
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
    """An error that the service answers with: HTTP status, `error.code`, and message."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


_BY_STATUS: Mapping[int, DocumentedCode] = {row.status: row for row in reversed(tuple(DOCUMENTED_CODES.values()))}
"""The first documented code of each status that has one."""


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """The value as a JSON answer."""
    return Reply(
        status=status,
        headers={"content-type": "application/json", **(headers or {})},
        body=json.dumps(value).encode(),
    )


def error_response(error: ServiceError, *, request_id: str) -> Reply:
    """The documented error object; its `param` is the request id."""
    row = DOCUMENTED_CODES.get(error.code) or _BY_STATUS.get(error.status) or _BY_STATUS[_class_of(error.status)]
    content = {
        "message": error.message,
        "type": row.type,
        "param": request_id,
        "code": error.code,
    }
    return json_reply({"error": content}, status=error.status, headers=error.headers)


def _class_of(status: int) -> int:
    return 400 if 400 <= status < 500 else 500


def xml_error(error: ServiceError, *, request_id: str) -> Reply:
    """The error as XML: links lead to an object store, whose errors are not the API's JSON."""
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
    """The error for a status: the documented one, or one named by the reason phrase.

    Below 400, it is the internal error, inside a success.
    """
    stated = status if status >= 400 else 500
    phrase = _PHRASES.get(stated) or responses.get(stated, "Unknown Error")
    row = _BY_STATUS.get(stated)
    return ServiceError(
        status=status, code=row.code if row else re.sub(r"\W+", "_", phrase.lower()), message=f"{phrase}."
    )


def broken(error: TransportFault) -> Reply:
    """The reply for an exchange that breaks before its answer begins."""
    return Reply(status=0, error=error, body=b"This is not HTTP.\r\n\r\n" if error == "garbage" else b"")


def is_bodiless(status: int, *, method: str) -> bool:
    """Whether HTTP forbids a body: a client would read it as the beginning of the next answer."""
    return status in (204, 304) or method == "HEAD"


def raw_headers(reply: Reply) -> list[tuple[bytes, bytes]]:
    """The headers as bytes, without line breaks. A truncated body has the Content-Length of the whole body."""
    # Framing headers are computed here, even if a fault script sets them.
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
    """The body, or the beginning that a truncated reply sends; with `drip`, in pieces for equal intervals."""
    if is_bodiless(reply.status, method=method):
        return []
    arriving = int(len(reply.body) * reply.kept) if reply.error == "truncate" else len(reply.body)
    body = memoryview(reply.body)[:arriving]
    size = max(1, -(-arriving // _DRIPS)) if reply.drip else _PIECE
    return [body[at : at + size] for at in range(0, arriving, size)]
