"""What must not be shown: keys, cookies, the signed query of a link. Errors, logs and reprs go through here."""

import re
from collections.abc import Iterable

from flux_openai.sdk import httpx

__all__ = ["printable", "scrub", "secrets_of", "shown_bytes", "shown_request", "shown_response", "shown_value"]

RAW_LIMIT = 64 * 1024
"""Bytes of an answer kept in an error."""

_SIGNED = re.compile(r"""(https?:[^\s"'<>?]+)\?[^\s"'<>]+""")
_BEARER = re.compile(r"(?i)\b(bearer)\s+[^\s\"',;]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets, without bearer tokens and without the query of any link."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return _BEARER.sub(r"\1 [redacted]", _SIGNED.sub(r"\1?[redacted]", text))


def printable(text: str, secrets: Iterable[str] = (), *, limit: int = 500) -> str:
    """Text from the server as it may stand in a message: scrubbed, without control characters, not too long."""
    clean = _CONTROL.sub(" ", scrub(text, secrets)).strip()
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def shown_value(value: object) -> str:
    """The value as it may stand in a message: its repr, scrubbed, on one line, 80 characters at most."""
    try:
        return printable(repr(value), limit=80)
    except (ValueError, RecursionError):
        # Python refuses to print an integer of thousands of digits, also deep inside a list.
        return f"<{type(value).__name__}>"


_SHOWN_REQUEST_HEADERS = frozenset({"accept", "content-type", "host", "idempotency-key", "user-agent"})
_HIDDEN_RESPONSE_HEADERS = frozenset({"content-encoding", "content-length", "set-cookie", "transfer-encoding"})


def secrets_of(request: httpx.Request) -> tuple[str, ...]:
    """Every header value of a request that must not be shown: credentials and cookies, whole and without the scheme."""
    values = [
        value
        for name, value in request.headers.items()
        if name in ("authorization", "cookie") or (name.endswith(("-key", "-token")) and name != "idempotency-key")
    ]
    tokens = [value.partition(" ")[2] for value in values]
    return tuple(sorted({text for text in (*values, *tokens) if len(text) >= 4}, key=len, reverse=True))


def shown_request(request: httpx.Request) -> httpx.Request:
    """The request as an error may carry it: method, address and harmless headers; no key, no query, no body."""
    headers = {name: value for name, value in request.headers.items() if name in _SHOWN_REQUEST_HEADERS}
    return type(request)(request.method, scrub(str(request.url)), headers=headers)


def shown_response(response: httpx.Response, secrets: Iterable[str]) -> httpx.Response:
    """The response as an error may carry it: scrubbed headers and the first 64 KiB of the scrubbed body."""
    secrets = tuple(secrets)
    headers = {
        name: scrub(value, secrets) for name, value in response.headers.items() if name not in _HIDDEN_RESPONSE_HEADERS
    }
    return type(response)(
        response.status_code,
        headers=headers,
        content=shown_bytes(response.content, secrets),
        request=shown_request(response.request),
    )


def shown_bytes(content: bytes, secrets: Iterable[str]) -> bytes:
    """The first 64 KiB of a body, scrubbed. What is cut off is scrubbed first: a secret may lie across the cut."""
    head = content[: RAW_LIMIT * 2].decode("utf-8", "backslashreplace")
    return scrub(head, secrets).encode()[:RAW_LIMIT]
