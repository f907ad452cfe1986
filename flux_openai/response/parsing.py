"""The parser of answers: the body of a 200 in, a FluxImagesResponse out, or UnusableBody.

It corrects what the service does differently from OpenAI: a data URI in `b64_json`, a `usage` without counts, errors
inside a 200.
"""

import binascii
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import replace

from pydantic_core import from_json

from flux_openai._http.redaction import printable, without
from flux_openai.errors import Billing
from flux_openai.formats import plain_base64, sniff
from flux_openai.response.download import DownloadSettings
from flux_openai.response.error_object import (
    error_details,
    error_of_answer,
    moderation_flags,
    said_of_image,
    words_of_answer,
)
from flux_openai.response.files import stem
from flux_openai.response.response import CallInfo, FluxImage, FluxImagesResponse

__all__ = ["UnusableBody", "read_answer"]


class UnusableBody(Exception):  # noqa: N818  # `sending.outcome` makes the error that users see
    """A complete 200 without a usable image: the reason, what was probably paid, and the error object in it, if any."""

    def __init__(self, reason: str, *, billing: Billing = "unknown", error: Mapping[str, object] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.billing = billing
        self.error = error


def read_answer(
    body: bytes, *, info: CallInfo, downloads: DownloadSettings, secrets: tuple[str, ...] = ()
) -> FluxImagesResponse:
    """Parse the body of a 200.

    A fault that leaves at least one usable image becomes a notice. The `secrets` are replaced in all texts.

    Raises:
        UnusableBody: There is no usable image in the body.
    """
    try:
        answer = from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError:
        raise UnusableBody("it is not JSON" if body.strip() else "it is empty") from None
    if not isinstance(answer, dict):
        raise UnusableBody("it is not a JSON object")
    data = answer.pop("data", None)
    items = data if isinstance(data, list) else []
    if any(secret.encode() in body for secret in secrets):
        answer = {name: without(value, secrets) for name, value in answer.items()}
        items = [_without_secrets(item, secrets) if isinstance(item, dict) else item for item in items]
    usable, notices = list[dict[str, object]](), list[str]()
    for index, item in enumerate(items):
        image, problem = _image(_public(item) if isinstance(item, dict) else {})
        if image.get("b64_json") or image.get("url"):
            usable.append(image)
        said = said_of_image(item) if isinstance(item, dict) else []
        notices += [f"image {index}: {printable(text, limit=200)}" for text in (problem, *said) if text is not None]
    error = error_of_answer(answer, items if not usable else ())
    if not usable:
        if error is not None:
            raise UnusableBody("it carries an error", error=error)
        if items:
            raise UnusableBody("; ".join(["no image in it is usable", *notices]), billing="paid")
        words = printable(words_of_answer(answer), secrets, limit=200)
        raise UnusableBody(f"it holds no image; the service says: {words}" if words else "it holds no image")
    asked = info.sent.get("n", 1)
    missing = max(0, asked - len(usable)) if isinstance(asked, int) else 0
    if error is not None:
        message = printable(error_details(error).message or "it does not say which", secrets, limit=200)
        notices.append(f"the answer also carries an error: {message}")
    notices += [f"the service says {printable(flag, limit=200)}" for flag in moderation_flags(answer)]
    if missing:
        notices.append(f"{missing} of {asked} images did not come back usable")
    prompt, seed = str(info.sent.get("prompt") or ""), info.sent.get("seed")
    seed = seed if isinstance(seed, int) else None
    fields = {"created": None, **_public(answer)}
    if fields.get("usage") is not None and not _has_counts(fields["usage"]):
        del fields["usage"]  # left out, so that it is None
    if isinstance(created := fields["created"], str) and re.fullmatch(r"[0-9]{1,12}", created, re.ASCII):
        fields["created"] = int(created)
    images = []
    for index, item in enumerate(usable, start=info.first):
        images.append(FluxImage.of(item, downloads=downloads, stem=stem(prompt, seed=seed, index=index)))
    return FluxImagesResponse.of(
        fields,
        data=images,
        info=replace(info, missing=missing, notices=(*info.notices, *notices)),
    )


def _without_secrets(item: Mapping[str, object], secrets: tuple[str, ...]) -> dict[str, object]:
    """One item of `data` with the secrets replaced, but not in `url` and `b64_json`: that would break the image."""
    return {name: value if name in ("url", "b64_json") else without(value, secrets) for name, value in item.items()}


def _public(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields without leading underscore: others could overwrite private attributes of the pydantic model."""
    public = {**fields}
    for name in fields:
        if name.startswith("_"):
            del public[name]
    return public


def _image(item: Mapping[str, object]) -> tuple[dict[str, object], str | None]:
    """The fields of one image, with plain base64, and what is wrong with it, if anything."""
    packed, url = item.get("b64_json"), item.get("url")
    plain = plain_base64(packed) if isinstance(packed, str) else None
    link = url if isinstance(url, str) and url else None
    image = {**item}
    # Only fields that the service sent: `to_dict` shows those, as the SDK's does.
    image |= {name: value for name, value in (("b64_json", plain), ("url", link)) if name in item}
    if packed and plain is None:
        return image, "its b64_json is not base64"
    if plain is None and link is None:
        return image, "it has neither a link nor data"
    if plain is not None and sniff(binascii.a2b_base64(plain[:64])) is None:
        # If there is a URL, the image may be there. If not, the unknown bytes are kept: they were paid for.
        return {**image, "b64_json": None if link else plain}, "its data is of no known image type"
    return image, None


def _has_counts(usage: object) -> bool:
    """Whether the token counts are complete: code that adds them up would fail if one is missing."""
    counts = usage if isinstance(usage, dict) else {}
    return all(type(counts.get(name)) is int for name in ("input_tokens", "output_tokens", "total_tokens"))
