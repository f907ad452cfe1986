"""The table of acts: everything that a script can make go wrong, one row each."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from flux_openai.emulator import spoil
from flux_openai.emulator.acts import Act, Job, Kind, Outcome, Param
from flux_openai.emulator.replies import Refusal, Reply

__all__ = ["KINDS", "fault_table", "is_billed", "spoiled"]

_NAMES = {
    400: "FluxBadRequestError",
    401: "FluxAuthenticationError",
    403: "FluxPermissionDeniedError",
    404: "FluxNotFoundError",
    409: "FluxConflictError",
    422: "FluxUnprocessableEntityError",
    429: "FluxRateLimitError",
}
_STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)
_SERVED = Outcome(billed=True, raises=None)
_UNUSABLE = Outcome(billed=True, raises="BadResponseError")
_LOST = Outcome(billed=True, raises="FluxConnectionError")
_LINK_DEAD = Outcome(billed=True, raises="DownloadError")


def _refuses(status: int) -> Outcome:
    usual = "FluxInternalServerError" if status >= 500 else "FluxStatusError"
    return Outcome(billed=False, raises=_NAMES.get(status, usual))


def _kind(
    name: str,
    doc: str,
    effect: spoil.Spoil,
    outcome: Outcome | Mapping[str, Outcome],
    *params: Param,
) -> Kind:
    outcomes = {"": outcome} if isinstance(outcome, Outcome) else outcome
    return Kind(name=name, doc=doc, spoil=effect, outcomes=outcomes, params=params)


def _choice(name: str, *choices: str, default: str | int | None = None) -> Param:
    return Param(name=name, sort="choice", choices=choices, default=default)


_CODE = Param(name="code", sort="code")
_QUOTA = Refusal(status=429, code="insufficient_quota", message="The balance is used up.")
_MODERATION = Refusal(status=400, code="content_policy_violation", message="The prompt was refused.")
_NO_IMAGE = base64.b64encode(b"these bytes are no image").decode()
_JPEG = base64.b64encode(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9").decode()


def _without_fields(item: Mapping[str, object], job: Job) -> Mapping[str, object]:
    gone = ("url", "b64_json") if job.text("field") == "both" else (job.text("field"),)
    return {name: value for name, value in item.items() if name not in gone}


_ROWS = (
    _kind(
        "status",
        "an error status with the documented error",
        spoil.status,
        {str(status): _refuses(status) for status in _STATUSES},
        _choice("status", *map(str, _STATUSES)),
        Param(name="retry_after", sort="seconds"),
        _CODE,
        Param(name="message", sort="text"),
    ),
    _kind("quota", "429: the balance is used up", spoil.refused(_QUOTA), _refuses(429)),
    _kind("moderation", "400: the prompt is refused", spoil.refused(_MODERATION), _refuses(400)),
    _kind(
        "long_message",
        "500 with a message of that many characters",
        spoil.long_message,
        _refuses(500),
        Param(name="characters", sort="whole", default=100_000),
    ),
    _kind(
        "redirect",
        "a way to another host",
        spoil.redirected,
        _refuses(302),
        _choice("status", "301", "302", "307", "308", default=302),
    ),
    _kind(
        "connect",
        "no connection",
        spoil.broken("connect"),
        Outcome(billed=False, raises="FluxConnectionError"),
    ),
    _kind(
        "reset",
        "the connection breaks, before the order counts or after",
        spoil.broken("reset"),
        {"after_bill": _LOST, "before_bill": Outcome(billed=False, raises="FluxConnectionError")},
        _choice("when", "before_bill", "after_bill", default="after_bill"),
    ),
    _kind(
        "timeout",
        "no answer comes in time",
        spoil.broken("timeout"),
        Outcome(billed=True, raises="FluxTimeoutError"),
    ),
    _kind(
        "truncate",
        "the answer breaks off after that share of its bytes",
        spoil.truncated,
        _LOST,
        Param(name="kept", sort="share", default=0.5),
    ),
    _kind("empty_body", "200 with nothing in it", spoil.body(b""), _UNUSABLE),
    _kind("bad_json", "JSON that ends too early", spoil.rewritten(lambda b: b[:-1]), _UNUSABLE),
    _kind(
        "html",
        "the page of a gateway",
        spoil.markup,
        {"200": _UNUSABLE, "502": _refuses(502)},
        _choice("status", "200", "502", default=200),
    ),
    _kind("json_list", "the answer as the item of a list", spoil.rewritten(lambda b: b"[" + b + b"]"), _UNUSABLE),
    _kind("null", "null for an answer", spoil.body(b"null"), _UNUSABLE),
    _kind("no_data", "the answer without data", spoil.edited(lambda a: {"created": a.get("created")}), _UNUSABLE),
    _kind("empty_data", "an empty list of pictures", spoil.edited(lambda a: {**a, "data": []}), _UNUSABLE),
    _kind("deep_json", "lists in lists, ten thousand deep", spoil.body(b"[" * 10_000 + b"]" * 10_000), _UNUSABLE),
    _kind("utf16", "the answer in UTF-16", spoil.rewritten(lambda b: b.decode().encode("utf-16")), _UNUSABLE),
    _kind("nan", "NaN for the time", spoil.edited(lambda a: {**a, "created": float("nan")}), _UNUSABLE),
    _kind(
        "error_in_200",
        "the documented error under a 200; what is raised goes by the code",
        spoil.error_in_200,
        Outcome(billed=True, raises="FluxInternalServerError"),
        Param(name="code", sort="code", default="internal_server_error"),
    ),
    _kind(
        "error_beside_images",
        "an error beside good pictures",
        spoil.edited(lambda a: {**a, "error": {"message": "One worker failed.", "code": "internal"}}),
        _SERVED,
    ),
    _kind(
        "missing",
        "pictures without link, data, or both",
        spoil.items(_without_fields),
        {"url": _SERVED, "b64_json": _SERVED, "both": _UNUSABLE},
        _choice("field", "url", "b64_json", "both", default="both"),
    ),
    _kind("null_items", "null for each picture", spoil.edited(lambda a: {**a, "data": [None]}), _UNUSABLE),
    _kind(
        "bad_base64",
        "data that is no base64, and no link",
        spoil.items(lambda _, __: {"b64_json": "data:image/png;base64,!not base64!"}),
        _UNUSABLE,
    ),
    _kind(
        "wrong_type",
        "data of no image type, and no link",
        spoil.items(lambda _, __: {"b64_json": _NO_IMAGE}),
        _SERVED,
    ),
    _kind(
        "not_png",
        "a JPEG that is called a PNG, and no link",
        spoil.items(lambda _, __: {"b64_json": f"data:image/png;base64,{_JPEG}"}),
        _SERVED,
    ),
    _kind(
        "base64",
        "base64 in another dress than a data URI",
        spoil.coded,
        _SERVED,
        _choice("style", "plain", "url_safe", "unpadded", "wrapped", default="plain"),
    ),
    _kind(
        "partial",
        "only the first n pictures",
        spoil.partial,
        _SERVED,
        Param(name="n", sort="whole", default=1),
    ),
    _kind("extra_pictures", "each picture twice", spoil.edited(lambda a: {**a, "data": _twice(a)}), _SERVED),
    _kind("extra_field", "fields that nobody knows", spoil.edited(lambda a: {**a, "_new": 1, "model_x": {}}), _SERVED),
    _kind("usage_null", "null for usage", spoil.edited(lambda a: {**a, "usage": None}), _SERVED),
    _kind(
        "string_created",
        "the time as text",
        spoil.edited(lambda a: {**a, "created": str(a.get("created"))}),
        _SERVED,
    ),
    _kind(
        "long_header",
        "a header of that many characters",
        spoil.long_header,
        _SERVED,
        Param(name="characters", sort="whole", default=16_000),
    ),
    _kind("bom", "a byte order mark before the answer", spoil.rewritten(lambda b: b"\xef\xbb\xbf" + b), _SERVED),
    _kind("gzip", "the answer, compressed", spoil.gzipped, _SERVED),
    _kind("bad_gzip", "plain bytes that claim to be gzip", spoil.header("content-encoding", "gzip"), _UNUSABLE),
    _kind("content_encoding", "an encoding that nobody knows", spoil.header("content-encoding", "x-new"), _UNUSABLE),
    _kind("content_type", "JSON that claims to be HTML", spoil.header("content-type", "text/html"), _SERVED),
    Kind(
        name="slow",
        doc="the answer comes that much later",
        spoil=spoil.slow,
        outcomes={"": _SERVED},
        params=(Param(name="seconds", sort="seconds", default=1.0),),
        on=("generate", "download"),
    ),
    Kind(
        name="url",
        doc="a link that does not lead to the picture",
        spoil=spoil.url,
        outcomes={
            **dict.fromkeys(("403", "404", "410", "500", "503"), _LINK_DEAD),
            "redirect": Outcome(billed=True, raises="UnsafeURLError"),
            **dict.fromkeys(("html", "empty", "truncate", "wrong_type"), _LINK_DEAD),
            **dict.fromkeys(("timeout", "reset", "connect"), _LINK_DEAD),
        },
        params=(
            _choice(
                "how",
                *("403", "404", "410", "500", "503", "redirect", "html", "empty"),
                *("truncate", "wrong_type", "timeout", "reset", "connect"),
            ),
        ),
        on=("download",),
    ),
)


def _twice(answer: Mapping[str, object]) -> list[object]:
    data = answer.get("data")
    return [item for item in data for _ in range(2)] if isinstance(data, list) else []


KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ROWS})
"""All acts by name."""


def is_billed(acts: Iterable[Act]) -> bool:
    """Whether an order that these acts befall is billed: not if one of them keeps it from being carried out."""
    return all(act.billed if act.billed is not None else _outcome(act).billed for act in acts)


def _outcome(act: Act) -> Outcome:
    kind = KINDS[act.name]
    return kind.outcome(kind.values(act))


def spoiled(reply: Reply, *, acts: Iterable[Act], request_id: str) -> Reply:
    """The good reply after all these acts, one after the other."""
    for act in acts:
        kind = KINDS[act.name]
        reply = kind.spoil(Job(reply=reply, request_id=request_id, arguments=kind.values(act)))
    return reply


def fault_table() -> list[tuple[str, str, str, str, str]]:
    """The table of acts, a row for each outcome: the act, where, what it does, billed or not, what is raised.

    Where nothing is raised, the last cell is blank. A link that fails was paid for with its order: "yes" there.
    """
    return [row for kind in _ROWS for row in _rows_of(kind)]


def _rows_of(kind: Kind) -> Iterator[tuple[str, str, str, str, str]]:
    for first, outcome in kind.outcomes.items():
        act = f"{kind.name}({first})" if first else kind.name
        yield act, ", ".join(kind.on), kind.doc, "yes" if outcome.billed else "no", outcome.raises or ""
