"""Redaction: what a secret, a signed link and an encoded body look like, and what of them a message may show.

Two policies use the patterns and `clean_body`:

- A message (error, log, repr) needs no query of any link and shows `[redacted]` instead: `scrub` and `redact_*`, and
  `redact_json` for the emulator's journal.
- A cassette is compared and replayed, so it keeps the names in a query and the encoding of a body. That policy is
  `flux_openai.testing.scrubbing`.

Servers write these texts, so every pattern takes linear time. In particular a link is matched as a whole and cut
afterwards: a pattern that looks for its query would read to the end of the text at each `http:` in it.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable
from functools import partial

from flux_openai._http.library import httpx

__all__ = [
    "LINK",
    "USER_INFO",
    "Redacted",
    "clean_body",
    "identifier",
    "is_secret",
    "printable",
    "query_without_values",
    "redact_body",
    "redact_headers",
    "redact_json",
    "redact_request",
    "redact_response",
    "redact_value",
    "redacted_repr",
    "replace_secrets",
    "scrub",
    "scrub_relative_links",
    "secrets_of",
    "without",
]

RAW_LIMIT = 64 * 1024
"""Bytes of an answer that an error carries."""

_MAGIC_LIMIT = 16
"""Bytes that stay of a body that is not text: enough for its magic number, which tells its type."""

_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")
"""Control characters that text does not have."""

LINK = re.compile(r"""https?:[^\s"'<>]*[^\s"'<>\\]""", re.IGNORECASE)
"""A link, with whatever JSON escapes are in it; a backslash at its end belongs to the quote that follows."""

USER_INFO = re.compile(r"""(https?:(?:\\{0,4}/)+)[^\s"'<>/@]+@""", re.IGNORECASE)
"""The start of a link (group 1), and a user name with or without a password."""

_RELATIVE_QUERY = re.compile(r"""\?[\w.~%-]+=(?:[^\s"'<>]*[^\s"'<>\\])?""")
_SIGNATURE = re.compile(
    r"((?:&|\\{1,4}u0026)"
    r"(?:[\w.~%-]{0,40}(?:signature|token|secret|credential|password|key-pair-id|keyid|apikey|api[_-]key)|sig|key|auth)"
    r"""=)[^&\s"'<>\\]+""",
    re.IGNORECASE,
)
_QUERY_VALUE = re.compile(r"(=).*|^[^=]+$", re.DOTALL)  # an item without a name is a value as a whole
_BEARER = re.compile(r"(?i)\b(bearer)\s+[^\s\"',;]+")
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[;,]", re.ASCII)
_SECRET_NAME = re.compile(r"key|token|secret|auth|passw|credential", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@#-]{1,128}")
# Characters without width are replaced too: a person would not see the words in them, but a language model reads them.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets and bearer tokens, and without user names and queries of links."""
    text = replace_secrets(text, secrets, by="[redacted]")
    text = LINK.sub(lambda link: re.sub(r"\?.+", "?[redacted]", link[0], flags=re.DOTALL), text)
    return _BEARER.sub(r"\1 [redacted]", USER_INFO.sub(r"\1[redacted]@", text))


def printable(text: str, secrets: Iterable[str] = (), *, limit: int = 500) -> str:
    """Text from the server as it may stand in a message: scrubbed, without control characters, not too long."""
    clean = _UNPRINTABLE.sub(" ", scrub(text, secrets)).strip()
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def identifier(text: str | None) -> str | None:
    """The text if it can be a request id; None if it is longer than one, or holds anything else."""
    return text if text is not None and _REQUEST_ID.fullmatch(text) else None


def is_secret(name: str) -> bool:
    """Whether a parameter of that name probably holds a credential."""
    return _SECRET_NAME.search(name) is not None


def replace_secrets(text: str, secrets: Iterable[str], *, by: str) -> str:
    """The text with another text in place of each secret."""
    for secret in sorted(secrets, key=len, reverse=True):  # a shorter one may be the beginning of a longer one
        text = text.replace(secret, by)
    return text


def query_without_values(query: str, *, by: str) -> str:
    """The query of a link with another text in place of each value."""
    return "&".join(_QUERY_VALUE.sub(rf"\1{by}", item, count=1) for item in query.split("&") if item)


def scrub_relative_links(text: str, *, by: str) -> str:
    """The text with the query values replaced in what only its reader knows to be a link, such as `/a.png?sig=1`."""
    text = _RELATIVE_QUERY.sub(lambda query: f"?{query_without_values(query[0][1:], by=by)}", text)
    return _SIGNATURE.sub(rf"\1{by}", text)


def without(value: object, secrets: tuple[str, ...]) -> object:
    """A JSON value with `[redacted]` in place of the secrets."""
    return _map_text(value, partial(replace_secrets, secrets=secrets, by="[redacted]"))


def redact_json(value: object) -> object:
    """A JSON value for the emulator's journal: no link opens, images and long texts are short, 50 levels at most."""
    return _map_text(value, _journal_text, depth=50)


def _journal_text(text: str) -> str:
    if data := _DATA_URI.match(text):
        return f"<{data[1] or 'data'}, {len(text)} characters>"
    clean = scrub_relative_links(scrub(USER_INFO.sub(r"\1", text)), by="[redacted]")
    return clean if len(clean) <= 1000 else f"{clean[:1000]}… <{len(text)} characters>"


def _map_text(value: object, clean: Callable[[str], str], *, depth: int | None = None) -> object:
    """A JSON value with every string and every name cleaned; below `depth` levels there is an ellipsis."""
    below = None if depth is None else depth - 1
    match value:
        case str():
            return clean(value)
        case dict() | list() if depth == 0:
            return "…"
        case dict():
            return {clean(name): _map_text(item, clean, depth=below) for name, item in value.items()}
        case list():
            return [_map_text(item, clean, depth=below) for item in value]
        case _:
            return value


class Redacted(str):
    """Text that stands in the place of a value; its repr is the text itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The bare text: quotes would claim that the value was this very string."""
        return str(self)


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
        return Redacted(f"<{data[1] or 'data'}, {len(value)} characters>")
    plain = str(value)
    # A typo in a link, such as a space, would end it for `scrub` and show the rest of its query.
    shown = f"{plain.partition('?')[0]}?[redacted]" if LINK.match(plain.lstrip()) and "?" in plain else plain
    text = printable(repr(shown), limit=80)
    return value if text == repr(plain) else Redacted(text)


def redacted_repr(value: object, *, name: str = "") -> str:
    """The value of a parameter as it stands in a message: plain, scrubbed, on one line, 80 characters at most."""
    return repr(redact_value(value, name=name))


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
    """The headers of an answer, scrubbed: without cookies, and without those that describe the body's encoding."""
    secrets = tuple(secrets)
    shown = [(name, value) for name, value in headers.raw if name.lower() not in _HIDDEN_RESPONSE_HEADERS]
    # Latin-1 gives back every byte as it was.
    together = b"\n".join(value for _, value in shown).decode("latin-1")
    if scrub(together, secrets) == together:
        return shown
    return [(name, scrub(value.decode("latin-1"), secrets).encode("latin-1")) for name, value in shown]


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
    """The first 64 KiB of a body, scrubbed, in UTF-8; 16 bytes of one that is not text."""
    clean = partial(scrub, secrets=tuple(secrets))
    # What is cut off is scrubbed first: a secret may lie across the cut.
    _, text = clean_body(content[: RAW_LIMIT * 2], clean)
    if text is None:
        text = content[:_MAGIC_LIMIT].decode("utf-8", "backslashreplace")
    # Once more as plain text: a key that is all digits may be a number in JSON.
    return clean(text).encode("utf-8", "surrogateescape")[:RAW_LIMIT]


def clean_body(body: bytes, clean: Callable[[str], str]) -> tuple[bytes, str | None]:
    """The body with its text cleaned, in its own encoding, and that text.

    Where there is nothing to clean, not a byte changes. Of a body that is not text the first 16 bytes stay, and the
    text is None: the body may be compressed, and cannot be searched.
    """
    texts: list[tuple[bool, str]] = []
    # A body can be read in more than one way; searching it in one way too many does no harm.
    for encoding, errors in ((json.detect_encoding(body), "strict"), ("utf-8", "strict"), ("utf-8", "surrogateescape")):
        try:
            # The incremental decoder leaves out a letter that is cut off at the end.
            text = codecs.getincrementaldecoder(encoding)(errors).decode(body)
        except UnicodeDecodeError:
            continue
        letters = text.replace("\0", "")  # UTF-16 that was not detected as such has them between its letters
        cleaned = _clean_document(letters, clean)
        if cleaned != letters:
            body = cleaned.encode(encoding, errors)
        # Strict UTF-8 needs no proof: other data hardly passes for it.
        if (encoding, errors) == ("utf-8", "strict") or not _BINARY.search(letters if errors == "strict" else text):
            texts.append((cleaned == letters, cleaned))
    if not texts:
        return body[:_MAGIC_LIMIT], None
    # The right reading is the first in which there was something to clean.
    return body, min(texts, key=lambda reading: reading[0])[1]


def _clean_document(text: str, clean: Callable[[str], str]) -> str:
    try:
        value = json.loads(text, object_pairs_hook=_unique_names)
        # JSON is parsed before it is searched: `\/` and `\u0026` hide a link, and `\u0073` a letter of a key.
        cleaned = _map_text(value, clean)
        return text if cleaned == value else json.dumps(cleaned)
    except (ValueError, RecursionError):
        return clean(text)


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name occurs twice, and its first value would not be searched")
    return value
