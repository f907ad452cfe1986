"""Base64 and data URIs, read as leniently as people and services write them, and written in one way."""

import binascii
import re
from base64 import b64encode

__all__ = ["data_uri", "plain_base64"]

_HEAD = re.compile(r"\s*data:[^,]{0,200},", re.ASCII | re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n")


def plain_base64(text: str) -> str | None:
    """Plain base64, as OpenAI sends it, from a data URI or url-safe, unpadded or wrapped base64; None for rubbish."""
    head = _HEAD.match(text)
    bare = text[head.end() if head else 0 :].translate(_URL_SAFE).rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    try:
        return padded if binascii.a2b_base64(padded, strict_mode=True) else None
    except ValueError:
        return None


def data_uri(data: bytes, *, mime: str) -> str:
    """The bytes as a data URI of this type."""
    return f"data:{mime};base64,{b64encode(data).decode('ascii')}"
