"""The lenient second reading: the JSON objects in a body that is not valid JSON, and images in flawed base64.

An image that came whole is paid for, so a flaw beside it must not lose it. Nothing here runs for a valid answer.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import cast
from urllib.parse import unquote, unquote_to_bytes

from flux_openai.formats import plain_base64, sniff, sniff_base64

__all__ = ["documents", "items_of_broken", "lenient_base64", "percent_encoded"]

_DEPTH = 100
"""How many levels of nesting are kept: code that walks an answer (repr, pickle, pydantic) fails far below 1000."""

_TRIES = 16
"""How many `{` may begin no object: a hostile body of many would be read from each of them to its end."""

_MANY = 1000
"""How many objects, or items of a list, are read; a body of millions would keep the processor busy for minutes."""

_TOKENS = 1_000_000
"""How many strings and brackets are looked at to cut deep nesting out."""

_INTEGER_DIGITS = 640
"""The longest integer that Python converts under every setting; a longer one is kept as text."""


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _INTEGER_DIGITS else digits


_DECODER = json.JSONDecoder(strict=False, parse_int=_integer)
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_EVENT = re.compile(r"^data:", re.MULTILINE)
_DATA_LIST = re.compile(r'"data"\s*+:\s*+\[\s*+')
_IMAGE = re.compile(r'"(b64_json|url)"\s*+:\s*+("(?:[^"\\]++|\\.)*+")', re.DOTALL)
_COMMA = re.compile(r"\s*+,\s*+")


def documents(body: bytes) -> Iterator[dict[str, object]]:
    """The whole JSON objects in a body, one after the other, whatever stands around them.

    Accepted are every Unicode encoding, stray bytes, NULs, control characters in strings, NaN, half surrogates (as
    U+FFFD), integers of any length and nesting of any depth (what is too deep becomes None).
    """
    for text in _texts(body):
        try:
            yield from _objects(text)
        except RecursionError:
            yield from _objects(_without_deep_nesting(text))


def items_of_broken(body: bytes) -> Iterator[list[object]]:
    """The items of each list `data` that are whole, in a body whose objects are not: it is cut, or wrong in between.

    If more images than items are whole, an item is broken beside its image: then there are only the images.
    """
    for text in _texts(body):
        for start in islice(_DATA_LIST.finditer(text), _TRIES):
            items, separator = list[object](), cast(re.Match[str] | None, start)
            while separator is not None and len(items) < _MANY:
                try:
                    item, end = _DECODER.raw_decode(text, separator.end())
                except (ValueError, RecursionError):
                    break
                items.append(_plain(item))
                separator = _COMMA.match(text, end)
            images = _images_of_broken(text, start.end())
            yield from filter(None, (images, items) if len(images) > len(items) else (items, images))


def _images_of_broken(text: str, start: int) -> list[object]:
    """The whole values of `b64_json` and `url` behind this place, as items of a list `data`."""
    items, end = list[dict[str, object]](), start
    for match in islice(_IMAGE.finditer(text, start), _MANY):
        name = match[1]
        if not items or name in items[-1] or text.find("{", end, match.start()) >= 0:
            items.append({})
        end = match.end()
        with suppress(ValueError):
            items[-1][name] = _plain(_DECODER.decode(match[2]))
    return [item for item in items if item]


def lenient_base64(text: str) -> str | None:
    """Plain base64 from text that is percent-encoded, quoted, has invisible characters, or several data URI heads.

    None if it is not the data of a known image type: rubbish must not be decoded to something.
    """
    for _ in range(2):
        text = unquote(text) if "%" in text else text
    text = _INVISIBLE.sub("", text)
    text = _QUOTED.sub(r"\2", text)
    # Base64 has no comma: the last one ends the head of a data URI, also one with commas of its own, or one set twice.
    plain = plain_base64(text.rpartition(",")[2] if _DATA_HEAD.match(text) else text)
    return plain if plain is not None and sniff_base64(plain) is not None else None


def percent_encoded(uri: str) -> str | None:
    """Plain base64 of the image in a data URI whose bytes are percent-encoded; None if there is no image in it."""
    data = unquote_to_bytes(uri.rpartition(",")[2])
    return b64encode(data).decode("ascii") if sniff(data) is not None else None


_DATA_HEAD = re.compile(r"data:|(?:[a-z]+/[a-z.+-]+;)?base64,", re.IGNORECASE)
_INVISIBLE = re.compile(r"(?:[\s\0-\x1f\x7f\u00ad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]|\\[nrt])+")
_QUOTED = re.compile(r"""\Ab?(["'])(.*)\1\Z""", re.DOTALL)  # also the repr of Python bytes


def _texts(body: bytes) -> Iterator[str]:
    # A wrong encoding does no harm: its text holds no object with an image. GB 18030 is what Chinese gateways use.
    for encoding in dict.fromkeys((json.detect_encoding(body), "utf-8", "gb18030")):
        text = body.decode(encoding, "replace").replace("\0", "")
        # An event stream is another format, even if an event holds an object.
        if not _EVENT.search(text, 0, max(text.find("{"), 0)):
            yield text


def _objects(text: str) -> Iterator[dict[str, object]]:
    start, failures, documents = text.find("{"), 0, 0
    while start >= 0 and failures < _TRIES and documents < _MANY:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except ValueError:
            failures, end = failures + 1, start + 1
        else:
            documents += 1
            yield {_plain_text(name): _plain(item) for name, item in value.items()}
        start = text.find("{", end)


def _without_deep_nesting(text: str) -> str:
    """The text with null in place of every list and object that is too deep for the JSON decoder."""
    parts, depth, kept = list[str](), 0, 0
    for count, token in enumerate(_TOKEN.finditer(text)):
        if count == _TOKENS:
            return ""
        if token[0] in "[{":
            depth += 1
            if depth == _DEPTH:
                parts += (text[kept : token.start()], "null")
        elif token[0] in "]}":
            if depth == _DEPTH:
                kept = token.end()
            depth = max(depth - 1, 0)
    return "".join((*parts, text[kept:] if depth < _DEPTH else ""))


def _plain(value: object, depth: int = _DEPTH) -> object:
    """A JSON value that every serializer takes: without half surrogates, and not too deep."""
    match value:
        case str():
            return _plain_text(value)
        case dict() | list() if depth == 0:
            return None
        case dict():
            return {_plain_text(name): _plain(item, depth - 1) for name, item in value.items()}
        case list():
            return [_plain(item, depth - 1) for item in value]
        case _:
            return value


def _plain_text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
