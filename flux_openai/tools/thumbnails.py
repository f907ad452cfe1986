"""A small picture of an image, for whoever is to look at it and need not have all of it. Needs Pillow."""

import struct
from io import BytesIO

from PIL import Image

from flux_openai.tools.measure import measured

__all__ = ["SIDE", "thumbnail"]

SIDE = 512
"""Pixels on the longer side of a thumbnail, at most."""

_LARGEST = 2**25
"""Pixels of an image that is decoded: many times what the models draw, and a hundred megabytes in memory."""

_BROKEN = (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # only where a program makes errors of warnings
    EOFError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
)


def thumbnail(data: bytes) -> bytes | None:
    """A JPEG of an image; None for what is no PNG, JPEG, WebP or GIF, is broken, or says that it is huge."""
    size = measured(data)
    if size is None or _huge(*size):
        return None
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            # A file can say its size twice, and Pillow believes the other one.
            return None if _huge(*image.size) else _reduced(image)
    except _BROKEN:
        return None


def _huge(width: int, height: int) -> bool:
    return width * height > _LARGEST


def _reduced(image: Image.Image) -> bytes:
    image.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
