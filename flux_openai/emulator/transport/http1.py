"""HTTP/1.1 as bytes: what a request's head says, and how a reply is written. Nothing here reads or waits."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import responses

from flux_openai._http.library import httpx
from flux_openai.emulator.api.responses import Reply, ServiceError, raw_headers

__all__ = [
    "MAX_BODY",
    "MAX_HEAD",
    "TOO_LARGE",
    "Head",
    "chunk_size",
    "make_request",
    "read_head",
    "write_head",
]

MAX_HEAD = 64 * 1024
"""Bytes of a request's head."""

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request's body: more than the 32 MiB of images that a client sends, as base64."""

TOO_LARGE = ServiceError(
    status=413, code="content_too_large", message=f"The body has more than {MAX_BODY // 2**20} MiB, the limit here."
)

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/([0-9])\.([0-9])")
_NAME = re.compile(_TOKEN)
_FORBIDDEN = re.compile(rb"[\x00\r\n]")
_AUTHORITY = re.compile(r"https?://[^/?]*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a request says before its body; `length` is None for one that comes in chunks."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    length: int | None
    expects_continue: bool
    keep_alive: bool


def read_head(raw: bytes) -> Head | ServiceError:
    """The head, which ends with an empty line, or why it is not one."""
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    started = _REQUEST_LINE.fullmatch(first)
    if started is None:
        return _bad("The request line is not that of HTTP.")
    if started[3] != b"1":
        return ServiceError(status=505, code="http_version_not_supported", message="Only HTTP/1.1 is spoken here.")
    headers = tuple(filter(None, map(_field, lines)))
    if len(headers) < len(lines):
        return _bad("A header is not NAME: VALUE.")
    length = _length(headers)
    if isinstance(length, ServiceError):
        return length
    return Head(
        method=started[1].decode("ascii"),
        target=started[2].decode("ascii"),
        headers=headers,
        length=length,
        expects_continue=_says(headers, b"expect", b"100-continue"),
        keep_alive=started[4] != b"0" and not _says(headers, b"connection", b"close"),
    )


def _field(line: bytes) -> tuple[bytes, bytes] | None:
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None or _FORBIDDEN.search(value):
        return None
    return name.lower(), value.strip(b" \t")


def _bad(message: str) -> ServiceError:
    return ServiceError(status=400, code="bad_request", message=message)


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value.lower() for own, value in headers if own == name]


def _says(headers: Iterable[tuple[bytes, bytes]], name: bytes, word: bytes) -> bool:
    return any(word in map(bytes.strip, value.split(b",")) for value in _values(headers, name))


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int | None | ServiceError:
    encodings, lengths = _values(headers, b"transfer-encoding"), set(_values(headers, b"content-length"))
    if encodings and lengths:
        return _bad("A body has a Content-Length or a Transfer-Encoding, not both.")
    if encodings:
        return None if encodings == [b"chunked"] else _unknown_encoding()
    return _plain_length(lengths) if lengths else 0


def _unknown_encoding() -> ServiceError:
    return ServiceError(status=501, code="not_implemented", message="The only Transfer-Encoding known here is chunked.")


def _plain_length(lengths: set[bytes]) -> int | ServiceError:
    length = lengths.pop()
    if lengths or re.fullmatch(rb"[0-9]{1,18}", length) is None:
        return _bad("The Content-Length is not one number.")
    return int(length) if int(length) <= MAX_BODY else TOO_LARGE


def chunk_size(line: bytes) -> int | ServiceError:
    """How many bytes the chunk has that this line announces."""
    size = re.fullmatch(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[^\r\n]*)?\r\n", line)
    return _bad("A chunk does not begin with its size.") if size is None else int(size[1], 16)


def make_request(head: Head, *, body: bytes, origin: str) -> httpx.Request | ServiceError:
    """The request as the emulator takes it.

    Links in the answer must lead back here, so it is for `origin`, or for this machine by another name of its own.
    """
    origin = _as_called(head, origin=origin)
    path = _AUTHORITY.sub("", head.target, count=1)
    if not path.startswith("/"):
        return _bad("The target of a request must be a path.")
    try:
        url = httpx.URL(f"{origin}{path}")
    except httpx.InvalidURL:
        return _bad("The target of the request is not a valid path.")
    return httpx.Request(head.method, url, headers=list(head.headers), content=body)


def _as_called(head: Head, *, origin: str) -> str:
    local = f"localhost:{origin.rpartition(':')[2]}"
    return f"http://{local}" if _values(head.headers, b"host") == [local.encode("ascii")] else origin


def write_head(reply: Reply, *, keep_alive: bool) -> bytes:
    """The head of the reply, after its interim answers; a truncated one announces the length of the whole."""
    headers = [*raw_headers(reply), *([] if keep_alive else [(b"connection", b"close")])]
    first = f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}".encode()
    return _HINT * reply.hints + b"\r\n".join([first, *map(b": ".join, headers), b"", b""])


_HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"
