"""Links to hosted pictures: signed, and dead after seven days."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from flux_openai._http.library import httpx
from flux_openai.emulator.api.pictures import Sketch
from flux_openai.emulator.api.responses import Refusal

__all__ = ["LIFETIME", "Hosted", "file_name", "link_to", "name_in", "refuse_link"]

LIFETIME = 7 * 24 * 60 * 60
"""Seconds from the order to the death of its links."""

# The same in every emulator, so that what it answers can be repeated to the byte; it protects nothing.
_SIGNING_KEY = b"flux_openai.emulator"


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """A picture that a link leads to, and the body of the order that it was drawn for."""

    sketch: Sketch
    order: Mapping[str, object] | None


def file_name(sketch: Sketch, *, token: str) -> str:
    """The name of a hosted picture, different for each order."""
    told = f"{token}:{sketch.index}:{sketch.width}x{sketch.height}:{sketch.seed}:{sketch.inspiration}{sketch.prompt}"
    return f"{blake2b(told.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}.png"


def name_in(url: httpx.URL) -> str:
    """The name of the picture that a link leads to."""
    return url.path.rpartition("/")[2]


def _signature(name: str, *, expires: str) -> str:
    told = f"{name}:{expires}".encode()
    return blake2b(told, key=_SIGNING_KEY, digest_size=16).hexdigest()


def link_to(name: str, *, expires: int, origin: httpx.URL) -> str:
    """The signed link on the scheme, host and port of `origin`; `expires` is a Unix time in seconds."""
    host = f"{origin.scheme}://{origin.netloc.decode('ascii')}"
    return f"{host}/files/{name}?expires={expires}&signature={_signature(name, expires=str(expires))}"


def refuse_link(url: httpx.URL, *, now: float) -> Refusal | None:
    """Why a link does not open, or None; `now` is a Unix time in seconds."""
    expires = url.params.get("expires", "")
    signed = url.params.get("signature") == _signature(name_in(url), expires=expires)
    if not signed or re.fullmatch("[0-9]{1,15}", expires) is None:
        return Refusal(status=403, code="SignatureDoesNotMatch", message="The signature does not fit this link.")
    if now >= int(expires):
        return Refusal(status=410, code="ExpiredToken", message="The link has expired.")
    return None
