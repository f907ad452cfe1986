"""The parser of answers: the body of a 200 in, a FluxImagesResponse out, or UnusableBody.

It corrects what the service does differently from OpenAI: a data URI in `b64_json` or `url`, a `usage` without counts,
errors inside a 200, an envelope around the answer. The body is read strictly; only one that is not valid JSON is read
once more, leniently (`response/lenient.py`), and the answer has a notice of that.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from pydantic_core import from_json

from flux_openai._http.redaction import printable, without
from flux_openai.errors import Billing
from flux_openai.formats import plain_base64, sniff, sniff_base64
from flux_openai.response.download import DownloadSettings
from flux_openai.response.error_object import (
    error_details,
    error_of_answer,
    moderation_flags,
    said_of_image,
    words_of_answer,
)
from flux_openai.response.lenient import documents, items_of_broken, lenient_base64, percent_encoded
from flux_openai.response.pictures import ParsedBody, parse_body
from flux_openai.response.response import CallInfo, FluxImage, FluxImagesResponse

__all__ = ["UnusableBody", "is_answer", "read_answer"]


class UnusableBody(Exception):  # noqa: N818  # `sending.outcome` makes the error that users see
    """A complete 200 without a usable image.

    Attributes:
        reason: What is wrong with it, as a sentence.
        billing: What was probably paid.
        error: If it carries an error: its JSON object, without `data` and without the envelope.
        weight: How much it says about the call; of several readings the one with the largest counts.
    """

    def __init__(self, reason: str, *, billing: Billing = "unknown", error: Mapping[str, object] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.billing = billing
        self.error = error
        self.weight = (error is not None, billing == "paid")


_MAX_NOTICES = 10
"""How many notices there are about single images: a list of a million items would make a message of megabytes."""


def read_answer(
    body: bytes, *, info: CallInfo, downloads: DownloadSettings, secrets: tuple[str, ...] = ()
) -> FluxImagesResponse:
    """Parse the body of a 200.

    A fault that leaves at least one usable image becomes a notice. The `secrets` are replaced in all texts.

    Raises:
        UnusableBody: There is no usable image in the body.
    """
    try:
        parsed, reason = parse_body(body), "it is not a JSON object"
    except ValueError:
        parsed, reason = ParsedBody(value=None, text=body), "it is not JSON" if body.strip() else "it is empty"
    if isinstance(parsed.value, str):
        body = parsed.value.encode("utf-8", "replace")  # JSON inside of a JSON string: it was encoded twice
    if isinstance(parsed.value, dict):
        found = secrets if any(secret.encode() in parsed.text for secret in secrets) else ()
        return _response(parsed.value, info=info, downloads=downloads, secrets=found)
    problem = UnusableBody(reason)
    try:
        for document, notice in _lenient_documents(body):
            noticed = replace(info, notices=(*info.notices, notice))
            try:
                return _response(document, info=noticed, downloads=downloads, secrets=secrets)
            except UnusableBody as other:
                problem = problem if problem.weight >= other.weight else other
        raise problem
    finally:
        # The traceback holds this frame: if it held the error too, the body would live until a garbage collection.
        del problem


def is_answer(body: bytes) -> bool:
    """Whether a body that came in a faulty way (its connection broke, say) is a whole JSON object with an image."""
    try:
        whole: Iterable[object] = [from_json(body, allow_inf_nan=False)]
    except ValueError:
        whole = documents(body)
    for document in whole:
        with suppress(UnusableBody):
            if isinstance(document, dict):
                _response(document, info=CallInfo(), downloads=DownloadSettings(), secrets=())
                return True
    return False


def _lenient_documents(body: bytes) -> Iterator[tuple[dict[str, object], str]]:
    for document in documents(body):
        yield document, "the answer is not valid JSON; it was read leniently"
    for items in items_of_broken(body):
        yield {"data": items}, "the answer is broken JSON; only the images that are whole in it were read"


def _response(
    answer: dict[str, object],
    *,
    info: CallInfo,
    downloads: DownloadSettings,
    secrets: tuple[str, ...],
) -> FluxImagesResponse:
    """The response for a parsed answer; `b64_json` can be bytes that are decoded already."""
    data = answer.pop("data", None)
    empty = not data
    if isinstance(data, dict):
        # An envelope, which the service sometimes puts around: {"code": 200, "message": …, "data": {"data": […]}}
        answer = {**answer, **data}
        data = answer.pop("data", None)
    items = data if isinstance(data, list) else []
    if secrets:
        answer = {name: without(value, secrets) for name, value in answer.items()}
        items = [_without_secrets(item, secrets) if isinstance(item, dict) else item for item in items]
    usable: list[dict[str, object]] = []
    notices: list[str] = []
    for index, item in enumerate(items):
        image, problem = _image(_public(item) if isinstance(item, dict) else {})
        if image.get("b64_json") or image.get("url"):
            usable.append(image)
        if len(notices) < _MAX_NOTICES:
            said = said_of_image(item) if isinstance(item, dict) else []
            notices += [f"image {index}: {printable(text, limit=200)}" for text in (problem, *said) if text is not None]
    error = error_of_answer(answer, items if not usable else ())
    if error is None and empty and str(answer.get("code", 200)) != "200":
        error = answer  # an envelope without content; its one code for success is 200
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
    fields = _public(answer)
    if fields.get("usage") is not None and not _has_counts(fields["usage"]):
        del fields["usage"]  # left out, so that it is None
    if fields.get("created") is None and "createed" in fields:
        fields["created"] = fields["createed"]  # so spelt in the answers of models with a path of their own
    if isinstance(created := fields.get("created"), str) and re.fullmatch(r"[0-9]{1,12}", created, re.ASCII):
        fields["created"] = int(created)
    info = replace(info, missing=missing, notices=(*info.notices, *notices)) if notices else info
    images = []
    for index, item in enumerate(usable, start=info.first):
        images.append(FluxImage.of(item, downloads=downloads, info=info, index=index))
    return FluxImagesResponse.of(fields, data=images, info=info)


def _without_secrets(item: Mapping[str, object], secrets: tuple[str, ...]) -> dict[str, object]:
    """One item of `data` with the secrets replaced, but not in `url` and `b64_json`: that would break the image."""
    return {name: value if name in ("url", "b64_json") else without(value, secrets) for name, value in item.items()}


def _public(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields without leading underscore: others could overwrite private attributes of the pydantic model."""
    return {name: value for name, value in fields.items() if not name.startswith("_")}


def _image(item: Mapping[str, object]) -> tuple[dict[str, object], str | None]:
    """The fields of one image, with plain base64 or its bytes, and what is wrong with it, if anything."""
    packed, url = item.get("b64_json"), item.get("url")
    plain, problem = _base64(packed)
    link = url if isinstance(url, str) and url else None
    if link is not None and not link.startswith("http"):
        link, inline = _link_or_data(link)
        if plain is None and inline is not None:
            plain, problem = inline, "its url holds the image itself"
    # Only fields that the service sent, or that hold the image: `to_dict` shows no others, as the SDK's does.
    fields = {"b64_json": plain, "url": link}
    image = {**item, **{name: value for name, value in fields.items() if name in item or value is not None}}
    if plain is not None and (sniff(plain) if isinstance(plain, bytes) else sniff_base64(plain)) is None:
        # If there is a URL, the image may be there. If not, the unknown bytes are kept: they were paid for.
        return {**image, "b64_json": None if link else plain}, "its data is of no known image type"
    if plain is None and link is None:
        return image, problem or "it has neither a link nor data"
    return image, problem


def _base64(packed: object) -> tuple[str | bytes | None, str | None]:
    """Plain base64 or the decoded bytes, and what is wrong with what came, if anything."""
    if not packed:
        return None, None
    if isinstance(packed, bytes):
        return packed, None
    if not isinstance(packed, str):
        return None, "its b64_json is not base64"
    if plain := plain_base64(packed):
        return plain, None
    plain = lenient_base64(packed)
    return plain, "its b64_json is flawed base64; it was read leniently" if plain else "its b64_json is not base64"


def _link_or_data(url: str) -> tuple[str | None, str | None]:
    """The URL if it is a link, else the base64 in it, if it is a data URI or the bare base64 of an image."""
    is_data = url.lstrip("\ufeff \r\n\t\"'")[:5].lower() in ("data:", "data%")
    plain = plain_base64(url) or lenient_base64(url) or (percent_encoded(url) if is_data else None)
    if is_data:
        return None, plain
    return (None, plain) if plain is not None and sniff_base64(plain) is not None else (url, None)


def _has_counts(usage: object) -> bool:
    """Whether the token counts are complete: code that adds them up would fail if one is missing."""
    counts = usage if isinstance(usage, dict) else {}
    return all(type(counts.get(name)) is int for name in ("input_tokens", "output_tokens", "total_tokens"))
