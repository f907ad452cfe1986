"""The pictures in the body of an answer: cut out before the rest is parsed as JSON, and decoded once.

A body is nearly all base64. A JSON parser would copy it, the search for secrets would go through it, and to validate
it is to decode it; so each picture is decoded from the body itself, and its bytes are kept for `FluxImage.read`. The
base64 is made from them when somebody asks for it: with these texts in memory too, a call would need more than the
allocator of glibc keeps between calls. Whatever is unusual about a body (flawed base64, escapes, another shape) is
left to the parser of JSON as a whole.
"""

import re
import secrets
from base64 import b64encode
from codecs import BOM_UTF8
from dataclasses import dataclass

from pydantic_core import from_json

from flux_openai.formats import decoded_base64

__all__ = ["ParsedBody", "parse_body"]

_SMALL = 4096
"""Base64 that is shorter is left to the parser of JSON."""

_MEMBER = re.compile(rb'"b64_json"[ \t\r\n]*:[ \t\r\n]*"(?:data:[A-Za-z0-9.+/;=-]{0,200};base64,)?')
_MARK = secrets.token_hex(16)
"""What stands in place of a picture, with its number: no service can send it by chance, or on purpose."""


@dataclass(frozen=True, kw_only=True)
class ParsedBody:
    """The parsed body of an answer.

    Attributes:
        value: The JSON value; the `b64_json` of each picture that was cut out is its bytes instead of its base64.
        text: The body without these pictures.
    """

    value: object
    text: bytes


def parse_body(body: bytes) -> ParsedBody:
    """Parse the JSON of a body. Raises ValueError if it is not JSON."""
    text, found = _cut(body)
    value = from_json(text.removeprefix(BOM_UTF8), allow_inf_nan=False)
    if found:
        data = value.get("data") if isinstance(value, dict) else None
        items = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
        items = [item for item in items if isinstance(item.get("b64_json"), str)]
        if not found.keys() <= {item["b64_json"] for item in items}:
            # The pictures stand in another place than is documented.
            return ParsedBody(value=from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=False), text=body)
        for item in items:
            if item["b64_json"] in found:
                item["b64_json"] = found[item["b64_json"]]
    return ParsedBody(value=value, text=text)


def _cut(body: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The body with a mark in place of each picture, and the pictures by mark; none if one is unusual."""
    if len(body) < _SMALL:
        return body, {}
    parts, found, rest, view = list[bytes](), dict[str, bytes](), 0, memoryview(body)
    at = 0
    while member := _MEMBER.search(body, at):
        start = member.end()
        at = body.find(b'"', start)
        if at - start < _SMALL:
            if at < 0:
                return body, {}
            continue
        data = decoded_base64(view[start:at])
        if data is None or not body.endswith(b64encode(data[-(len(data) % 3 or 3) :]), start, at):
            return body, {}  # `b64_json` would not be what came: the last bits can be loose
        mark = f"{_MARK}{len(found)}"
        found[mark] = data
        parts += [body[rest : member.start()], b'"b64_json":"', mark.encode()]
        rest = at
    return (b"".join([*parts, body[rest:]]), found) if found else (body, {})
