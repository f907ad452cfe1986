"""The body of a 200 -> FluxImagesResponse, or why there is none. The documented traps are taken out here."""

import binascii
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic_core import from_json

from flux_openai._http.redaction import printable, without
from flux_openai.errors import Billing
from flux_openai.formats import plain_base64, sniff
from flux_openai.response.files import stem
from flux_openai.response.response import CallInfo, DownloadSettings, FluxImage, FluxImagesResponse

__all__ = ["UnusableBody", "read_answer", "text_of"]


@dataclass(frozen=True, kw_only=True)
class UnusableBody:
    """Why a complete 200 gives no image: the reason, what was probably paid, and the error object in it, if any."""

    reason: str
    billing: Billing = "unknown"
    error: Mapping[str, object] | None = None


def text_of(body: object, name: str) -> str | None:
    """A field of an error object as text; None when it is missing or empty."""
    value = body.get(name) if isinstance(body, dict) else None
    return str(value) if isinstance(value, str | int) and value != "" else None


def read_answer(
    body: bytes, *, receipt: CallInfo, downloads: DownloadSettings, secrets: Iterable[str] = ()
) -> FluxImagesResponse | UnusableBody:
    """Read the body of a 200.

    What cannot be an answer is UnusableBody; what is odd but leaves an image becomes a notice, without the `secrets`.
    """
    try:
        answer = from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError:
        return UnusableBody(reason="it is not JSON" if body.strip() else "it is empty")
    if not isinstance(answer, dict):
        return UnusableBody(reason="it is not a JSON object")
    secrets = tuple(secrets)
    if any(secret.encode() in body for secret in secrets):
        answer = _cleaned(answer, secrets)
    data, error = answer.get("data"), answer.get("error")
    items = data if isinstance(data, list) else []
    found, notices = _usable(items)
    if not found:
        return _no_image(items, error, notices)
    asked = receipt.sent.get("n", 1)
    missing = max(0, asked - len(found)) if isinstance(asked, int) else 0
    if error:
        notices.append(f"the answer also carries an error: {_message_of(error, secrets)}")
    if missing:
        notices.append(f"{missing} of {asked} images did not come back usable")
    images = [
        FluxImage.of(item, downloads=downloads, stem=_stem(receipt.sent, index))
        for index, item in enumerate(found, start=receipt.first)
    ]
    return FluxImagesResponse.of(
        {**_public(answer), "created": _created(answer.get("created")), "usage": _usage(answer.get("usage"))},
        data=images,
        receipt=replace(receipt, missing=missing, notices=(*receipt.notices, *notices)),
    )


def _cleaned(answer: Mapping[str, object], secrets: tuple[str, ...]) -> dict[str, object]:
    """The answer without the secrets, but for what leads to the images or holds them: those would be lost."""
    return {
        name: value
        if name in ("url", "b64_json")
        else [_cleaned(item, secrets) if isinstance(item, dict) else item for item in value]
        if name == "data" and isinstance(value, list)
        else without(value, secrets)
        for name, value in answer.items()
    }


def _public(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields without those that would collide with the inside of a pydantic model."""
    return {name: value for name, value in fields.items() if not name.startswith("_")}


def _stem(sent: Mapping[str, object], index: int) -> str:
    seed = sent.get("seed")
    return stem(str(sent.get("prompt") or ""), seed=seed if isinstance(seed, int) else None, index=index)


def _no_image(items: Sequence[object], error: object, notices: Iterable[str]) -> UnusableBody:
    if error:
        details = error if isinstance(error, dict) else {"message": str(error)}
        return UnusableBody(reason="it carries an error", error=details)
    if items:
        return UnusableBody(reason="; ".join(["no image in it is usable", *notices]), billing="paid")
    return UnusableBody(reason="it holds no image")


def _message_of(error: object, secrets: Iterable[str]) -> str:
    return printable(text_of(error, "message") or str(error), secrets, limit=200)


def _usable(items: Iterable[object]) -> tuple[list[dict[str, object]], list[str]]:
    """The images that can be read, with plain base64, and what is wrong with the others."""
    found: list[dict[str, object]] = []
    notices: list[str] = []
    for index, item in enumerate(items):
        image, flaw = _image(item if isinstance(item, dict) else {})
        if image.get("b64_json") or image.get("url"):
            found.append(image)
        if flaw is not None:
            notices.append(f"image {index}: {flaw}")
    return found, notices


def _image(item: Mapping[str, object]) -> tuple[dict[str, object], str | None]:
    packed, url = item.get("b64_json"), item.get("url")
    plain = plain_base64(packed) if isinstance(packed, str) else None
    link = url if isinstance(url, str) and url else None
    image = {**_public(item), "b64_json": plain, "url": link}
    if packed and plain is None:
        return image, "its b64_json is not base64"
    if plain is None and link is None:
        return image, "it has neither a link nor data"
    if plain is not None and sniff(binascii.a2b_base64(plain[:64])) is None:
        # A link may still lead to the picture; without one the bytes are kept, for they are paid for.
        return {**image, "b64_json": None if link else plain}, "its data is of no known image type"
    return image, None


def _created(created: object) -> object:
    return int(created) if isinstance(created, str) and re.fullmatch(r"[0-9]{1,12}", created, re.ASCII) else created


def _usage(usage: object) -> object:
    """The token counts, if the service counts; a `usage` without counts would crash code that adds them up."""
    counts = ("input_tokens", "output_tokens", "total_tokens")
    return usage if isinstance(usage, dict) and all(type(usage.get(name)) is int for name in counts) else None
