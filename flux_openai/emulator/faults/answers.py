"""Acts on a whole answer: bodies that nobody can use, and odd ones that hold images all the same."""

import base64
from collections.abc import Mapping

from flux_openai.emulator.faults import effects as spoil
from flux_openai.emulator.faults.arguments import Param
from flux_openai.emulator.faults.fault import Job, Outcome
from flux_openai.emulator.faults.kinds import LINK_DEAD, SERVED, UNUSABLE, choice, count, kind, refuses

__all__ = ["ANSWERS"]

_NO_IMAGE = base64.b64encode(b"these bytes are no image").decode()
_JPEG = base64.b64encode(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9").decode()


def _without_fields(item: Mapping[str, object], job: Job) -> Mapping[str, object]:
    gone = ("url", "b64_json") if job.text("field") == "both" else (job.text("field"),)
    return {name: value for name, value in item.items() if name not in gone}


def _twice(answer: Mapping[str, object]) -> list[object]:
    data = answer.get("data")
    return [item for item in data for _ in range(2)] if isinstance(data, list) else []


ANSWERS = (
    kind(
        "body",
        "any text in place of the body",
        spoil.other_body,
        UNUSABLE,
        Param(name="text", sort="text", default="so it is"),
        links=LINK_DEAD,
    ),
    kind(
        "oversize",
        "blanks after the answer, up to that many MiB",
        spoil.oversize,
        UNUSABLE,
        count("mebibytes", 65, most=1024),
        links=LINK_DEAD,
    ),
    kind("empty_body", "200 with nothing in it", spoil.body(b""), UNUSABLE),
    kind("bad_json", "JSON that ends too early", spoil.rewritten(lambda b: b[:-1]), UNUSABLE),
    kind(
        "html",
        "the page of a gateway",
        spoil.markup,
        {"200": UNUSABLE, "502": refuses(502)},
        choice("status", "200", "502", default=200),
    ),
    kind("json_list", "the answer as the item of a list", spoil.rewritten(lambda b: b"[" + b + b"]"), UNUSABLE),
    kind("null", "null for an answer", spoil.body(b"null"), UNUSABLE),
    kind("no_data", "the answer without data", spoil.edited(lambda a: {"created": a.get("created")}), UNUSABLE),
    kind("empty_data", "an empty list of pictures", spoil.edited(lambda a: {**a, "data": []}), UNUSABLE),
    kind("deep_json", "lists in lists, ten thousand deep", spoil.body(b"[" * 10_000 + b"]" * 10_000), UNUSABLE),
    kind(
        "utf16",
        "the answer in UTF-16",
        spoil.rewritten(lambda b: b.decode("utf-8", "replace").encode("utf-16")),
        UNUSABLE,
    ),
    kind("nan", "NaN for the time", spoil.edited(lambda a: {**a, "created": float("nan")}), UNUSABLE),
    kind(
        "error_in_200",
        "an error under a 200; what is raised goes by its code",
        spoil.error_in_200,
        Outcome(billed=True, raises="FluxInternalServerError"),
        Param(name="code", sort="code", default="internal_server_error"),
    ),
    kind(
        "error_beside_images",
        "an error beside good pictures",
        spoil.edited(lambda a: {**a, "error": {"message": "One worker failed.", "code": "internal"}}),
        SERVED,
    ),
    kind(
        "missing",
        "pictures without link, data, or both",
        spoil.items(_without_fields),
        {"url": SERVED, "b64_json": SERVED, "both": UNUSABLE},
        choice("field", "url", "b64_json", "both", default="both"),
    ),
    kind("null_items", "null for each picture", spoil.edited(lambda a: {**a, "data": [None]}), UNUSABLE),
    kind(
        "bad_base64",
        "data that is no base64, and no link",
        spoil.items(lambda _, __: {"b64_json": "data:image/png;base64,!not base64!"}),
        UNUSABLE,
    ),
    kind(
        "wrong_type",
        "data of no image type, and no link",
        spoil.items(lambda _, __: {"b64_json": _NO_IMAGE}),
        SERVED,
    ),
    kind(
        "not_png",
        "a JPEG that is called a PNG, and no link",
        spoil.items(lambda _, __: {"b64_json": f"data:image/png;base64,{_JPEG}"}),
        SERVED,
    ),
    kind(
        "base64",
        "base64 in another dress than a data URI",
        spoil.coded,
        SERVED,
        choice("style", "plain", "url_safe", "unpadded", "wrapped", default="plain"),
    ),
    kind(
        "partial",
        "only the first n pictures",
        spoil.partial,
        SERVED,
        count("n", 1),
    ),
    kind("extra_pictures", "each picture twice", spoil.edited(lambda a: {**a, "data": _twice(a)}), SERVED),
    kind("extra_field", "fields that nobody knows", spoil.edited(lambda a: {**a, "_new": 1, "model_x": {}}), SERVED),
    kind("usage_null", "null for usage", spoil.edited(lambda a: {**a, "usage": None}), SERVED),
    kind(
        "string_created",
        "the time as text",
        spoil.edited(lambda a: {**a, "created": str(a.get("created"))}),
        SERVED,
    ),
    kind(
        "long_header",
        "a header of that many characters",
        spoil.long_header,
        SERVED,
        count("characters", 16_000),
    ),
    kind(
        "header",
        "any header, set",
        spoil.named_header,
        SERVED,
        Param(name="name", sort="header", default="x-new"),
        Param(name="value", sort="text"),
        links=SERVED,
    ),
    kind("bom", "a byte order mark before the answer", spoil.rewritten(lambda b: b"\xef\xbb\xbf" + b), SERVED),
    kind("gzip", "the answer, compressed", spoil.gzipped, SERVED, links=LINK_DEAD),
    kind("bad_gzip", "plain bytes that claim to be gzip", spoil.header("content-encoding", "gzip"), UNUSABLE),
    kind("content_encoding", "an encoding that nobody knows", spoil.header("content-encoding", "x-new"), UNUSABLE),
    kind("content_type", "JSON that claims to be HTML", spoil.header("content-type", "text/html"), SERVED),
)
