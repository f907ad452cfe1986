"""Redaction: removes keys, tokens and the signatures of links from texts, headers and bodies.

Two policies use the patterns and `clean_body`:

- For messages (error, log, repr), `scrub` and `redact_*` replace the query of every link by `[redacted]`, and so does
  `redact_json` for the emulator's journal.
- For cassettes, `flux_openai.testing.scrubbing` replaces only values: requests are compared and answers are replayed,
  so the names in a query and the encoding of a body must stay.

The texts come from servers, so every pattern takes linear time (no ReDoS). In particular a link is matched as a whole
and cut afterwards: a pattern for its query would read to the end of the text at each `http:` in it.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

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
    "redact_links",
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
"""How many bytes of an answer an error carries."""

_MAGIC_LIMIT = 16
"""How many bytes of a binary body are kept: enough for its magic number."""

_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")
"""Control characters: their presence means that a body is binary."""

LINK = re.compile(r"""https?:[^\s"'<>]*[^\s"'<>\\]""", re.IGNORECASE)
"""A link, also with JSON escapes in it; a backslash at its end belongs to the quote behind it."""

USER_INFO = re.compile(r"""(https?:(?:\\{0,4}/)+)[^\s"'<>/@]+@""", re.IGNORECASE)
"""The start of a link (group 1), and its user name with or without a password."""

_RELATIVE_QUERY = re.compile(r"""\?[\w.~%-]+=(?:[^\s"'<>]*[^\s"'<>\\])?""")
_SIGNATURE = re.compile(
    r"((?:&|\\{1,4}u0026)"
    r"(?:[\w.~%-]{0,40}(?:signature|token|secret|credential|password|key-pair-id|keyid|apikey|api[_-]key)|sig|key|auth)"
    r"""=)[^&\s"'<>\\]+""",
    re.IGNORECASE,
)
_QUERY_VALUE = re.compile(r"(=).*|^[^=]+$", re.DOTALL)  # without "=" the whole item counts as a value
_BEARER = re.compile(r"(?i)\b(bearer)\s+[^\s\"',;]+")
_API_KEY = re.compile(r"\b([sr]k)-[A-Za-z0-9_-]{16,}")
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[;,]", re.ASCII)
_BASE64_IMAGE = re.compile(r"(iVBORw0KGgo|/9j/|UklGR|R0lGOD)[\w+/-]{40}", re.ASCII)
_IMAGE_TYPES = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "UklGR": "image/webp", "R0lGOD": "image/gif"}
# The address of a webhook often holds its secret in the path.
_SECRET_NAME = re.compile(r"key|token|secret|auth|passw|credential|webhook", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@#-]{1,128}")
# Invisible characters are replaced too: they can hold instructions that only a language model would read.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets, bearer tokens and API keys, and without user names and queries of links."""
    text = replace_secrets(text, secrets, by="[redacted]")
    text = LINK.sub(lambda link: re.sub(r"\?.+", "?[redacted]", link[0], flags=re.DOTALL), text)
    # Functions, because `re` would expand a template anew for each text, whether there is anything to replace or not.
    text = USER_INFO.sub(lambda link: f"{link[1]}[redacted]@", text)
    text = _BEARER.sub(lambda token: f"{token[1]} [redacted]", text)
    return _API_KEY.sub(lambda key: f"{key[1]}-[redacted]", text)


def printable(text: str, secrets: Iterable[str] = (), *, limit: int = 500) -> str:
    """Text of a server for use in a message: scrubbed, without control characters, at most `limit` characters."""
    clean = _UNPRINTABLE.sub(" ", scrub(text, secrets)).strip()
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def identifier(text: str | None) -> str | None:
    """The text if it has the form of a request id, else None."""
    return text if text is not None and _REQUEST_ID.fullmatch(text) else None


def is_secret(name: str) -> bool:
    """Whether a parameter of that name probably holds a credential."""
    return _SECRET_NAME.search(name) is not None


def replace_secrets(text: str, secrets: Iterable[str], *, by: str) -> str:
    """The text with each secret replaced."""
    for secret in sorted(secrets, key=len, reverse=True):  # longest first: a secret may be the beginning of another
        text = text.replace(secret, by)
    return text


def query_without_values(query: str, *, by: str) -> str:
    """The query of a link with each value replaced."""
    return "&".join(_QUERY_VALUE.sub(rf"\1{by}", item, count=1) for item in query.split("&") if item)


def scrub_relative_links(text: str, *, by: str) -> str:
    """The text with the query values replaced in links without scheme and host, such as `/a.png?sig=1`."""
    text = _RELATIVE_QUERY.sub(lambda query: f"?{query_without_values(query[0][1:], by=by)}", text)
    return _SIGNATURE.sub(rf"\1{by}", text)


def without(value: object, secrets: tuple[str, ...]) -> object:
    """A JSON value with `[redacted]` in place of the secrets."""
    return _map_text(value, partial(replace_secrets, secrets=secrets, by="[redacted]"))


def redact_json(value: object) -> object:
    """A JSON value for the emulator's journal: links scrubbed, images and long texts cut, at most 50 levels deep.

    The values of fields of a body whose names are those of credentials are replaced.
    """
    if isinstance(value, dict):
        value = {name: "[redacted]" if is_secret(name) else field for name, field in value.items()}
    return _map_text(value, _journal_text, depth=50)


def _image_text(text: str) -> str | None:
    """The type and length of an image in a data URI or in plain base64; None for any other text."""
    if data := _DATA_URI.match(text):
        return f"<{data[1] or 'data'}, {len(text)} characters>"
    if image := _BASE64_IMAGE.match(text):
        return f"<{_IMAGE_TYPES[image[1]]}, {len(text)} characters>"
    return None


def _journal_text(text: str) -> str:
    if (image := _image_text(text)) is not None:
        return image
    clean = scrub_relative_links(scrub(USER_INFO.sub(r"\1", text)), by="[redacted]")
    return clean if len(clean) <= 1000 else f"{clean[:1000]}… <{len(text)} characters>"


def _map_text(value: object, clean: Callable[[str], str], *, depth: int | None = None) -> object:
    """A JSON value with every string and every name cleaned; what is deeper than `depth` levels becomes "…"."""
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


def redact_links(value: object, secrets: Iterable[str] = (), *, depth: int = 8) -> object:
    """The value of a parameter with every string in it scrubbed; if there is nothing to scrub, the very same object."""
    if isinstance(value, str) and _image_text(value) is None:
        clean = scrub(_without_query(str(value)), secrets)
        return value if clean == value else clean
    if not isinstance(value, dict | list | tuple):
        return value
    if depth == 0:
        return Redacted("…")
    items: list[object] = [*value.values()] if isinstance(value, dict) else [*value]
    clean_items = [redact_links(item, secrets, depth=depth - 1) for item in items]
    if all(new is old for new, old in zip(clean_items, items, strict=True)):
        return value
    return dict(zip(value, clean_items, strict=True)) if isinstance(value, dict) else clean_items


def _without_query(text: str) -> str:
    # Not left to `scrub`, which ends a link at a space: if there is one by mistake, the rest of the query would stay.
    return f"{text.partition('?')[0]}?[redacted]" if LINK.match(text.lstrip()) and "?" in text else text


class Redacted(str):
    """Text in the place of a redacted value."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The bare text: quotes would claim that the value was this very string."""
        return str(self)


def redact_value(value: object, *, name: str = "") -> object:
    """The value of a parameter if it is safe in a message and a pickle, else a description such as `<bytes>`."""
    if is_secret(name):
        return Redacted("[redacted]")
    if isinstance(value, int) and value.bit_length() > 256:
        # Python refuses to print an integer of thousands of digits.
        return Redacted(f"<integer of {value.bit_length()} bits>")
    if value is None or type(value) in (bool, int, float):
        return value
    if not isinstance(value, str):
        return Redacted(f"<{type(value).__name__}>")
    if (image := _image_text(value)) is not None:
        return Redacted(image)
    plain = str(value)
    text = printable(repr(_without_query(plain)), limit=80)
    return value if text == repr(plain) else Redacted(text)


def redacted_repr(value: object, *, name: str = "") -> str:
    """The repr of a parameter's value for a message: scrubbed, on one line, at most 80 characters."""
    return repr(redact_value(value, name=name))


_KEPT_REQUEST_HEADERS = frozenset({b"accept", b"content-type", b"host", b"idempotency-key", b"user-agent"})
_DROPPED_RESPONSE_HEADERS = frozenset({b"content-encoding", b"content-length", b"set-cookie", b"transfer-encoding"})


def _is_secret_header(name: bytes) -> bool:
    return name == b"cookie" or b"auth" in name or (name.endswith((b"-key", b"-token")) and name != b"idempotency-key")


@lru_cache(maxsize=64)
def _secret_positions(names: tuple[bytes, ...]) -> tuple[int, ...]:
    """Which of these headers hold credentials. A client's requests nearly all have the same names."""
    return tuple(position for position, name in enumerate(names) if _is_secret_header(name.lower()))


def secrets_of(headers: httpx.Headers, url: httpx.URL | None = None) -> tuple[str, ...]:
    """The credentials and cookies in the headers of a request, each with and without its scheme, and in its query."""
    # From the raw headers: decoding all of them takes longer than all else here.
    raw = headers.raw
    positions = _secret_positions(tuple([name for name, _ in raw]))
    values = [raw[position][1].decode(headers.encoding) for position in positions]
    tokens = [value.partition(" ")[2] for value in values]
    if url is not None and url.query:
        tokens += [value for name, value in url.params.multi_items() if is_secret(name)]
    return tuple(sorted({text for text in (*values, *tokens) if len(text) >= 4}, key=len, reverse=True))


def redact_request(request: httpx.Request) -> httpx.Request:
    """A copy of the request for an error: method, URL without query, and harmless headers; no key, no body."""
    headers = [(name, value) for name, value in request.headers.raw if name.lower() in _KEPT_REQUEST_HEADERS]
    return type(request)(request.method, scrub(str(request.url)), headers=headers)


def redact_headers(headers: httpx.Headers, secrets: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, scrubbed: without cookies, and without those that describe the body's encoding."""
    secrets = tuple(secrets)
    kept = [(name, value) for name, value in headers.raw if name.lower() not in _DROPPED_RESPONSE_HEADERS]
    # Latin-1 decodes every byte, and encodes it to the same byte again.
    joined = b"\n".join(value for _, value in kept).decode("latin-1")
    if "?" not in joined and scrub(joined, secrets) == joined:
        return kept
    texts = (scrub_relative_links(scrub(value.decode("latin-1"), secrets), by="[redacted]") for _, value in kept)
    return [(name, text.encode("latin-1")) for (name, _), text in zip(kept, texts, strict=True)]


def redact_response(response: httpx.Response, secrets: Iterable[str]) -> httpx.Response:
    """A copy of the response for an error: scrubbed headers and the first 64 KiB of the scrubbed body."""
    secrets = tuple(secrets)
    return type(response)(
        response.status_code,
        headers=redact_headers(response.headers, secrets),
        content=redact_body(response.content, secrets),
        request=redact_request(response.request),
    )


def redact_body(content: bytes, secrets: Iterable[str]) -> bytes:
    """The first 64 KiB of a body, scrubbed, in UTF-8; the first 16 bytes if it is binary."""
    clean = partial(scrub, secrets=tuple(secrets))
    # The body is cut after scrubbing: otherwise half of a secret at the cut would stay.
    _, text = clean_body(content[: RAW_LIMIT * 2], clean)
    if text is None:
        text = content[:_MAGIC_LIMIT].decode("utf-8", "backslashreplace")
    # Scrubbed again as plain text: a key of digits only may be a number in JSON, which `clean_body` does not touch.
    return clean(text).encode("utf-8", "surrogateescape")[:RAW_LIMIT]


def clean_body(body: bytes, clean: Callable[[str], str]) -> tuple[bytes, str | None]:
    """The cleaned body in its own encoding, and its text.

    If there is nothing to clean, not a byte changes. A binary body is cut to its first 16 bytes, and the text is None:
    it may be compressed, so it cannot be searched.
    """
    texts: list[tuple[bool, str]] = []
    # A body may be valid in several encodings. All of them are searched: a wrong one does no harm.
    for encoding, errors in ((json.detect_encoding(body), "strict"), ("utf-8", "strict"), ("utf-8", "surrogateescape")):
        try:
            # Incremental, because that decoder ignores an incomplete character at the end.
            text = codecs.getincrementaldecoder(encoding)(errors).decode(body)
        except UnicodeDecodeError:
            continue
        letters = text.replace("\0", "")  # UTF-16 that was not detected has NULs between its letters
        cleaned = _clean_document(letters, clean)
        if cleaned != letters:
            body = cleaned.encode(encoding, errors)
        # Binary data is hardly ever valid UTF-8; in the other encodings control characters mean that it is binary.
        if (encoding, errors) == ("utf-8", "strict") or not _BINARY.search(letters if errors == "strict" else text):
            texts.append((cleaned == letters, cleaned))
    if not texts:
        return body[:_MAGIC_LIMIT], None
    # If one of the decodings revealed something to clean, it is the right one.
    return body, min(texts, key=lambda reading: reading[0])[1]


def _clean_document(text: str, clean: Callable[[str], str]) -> str:
    try:
        value = json.loads(text, object_pairs_hook=_unique_names)
        # JSON is parsed before it is searched: escapes such as `\/` or `\u0073` would hide links and keys.
        cleaned = _map_text(value, clean)
        return text if cleaned == value else json.dumps(cleaned)
    except (ValueError, RecursionError):
        return clean(text)


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name occurs twice, and its first value would not be searched")
    return value
