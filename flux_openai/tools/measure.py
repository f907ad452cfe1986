"""How wide and how high an image is, by its header alone: nothing is decoded, and nothing large is believed."""

import re
import struct

__all__ = ["measured"]

_FILL = re.compile(rb"\xff+")
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")


def measured(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, GIF, WebP or JPEG; None when its header does not say."""
    try:
        size = _size(data)
    except struct.error:
        return None
    return size if size is not None and all(size) else None


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG"):
        return _pair(">II", data, 16)
    if data.startswith(b"GIF8"):
        return _pair("<HH", data, 6)
    if data[8:12] == b"WEBP":
        return _webp(data)
    return _jpeg(data) if data.startswith(b"\xff\xd8") else None


def _pair(layout: str, data: bytes, offset: int) -> tuple[int, int]:
    one, other = struct.unpack_from(layout, data, offset)
    return int(one), int(other)


def _webp(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8 ":
            width, height = _pair("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            [bits] = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            low, high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
            return (high << 16 | low) + 1, (height_high << 16 | height_low) + 1
        case _:
            return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    offset = 2
    # A marker may have any number of these before it, and a hostile file has millions.
    while fill := _FILL.match(data, offset):
        offset = fill.end() - 1
        if _JPEG_FRAME.match(data, offset):
            height, width = _pair(">HH", data, offset + 5)
            return width, height
        [length] = struct.unpack_from(">H", data, offset + 2)
        offset += 2 + length
    return None
