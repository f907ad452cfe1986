"""Links to hosted pictures: signed, and valid for as long as those of the model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from flux_openai._http.library import httpx
from flux_openai.emulator.api.pictures import PictureSpec
from flux_openai.emulator.api.responses import ServiceError

__all__ = ["HostedImage", "check_link", "file_name", "link_to", "name_in"]

# The same in every emulator, so that recordings can be reproduced byte for byte. It is no secret.
_SIGNING_KEY = b"flux_openai.emulator"


@dataclass(frozen=True, kw_only=True)
class HostedImage:
    """A picture behind a link, and the body of the request that created it."""

    spec: PictureSpec
    request_body: Mapping[str, object] | None


def file_name(spec: PictureSpec, *, occurrence_id: str) -> str:
    """The file name of a hosted picture; a repeated request gets another name."""
    text = f"{occurrence_id}:{spec.index}:{spec.width}x{spec.height}:{spec.seed}:{spec.source_digest}{spec.prompt}"
    return f"{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}.png"


def name_in(url: httpx.URL) -> str:
    """The name of the picture that a link leads to."""
    return url.path.rpartition("/")[2]


def link_to(name: str, *, expires: int, origin: httpx.URL) -> str:
    """The signed link on the scheme, host and port of `origin`; `expires` is a Unix time in seconds."""
    host = f"{origin.scheme}://{origin.netloc.decode('ascii')}"
    return f"{host}/files/{name}?expires={expires}&signature={_signature(name, expires=str(expires))}"


def check_link(url: httpx.URL, *, now: float) -> ServiceError | None:
    """The error for an invalid or expired link, or None; `now` is a Unix time in seconds."""
    expires = url.params.get("expires", "")
    signed = url.params.get("signature") == _signature(name_in(url), expires=expires)
    if not signed or re.fullmatch("[0-9]{1,15}", expires) is None:
        return ServiceError(status=403, code="SignatureDoesNotMatch", message="The signature does not fit this link.")
    if now >= int(expires):
        return ServiceError(status=410, code="ExpiredToken", message="The link has expired.")
    return None


def _signature(name: str, *, expires: str) -> str:
    return blake2b(f"{name}:{expires}".encode(), key=_SIGNING_KEY, digest_size=16).hexdigest()
