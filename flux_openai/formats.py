"""Image formats: the type of an image by its bytes, base64 and data URIs."""

import binascii
import re
from base64 import b64encode
from dataclasses import dataclass

__all__ = ["ImageType", "data_uri", "plain_base64", "sniff"]

_HEAD = re.compile(r"\s*data:[^,]{0,200},", re.ASCII | re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n")


def plain_base64(text: str) -> str | None:
    """Plain base64, as OpenAI sends it, for a data URI or url-safe, unpadded or wrapped base64; None if it is none."""
    head = _HEAD.match(text)
    bare = text[head.end() if head else 0 :].translate(_URL_SAFE).rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    try:
        return padded if binascii.a2b_base64(padded, strict_mode=True) else None
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
    """The type of an image by its first bytes; None if they are not those of a PNG, JPEG, WebP or GIF."""
    for magic, kind in _MAGIC:
        if magic.match(data):
            return kind
    return None
