"""What of an exchange may stand on a cassette: no key, nothing that opens a link, and of a picture its beginning."""

import base64
import binascii
import json
import re
from urllib.parse import urlsplit, urlunsplit

from flux_openai.files import sniff
from flux_openai.sdk import httpx

__all__ = ["bare_link", "kept_bytes", "kept_text", "unpacked", "without"]

_IMAGE_LIMIT = 1024
_TYPE = 16

# A letter of a link may be written as JSON escapes it, also where the text around is no JSON, or JSON in a string.
_LETTER = r"""(?:[^\s"'<>\\]|\\{1,4}/|\\{1,4}u00[0-9A-Fa-f]{2})"""
_LINK = re.compile(rf"https?:(?:\\{{0,4}}/)+{_LETTER}+", re.IGNORECASE)
_USER_INFO = re.compile(r"""(https?:(?:\\{0,4}/)+)[^\s"'<>/\\@]+@""", re.IGNORECASE)
_QUERY = re.compile(rf"\?[\w.~%-]+={_LETTER}*")
_ITEM = re.compile(
    r"""((?:&|\\{1,4}u0026)[\w.~%-]{0,40}(?:sig|key|token|secret|auth|passw|credential)[\w.~%-]{0,40}=)[^&\s"'<>\\]+""",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(=).*|^[^=]+$", re.DOTALL)
_DATA = re.compile(r"(\s*data:[^,]{0,200},)?([A-Za-z0-9+/_=\s-]+)")
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")


def kept_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Text without the secrets, and without what signs the links in it; base64 of a picture is cut short."""
    text = without(text, secrets)
    if len(text) > _IMAGE_LIMIT and (data := _DATA.fullmatch(text)):
        return _cut_short(data[1] or "", data[2]) or text
    text = _LINK.sub(lambda link: bare_link(link[0]), _USER_INFO.sub(r"\1", text))
    # What is a link only to its reader, and what follows a letter that no link should have.
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


def bare_link(link: str) -> str:
    """The link with every value in its query, and whatever stands before the host, made unusable."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return link.partition("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, _bare_query(parts.query), ""))


def _bare_query(query: str) -> str:
    # What has no name is all value.
    return "&".join(_VALUE.sub(r"\1redacted", item, count=1) for item in query.split("&") if item)


def kept_bytes(body: bytes, secrets: tuple[str, ...] = ()) -> bytes:
    """A body without secrets. Where there are none, not a byte changes; of a picture the first KiB stays.

    Of what is neither picture nor text hardly more than its type stays: it may be packed, and hold anything.
    """
    if sniff(body):
        return body[:_IMAGE_LIMIT]  # the start says what type it is, which is all that a replay looks at
    # As JSON may be encoded; and as every text may be, if nothing else fits.
    for encoding in (json.detect_encoding(body), "utf-8", "latin-1"):
        try:
            text = body.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "utf-8" and _BINARY.search(text):
            continue
        kept = _kept_document(text, secrets)
        return body if kept == text else kept.encode(encoding, "replace")
    return body[:_TYPE]


def _kept_document(text: str, secrets: tuple[str, ...]) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return kept_text(text, secrets)
    # JSON is read before it is searched: `\/` and `\u0026` hide a link from whoever reads it as text.
    kept = kept_value(value, secrets)
    return text if kept == value else json.dumps(kept)


def kept_value(value: object, secrets: tuple[str, ...] = ()) -> object:
    """A JSON value with `kept_text` applied to every string in it, also to names."""
    match value:
        case str():
            return kept_text(value, secrets)
        case list():
            return [kept_value(item, secrets) for item in value]
        case dict():
            return {kept_text(name, secrets): kept_value(item, secrets) for name, item in value.items()}
        case _:
            return value


def unpacked(body: bytes, encodings: str) -> bytes | None:
    """A body without its content encodings; None if it is not what they say."""
    try:
        return httpx.Response(200, headers={"content-encoding": encodings}, content=body).content
    except httpx.DecodingError:
        return None
