"""What of an exchange may stand on a cassette: no key, nothing that opens a link, and of a picture its beginning."""

import base64
import binascii
import gzip
import json
import re
import zlib
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit, urlunsplit

from flux_openai._http.library import httpx
from flux_openai._http.redaction import BINARY, TYPE_LIMIT
from flux_openai.formats import sniff

__all__ = ["scrub_body", "scrub_text", "strip_query_values", "unpacked", "without"]

_IMAGE_LIMIT = 1024

# A letter of a link may be written as JSON escapes it, also where the text around is no JSON, or JSON in a string.
_LETTER = r"""(?:[^\s"'<>\\]|\\{1,4}/|\\{1,4}u00[0-9A-Fa-f]{2})"""
_LINK = re.compile(rf"https?:(?:\\{{0,4}}/)+{_LETTER}+", re.IGNORECASE)
_USER_INFO = re.compile(r"""(https?:(?:\\{0,4}/)+)[^\s"'<>/\\@]+@""", re.IGNORECASE)
_QUERY = re.compile(rf"\?[\w.~%-]+={_LETTER}*")
_NAMES = "signature|token|secret|credential|password|key-pair-id|keyid|apikey|api[_-]key"
_ITEM = re.compile(
    rf"""((?:&|\\{{1,4}}u0026)(?:[\w.~%-]{{0,40}}(?:{_NAMES})|sig|key|auth)=)[^&\s"'<>\\]+""", re.IGNORECASE
)
_VALUE = re.compile(r"(=).*|^[^=]+$", re.DOTALL)
_DATA = re.compile(r"(\s*data:[^,]{0,200},)?([A-Za-z0-9+/_=\s-]+)")


def scrub_text(text: str, secrets: tuple[str, ...] = (), *, asked: bool = False) -> str:
    """Text without the secrets, and without what signs the links in it; base64 of a picture is cut short.

    Of what is `asked`, which is compared, nothing else changes; of answers, also what is a link only to its reader.
    """
    text = without(text, secrets)
    if len(text) > _IMAGE_LIMIT and (data := _DATA.fullmatch(text)):
        return _cut_short(data[1] or "", data[2]) or text
    text = _LINK.sub(lambda link: strip_query_values(link[0]), _USER_INFO.sub(r"\1", text))
    if asked:
        return text
    return _ITEM.sub(r"\1redacted", _QUERY.sub(lambda query: f"?{_bare_query(query[0][1:])}", text))


def without(text: str, secrets: tuple[str, ...]) -> str:
    """Text without the secrets."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(secret, "redacted")
    return text


def _cut_short(prefix: str, packed: str) -> str | None:
    try:
        data = base64.b64decode(packed.replace("-", "+").replace("_", "/") + "==")
    except binascii.Error:
        return None
    return f"{prefix}{base64.b64encode(data[:_IMAGE_LIMIT]).decode()}" if sniff(data) else None


def strip_query_values(link: str) -> str:
    """The link with every value in its query, and whatever stands before the host, made unusable."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return link.partition("?")[0].rpartition("@")[2]
    if not parts.netloc:  # its slashes may be escaped, as in JSON
        address, mark, query = link.partition("#")[0].partition("?")
        return f"{address}{mark}{_bare_query(query)}"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, _bare_query(parts.query), ""))


def _bare_query(query: str) -> str:
    # What has no name is all value.
    return "&".join(_VALUE.sub(r"\1redacted", item, count=1) for item in query.split("&") if item)


def scrub_body(body: bytes, secrets: tuple[str, ...] = (), *, asked: bool = False) -> bytes:
    """A body without secrets. Where there are none, not a byte changes; of a picture the first KiB stays.

    Of what is neither picture nor text hardly more than its type stays: it may be packed, and hold anything. `asked` is
    as for `scrub_text`.
    """
    if sniff(body):
        return body[:_IMAGE_LIMIT]  # the start says what type it is, which is all that a replay looks at
    keep, read = partial(scrub_text, secrets=secrets, asked=asked), False
    # As JSON may be encoded, and as every text may be: to search it in one way too many does no harm.
    for encoding in dict.fromkeys((json.detect_encoding(body), "utf-8", "latin-1")):
        try:
            text = body.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or not BINARY.search(text):
            read, kept = True, _kept_document(text, keep)
            body = body if kept == text else kept.encode(encoding, "replace")
    if b"\0" in body:  # the letters of UTF-16 that was not known for that
        letters = body.replace(b"\0", b"").decode("utf-8", "replace")
        read = read and keep(letters) == letters
    return body if read else body[:TYPE_LIMIT]


def _kept_document(text: str, keep: Callable[[str], str]) -> str:
    try:
        value = json.loads(text, object_pairs_hook=_once)
        # JSON is read before it is searched: `\/` and `\u0026` hide a link from whoever reads it as text.
        kept = _kept_value(value, keep)
        return text if kept == value else json.dumps(kept)
    except (ValueError, RecursionError):
        return keep(text)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name stands twice, and what it stands for first would not be searched")
    return value


def _kept_value(value: object, keep: Callable[[str], str]) -> object:
    match value:
        case str():
            return keep(value)
        case list():
            return [_kept_value(item, keep) for item in value]
        case dict():
            return {keep(name): _kept_value(item, keep) for name, item in value.items()}
        case _:
            return value


def unpacked(body: bytes, encodings: str) -> bytes | None:
    """A body without its content encodings; None if it is not what they say."""
    layers = [name for part in encodings.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    try:
        if set(layers) == {"gzip"}:  # not by httpx: it takes the beginning of a body for the whole
            for _ in layers:
                body = gzip.decompress(body)
            return body
        return httpx.Response(200, headers={"content-encoding": encodings}, content=body).content
    except (OSError, EOFError, zlib.error, httpx.DecodingError):
        return None
