"""What must not be shown: keys, cookies, the signed query of a link. Errors, logs and reprs go through here."""

import codecs
import json
import re
from collections.abc import Iterable
from contextlib import suppress

from pydantic_core import from_json, to_json

from flux_openai._http.library import httpx

__all__ = [
    "BINARY",
    "TYPE_LIMIT",
    "Redacted",
    "identifier",
    "is_secret",
    "printable",
    "redact_body",
    "redact_headers",
    "redact_request",
    "redact_response",
    "redact_value",
    "redacted_repr",
    "scrub",
    "secrets_of",
    "without",
]

RAW_LIMIT = 64 * 1024
"""Bytes of an answer kept in an error."""

TYPE_LIMIT = 16
"""Bytes that tell the type of what cannot be searched, and hardly more."""

BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")
"""What no text has."""

# A link is taken whole, and cut afterwards: text with many beginnings of links would be read once for each of them.
_ANY_LINK = re.compile(r"""https?:[^\s"'<>]+""", re.IGNORECASE)
_USER_INFO = re.compile(r"""(https?://)[^\s"'<>/@]+@""", re.IGNORECASE)
_BEARER = re.compile(r"(?i)\b(bearer)\s+[^\s\"',;]+")
# Also what has no width: words that a person does not see would still reach a model.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets and bearer tokens, and without user names and queries of links."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    text = _USER_INFO.sub(r"\1[redacted]@", _ANY_LINK.sub(_unsigned, text))
    return _BEARER.sub(r"\1 [redacted]", text)


def _unsigned(link: re.Match[str]) -> str:
    address, _, query = link[0].partition("?")
    return f"{address}?[redacted]" if query else link[0]


def printable(text: str, secrets: Iterable[str] = (), *, limit: int = 500) -> str:
    """Text from the server as it may stand in a message: scrubbed, without control characters, not too long."""
    clean = _CONTROL.sub(" ", scrub(text, secrets)).strip()
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


_IDENTIFIER = re.compile(r"[A-Za-z0-9._:/+=@#-]{1,128}")


def identifier(text: str | None) -> str | None:
    """The text, if it can be the name of a request; None for anything longer or with more to say."""
    return text if text is not None and _IDENTIFIER.fullmatch(text) else None


def without(value: object, secrets: tuple[str, ...]) -> object:
    """A JSON value in which none of the secrets stands any more."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[redacted]")
        return value
    if isinstance(value, dict):
        return {name: without(item, secrets) for name, item in value.items()}
    return [without(item, secrets) for item in value] if isinstance(value, list) else value


class Redacted(str):
    """Text that stands for a value which is not shown as it is; its repr is the text itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The bare text: quotes would claim that the value was this very string."""
        return str(self)


_SECRET_NAME = re.compile(r"key|token|secret|auth|passw|credential", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a parameter of that name probably holds a credential."""
    return _SECRET_NAME.search(name) is not None


def redact_value(value: object, *, name: str = "") -> object:
    """The value of a parameter, if it may stand in a message and in a pickle; else text that tells what it was."""
    if is_secret(name):
        return Redacted("[redacted]")
    if isinstance(value, int) and value.bit_length() > 256:
        # Python refuses to print an integer of thousands of digits.
        return Redacted(f"<integer of {value.bit_length()} bits>")
    if value is None or type(value) in (bool, int, float):
        return value
    if not isinstance(value, str):
        return Redacted(f"<{type(value).__name__}>")
    if data := _DATA_URI.match(value):
        return Redacted(f"<{data[1]}, {len(value)} characters>")
    plain = str(value)
    # A slip in a link, such as a space, must not show the rest of its query.
    told = f"{plain.partition('?')[0]}?[redacted]" if _LINK.match(plain) and "?" in plain else plain
    text = printable(repr(told), limit=80)
    return value if text == repr(plain) else Redacted(text)


def redacted_repr(value: object, *, name: str = "") -> str:
    """The value of a parameter as it stands in a message: plain, scrubbed, on one line, 80 characters at most."""
    return repr(redact_value(value, name=name))


_LINK = re.compile(r"\s*https?://", re.IGNORECASE)
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)[;,]", re.ASCII)

_SHOWN_REQUEST_HEADERS = frozenset({b"accept", b"content-type", b"host", b"idempotency-key", b"user-agent"})
_HIDDEN_RESPONSE_HEADERS = frozenset({b"content-encoding", b"content-length", b"set-cookie", b"transfer-encoding"})


def secrets_of(headers: httpx.Headers) -> tuple[str, ...]:
    """Every header value of a request that must not be shown: credentials and cookies, whole and without the scheme."""
    values = [
        value
        for name, value in headers.items()
        if name == "cookie" or "auth" in name or (name.endswith(("-key", "-token")) and name != "idempotency-key")
    ]
    tokens = [value.partition(" ")[2] for value in values]
    return tuple(sorted({text for text in (*values, *tokens) if len(text) >= 4}, key=len, reverse=True))


def redact_request(request: httpx.Request) -> httpx.Request:
    """The request as an error may carry it: method, address and harmless headers; no key, no query, no body."""
    headers = [(name, value) for name, value in request.headers.raw if name.lower() in _SHOWN_REQUEST_HEADERS]
    return type(request)(request.method, scrub(str(request.url)), headers=headers)


def redact_headers(headers: httpx.Headers, secrets: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, scrubbed: without cookies, and without those that describe the body's packing."""
    secrets = tuple(secrets)
    kept = [(name, value) for name, value in headers.raw if name.lower() not in _HIDDEN_RESPONSE_HEADERS]
    # Latin-1 gives back every byte as it was.
    together = b"\n".join(value for _, value in kept).decode("latin-1")
    if scrub(together, secrets) == together:
        return kept
    return [(name, scrub(value.decode("latin-1"), secrets).encode("latin-1")) for name, value in kept]


def redact_response(response: httpx.Response, secrets: Iterable[str]) -> httpx.Response:
    """The response as an error may carry it: scrubbed headers and the first 64 KiB of the scrubbed body."""
    secrets = tuple(secrets)
    return type(response)(
        response.status_code,
        headers=redact_headers(response.headers, secrets),
        content=redact_body(response.content, secrets),
        request=redact_request(response.request),
    )


def redact_body(content: bytes, secrets: Iterable[str]) -> bytes:
    """The first 64 KiB of a body, scrubbed. What is cut off is scrubbed first: a secret may lie across the cut."""
    secrets = tuple(secrets)
    readings = _readings(content[: RAW_LIMIT * 2])
    scrubbed = [scrub(reading, secrets) for reading in readings]
    # Of two ways to read it the right one is that in which there is something to hide.
    text = next((clean for clean, reading in zip(scrubbed, readings, strict=True) if clean != reading), scrubbed[0])
    try:
        body = from_json(text)
    except ValueError:
        return text.encode()[:RAW_LIMIT]
    # JSON can spell any letter as an escape, which the text does not show and every reader of it undoes.
    clean = _scrubbed(body, secrets)
    return (text.encode() if clean == body else to_json(clean))[:RAW_LIMIT]


def _readings(content: bytes) -> list[str]:
    """The beginning of a body as text, as JSON may be encoded; hardly more than the type of what is packed."""
    found = []
    for encoding in dict.fromkeys((json.detect_encoding(content), "utf-8")):
        with suppress(UnicodeDecodeError):
            # Without what stands between the letters of UTF-16, if it was not known for that.
            found.append(codecs.getincrementaldecoder(encoding)().decode(content).replace("\0", ""))
    text = content.decode("utf-8", "backslashreplace")
    # What was not unpacked may hold anything, and nobody can search it.
    return found or [content[:TYPE_LIMIT].decode("utf-8", "backslashreplace") if BINARY.search(text) else text]


def _scrubbed(value: object, secrets: tuple[str, ...]) -> object:
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, dict):
        return {scrub(name, secrets): _scrubbed(item, secrets) for name, item in value.items()}
    return [_scrubbed(item, secrets) for item in value] if isinstance(value, list) else value
