"""Image formats: type and size of an image from its bytes, base64 and data URIs."""

import binascii
import re
import struct
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter

__all__ = [
    "ImageType",
    "data_uri",
    "decoded_base64",
    "image_size",
    "is_cut",
    "is_other_image",
    "plain_base64",
    "sniff",
    "sniff_base64",
]

_HEAD = re.compile(r"\s*data:[^,]{0,200},", re.ASCII | re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n")


def plain_base64(text: str) -> str | None:
    """Plain base64, as OpenAI sends it, from a data URI or url-safe, unpadded or wrapped base64; None if invalid."""
    head = _HEAD.match(text)
    bare = text[head.end() if head else 0 :].translate(_URL_SAFE).rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    try:
        return padded if binascii.a2b_base64(padded, strict_mode=True) else None
    except ValueError:
        return None


_fast_decoder: Callable[..., bytes] | None
try:
    from pybase64 import b64decode as _fast_decoder
except ImportError:
    _fast_decoder = None

_CORE_DECODER = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
"""pydantic's decoder, which is four times as fast as Python's; from pydantic 2.9 on."""

_HAS_CORE_DECODER = _CORE_DECODER.validate_strings("AAAA") == bytes(3)


_PIECE = 64 * 1024
"""How many bytes of base64 are decoded at a time: copies of the whole text would cost more than to decode it."""


def _decoded_piece(text: memoryview | bytes) -> bytes:
    plain = str(text, "ascii")
    # pydantic's core takes the url-safe alphabet too, and refuses loose bits at the end.
    if _HAS_CORE_DECODER and "-" not in plain and "_" not in plain:
        with suppress(ValueError):
            return _CORE_DECODER.validate_strings(plain)
    return binascii.a2b_base64(plain, strict_mode=True)


def decoded_base64(text: memoryview | bytes) -> bytes | None:
    """The bytes of standard base64 with its padding, without anything around it; None if it is something else."""
    try:
        if _fast_decoder is not None:
            return _fast_decoder(text, validate=True) or None
        if len(text) % 4 != 0:
            return None  # Python's decoder takes one padding too many
        pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
        data = b"".join(map(_decoded_piece, pieces))
        # A piece within the text can end in padding, which only the whole may.
        return (data or None) if len(data) == len(text) // 4 * 3 - bytes(text[-2:]).count(b"=") else None
    except ValueError:
        return None


def data_uri(data: bytes, *, mime: str) -> str:
    """The bytes as a data URI of this MIME type."""
    return f"data:{mime};base64,{b64encode(data).decode('ascii')}"


@dataclass(frozen=True, kw_only=True)
class ImageType:
    """A type of image: its MIME type and its file extension."""

    mime: str
    extension: str


_PNG = ImageType(mime="image/png", extension=".png")
_JPEG = ImageType(mime="image/jpeg", extension=".jpg")
_WEBP = ImageType(mime="image/webp", extension=".webp")
_GIF = ImageType(mime="image/gif", extension=".gif")

# SVG, HTML and PDF are left out on purpose: they can contain scripts, and no image model makes them.
_MAGIC: tuple[tuple[re.Pattern[bytes], ImageType], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _PNG),
    (re.compile(rb"\xff\xd8\xff"), _JPEG),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _WEBP),
    (re.compile(rb"GIF8[79]a"), _GIF),
)


def sniff(data: bytes) -> ImageType | None:
    """The type of an image by its magic number; None if it is no PNG, JPEG, WebP or GIF."""
    for magic, kind in _MAGIC:
        if magic.match(data):
            return kind
    return None


def sniff_base64(text: str) -> ImageType | None:
    """The same as `sniff`, for an image in plain base64, of which only the beginning is decoded."""
    return sniff(binascii.a2b_base64(text[:64]))


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, GIF, WebP or JPEG; None if its header does not contain them.

    Only the header is read: a small file that claims a huge size (a decompression bomb) does no harm.
    """
    try:
        size = _size_in_header(data)
    except struct.error:
        return None
    return size if size is not None and all(size) else None


def _size_in_header(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG"):
        return _unpack_pair(">II", data, 16)
    if data.startswith(b"GIF8"):
        return _unpack_pair("<HH", data, 6)
    if data[8:12] == b"WEBP":
        return _size_of_webp(data)
    return _size_of_jpeg(data) if data.startswith(b"\xff\xd8") else None


def _unpack_pair(layout: str, data: bytes, offset: int) -> tuple[int, int]:
    one, other = struct.unpack_from(layout, data, offset)
    return int(one), int(other)


def _size_of_webp(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8 ":
            width, height = _unpack_pair("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            [bits] = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            low, high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
            return (high << 16 | low) + 1, (height_high << 16 | height_low) + 1
        case _:
            return None


_JPEG_FILL = re.compile(rb"\xff+")
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")


def _size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    offset = 2
    # Any number of fill bytes may precede a marker. One match skips them all: a hostile file may have millions.
    while fill := _JPEG_FILL.match(data, offset):
        offset = fill.end() - 1
        if _JPEG_FRAME.match(data, offset):
            height, width = _unpack_pair(">HH", data, offset + 5)
            return width, height
        [length] = struct.unpack_from(">H", data, offset + 2)
        offset += 2 + length
    return None


_OTHER_MAGIC = re.compile(
    rb".{4}ftyp(avi[fs]|hei[cfmsx]|hev[cx]|mif1|msf1)"  # AVIF, HEIC
    rb"|\xff\x0a|\0\0\0\x0c(JXL |jP  )\r\n\x87\n"  # JPEG XL, JPEG 2000
    rb"|II\*\0|MM\0\*|BM.{4}\0{4}",  # TIFF, BMP
    re.DOTALL,
)


def is_other_image(data: bytes) -> bool:
    """Whether this is an image that cannot contain scripts, of a type that `sniff` does not know."""
    return _OTHER_MAGIC.match(data) is not None


def is_cut(data: bytes) -> bool:
    """Whether the end of a PNG, JPEG, WebP or GIF is missing. Bytes behind the end are allowed."""
    if data.startswith(b"\x89PNG"):
        return _is_cut_png(data)
    if data.startswith(b"\xff\xd8"):
        return _is_cut_jpeg(data)
    if data[8:12] == b"WEBP":
        return len(data) + 1 < 8 + int.from_bytes(data[4:8], "little")  # the last byte pads, and is often left out
    return data.startswith(b"GIF8") and not data.rstrip(b"\0\r\n ").endswith(b";")


_MOST_CHUNKS = 100_000
"""How many chunks of a PNG are followed; a hostile file may have millions of empty ones."""


def _is_cut_png(data: bytes) -> bool:
    offset = 8
    for _ in range(_MOST_CHUNKS):
        if len(data) < offset + 12:
            return True
        if data.startswith(b"IEND", offset + 4):
            return False
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    return False


def _is_cut_jpeg(data: bytes) -> bool:
    offset = 2
    # The segments before the scan may contain a whole thumbnail, so the end is searched for behind them only.
    while fill := _JPEG_FILL.match(data, offset):
        offset = fill.end() + 1
        if data.startswith(b"\xda", fill.end()):
            break
        offset += max(2, int.from_bytes(data[offset : offset + 2], "big"))
    return data.find(b"\xff\xd9", offset) < 0
