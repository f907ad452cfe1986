"""The catalog of faults, one row each, from which scripts, the help, the documented table and the tests are generated.

To add a fault, add a row, and a function in `effects.py` if its effect is new.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from textwrap import fill
from types import MappingProxyType

from flux_openai.emulator.api.responses import Reply
from flux_openai.emulator.faults import effects
from flux_openai.emulator.faults.fault import Expected, FaultType, Param, Target, Value
from flux_openai.errors import DOCUMENTED_CODES

__all__ = ["CATALOG", "fault_help", "fault_table"]

_SERVED = Expected(billed=True, raises=None)
_UNUSABLE = Expected(billed=True, raises="BadResponseError")
_LOST = Expected(billed=True, raises="FluxConnectionError")
_LATE = Expected(billed=True, raises="FluxTimeoutError")
_NOT_SENT = Expected(billed=False, raises="FluxConnectionError", billable=False)
_NOT_SENT_IN_TIME = Expected(billed=False, raises="FluxTimeoutError", billable=False)
_DEAD_LINK = Expected(billed=True, raises="DownloadError")
_UNSAFE_LINK = Expected(billed=True, raises="UnsafeURLError")

_CLASSES = {
    400: "FluxBadRequestError",
    401: "FluxAuthenticationError",
    403: "FluxPermissionDeniedError",
    404: "FluxNotFoundError",
    409: "FluxConflictError",
    422: "FluxUnprocessableEntityError",
    429: "FluxRateLimitError",
}
_STATUSES = (
    *(400, 401, 402, 403, 404, 405, 408, 409, 413, 421, 422, 425, 429, 431),
    *(500, 501, 502, 503, 504, 505, 520, 524, 529),
)
_DEAD_LINKS = (
    *("403", "404", "410", "429", "500", "503"),
    *("html", "empty", "truncate", "wrong_type", "timeout", "reset", "connect"),
)
_UNSAFE_LINKS = ("redirect", "loop")
_SECONDS = Param(name="seconds", kind="seconds", default=1.0)


def _refused(status: int) -> Expected:
    usual = "FluxInternalServerError" if status >= 500 else "FluxStatusError"
    return Expected(billed=False, raises=_CLASSES.get(status, usual))


def _choice(name: str, *choices: str, default: Value | None = None) -> Param:
    return Param(name=name, kind="choice", choices=choices, default=default)


def _whole(name: str, default: int | None = None, *, least: int = 1, most: int = 1_000_000) -> Param:
    return Param(name=name, kind="whole", default=default, least=least, most=most)


def _row(
    name: str,
    doc: str,
    effect: Callable[..., Reply],
    orders: Expected | Mapping[str, Expected],
    *params: Param,
    downloads: Expected | Mapping[str, Expected] = MappingProxyType({}),
) -> FaultType:
    """A row of the catalog; a single Expected applies to every value of the first parameter."""
    return FaultType(
        name=name,
        doc=doc,
        effect=effect,
        params=params,
        orders={"": orders} if isinstance(orders, Expected) else orders,
        downloads={"": downloads} if isinstance(downloads, Expected) else downloads,
    )


_EXCHANGES = (
    _row(
        "status",
        "any status from 400 to 599, with the documented error",
        effects.status,
        {str(status): _refused(status) for status in _STATUSES},
        _whole("status", least=400, most=599),
        Param(name="retry_after", kind="seconds"),
        Param(name="code", kind="code"),
        Param(name="message", kind="text"),
        downloads=_DEAD_LINK,
    ),
    _row(
        "success",
        "the response under another 2xx status; under 204 it has no body",
        effects.success,
        {"": _SERVED, "204": _UNUSABLE},
        _whole("status", 201, least=200, most=299),
    ),
    _row(
        "quota",
        "429 insufficient_quota: the balance is used up",
        effects.error(429, "insufficient_quota", "The balance is used up."),
        _refused(429),
    ),
    _row(
        "moderation",
        "400 sensitive_check_error: the prompt is refused",
        effects.error(400, "sensitive_check_error", "The prompt was refused."),
        _refused(400),
    ),
    _row(
        "long_message",
        "500 with an error message of this many characters",
        effects.long_message,
        _refused(500),
        _whole("characters", 100_000),
    ),
    _row(
        "redirect",
        "redirect to another host, or to `to=`",
        effects.redirect,
        _refused(302),
        _choice("status", "300", "301", "302", "303", "304", "307", "308", default=302),
        Param(name="to", kind="text"),
        downloads={
            **dict.fromkeys(("301", "302", "303", "307", "308"), _UNSAFE_LINK),
            **dict.fromkeys(("300", "304"), _DEAD_LINK),
        },
    ),
    _row(
        "connect",
        "no connection can be made",
        effects.connect,
        {
            **dict.fromkeys(("refused", "dns", "tls", "certificate", "proxy"), _NOT_SENT),
            **dict.fromkeys(("timeout", "pool"), _NOT_SENT_IN_TIME),
        },
        _choice("how", "refused", "dns", "tls", "certificate", "proxy", "timeout", "pool", default="refused"),
        downloads=_DEAD_LINK,
    ),
    _row(
        "upload",
        "the connection breaks while the request is being sent",
        effects.upload,
        {"reset": _NOT_SENT, "timeout": _NOT_SENT_IN_TIME},
        _choice("how", "reset", "timeout", default="reset"),
    ),
    _row(
        "reset",
        "the connection is reset, after the order was billed or before",
        effects.breaks("reset"),
        {"after_bill": _LOST, "before_bill": _NOT_SENT},
        _choice("when", "before_bill", "after_bill", default="after_bill"),
        downloads=_DEAD_LINK,
    ),
    _row("timeout", "no response within the client's time-out", effects.breaks("timeout"), _LATE, downloads=_DEAD_LINK),
    _row(
        "garbage",
        "the response is not HTTP",
        effects.garbage,
        _LOST,
        _choice("where", "all", "status", "header", "chunk", default="all"),
        downloads=_DEAD_LINK,
    ),
    _row(
        "truncate",
        "the connection closes after this share of the body",
        effects.truncate,
        _LOST,
        Param(name="kept", kind="share", default=0.5),
        downloads=_DEAD_LINK,
    ),
    _row("slow", "the response arrives this much later", effects.slow, _SERVED, _SECONDS, downloads=_SERVED),
    _row("drip", "the body arrives in pieces over this time", effects.drip, _SERVED, _SECONDS, downloads=_SERVED),
    _row(
        "hints",
        "this many 103 responses before the response, if it comes over a port",
        effects.hints,
        _SERVED,
        _whole("count", 3, most=10_000),
        downloads=_SERVED,
    ),
    _row(
        "url",
        "the link of an image does not lead to the image",
        effects.url,
        {},
        _choice("how", *_DEAD_LINKS, *_UNSAFE_LINKS),
        downloads={**dict.fromkeys(_DEAD_LINKS, _DEAD_LINK), **dict.fromkeys(_UNSAFE_LINKS, _UNSAFE_LINK)},
    ),
)
"""Error statuses, connections that fail, responses that arrive late or not at all, dead links."""

_DOCUMENTED = tuple(
    _row(
        "request_timeout" if row.code == "timeout" else row.code,  # the fault "timeout" is a response that never comes
        f"{row.status} {row.code}: {row.meaning}",
        effects.error(row.status, row.code, f"{row.meaning[0].upper()}{row.meaning[1:]}."),
        _refused(row.status),
    )
    for row in DOCUMENTED_CODES.values()
)
"""The errors that the service documents, one fault for each code."""

_NO_IMAGE = base64.b64encode(b"these bytes are no image").decode()
_JPEG = base64.b64encode(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9").decode()

_RESPONSES = (
    _row(
        "body",
        "any text as the body",
        effects.other_body,
        _UNUSABLE,
        Param(name="text", kind="text", default="so it is"),
        downloads=_DEAD_LINK,
    ),
    _row(
        "oversize",
        "the body padded with blanks to this many MiB",
        effects.oversize,
        _UNUSABLE,
        _whole("mebibytes", 65, most=1024),
        downloads=_DEAD_LINK,
    ),
    _row("empty_body", "an empty body", effects.body(b""), _UNUSABLE),
    _row("bad_json", "JSON without its last character", effects.rewritten(lambda body: body[:-1]), _SERVED),
    _row(
        "html",
        "the HTML error page of a gateway",
        effects.html,
        {"200": _UNUSABLE, "502": _refused(502)},
        _choice("status", "200", "502", default=200),
    ),
    _row("json_list", "the JSON object inside a list", effects.rewritten(lambda body: b"[" + body + b"]"), _SERVED),
    _row("null", "null as the body", effects.body(b"null"), _UNUSABLE),
    _row("no_data", "no data field", effects.edited(lambda answer, _: {"created": answer.get("created")}), _UNUSABLE),
    _row("empty_data", "an empty data list", effects.with_fields(data=[]), _UNUSABLE),
    _row("deep_json", "lists nested ten thousand deep", effects.body(b"[" * 10_000 + b"]" * 10_000), _UNUSABLE),
    _row(
        "utf16",
        "the body in UTF-16",
        effects.rewritten(lambda body: body.decode("utf-8", "replace").encode("utf-16")),
        _SERVED,
    ),
    _row("nan", "NaN as created", effects.with_fields(created=float("nan")), _SERVED),
    _row(
        "error_in_200",
        "an error object under 200; its code decides what is raised",
        effects.error_in_200,
        Expected(billed=True, raises="FluxInternalServerError"),
        Param(name="code", kind="code", default="internal_error"),
    ),
    _row(
        "error_beside_images",
        "an error object beside good images",
        effects.with_fields(error={"message": "One worker failed.", "code": "internal_error"}),
        _SERVED,
    ),
    _row(
        "missing",
        "images without url, without b64_json, or without both",
        effects.missing,
        {"url": _SERVED, "b64_json": _SERVED, "both": _UNUSABLE},
        _choice("field", "url", "b64_json", "both", default="both"),
    ),
    _row("null_items", "null in place of the images", effects.with_fields(data=[None]), _UNUSABLE),
    _row(
        "bad_base64",
        "b64_json that is not base64, and no url",
        effects.items(lambda _: {"b64_json": "data:image/png;base64,!not base64!"}),
        _UNUSABLE,
    ),
    _row(
        "wrong_type",
        "b64_json of bytes that are no image, and no url",
        effects.items(lambda _: {"b64_json": _NO_IMAGE}),
        _SERVED,
    ),
    _row(
        "not_png",
        "a JPEG whose data URI says PNG, and no url",
        effects.items(lambda _: {"b64_json": f"data:image/png;base64,{_JPEG}"}),
        _SERVED,
    ),
    _row(
        "base64",
        "base64 without the data-URI prefix, in this style",
        effects.base64_style,
        _SERVED,
        _choice("style", "plain", "url_safe", "unpadded", "wrapped", default="plain"),
    ),
    _row("partial", "only the first n images", effects.partial, _SERVED, _whole("n", 1)),
    _row(
        "extra_pictures",
        "each image twice",
        effects.edited(lambda answer, data: {**answer, "data": [item for item in data for _ in range(2)]}),
        _SERVED,
    ),
    _row("extra_field", "fields that are not documented", effects.with_fields(_new=1, model_x={}), _SERVED),
    _row("usage_null", "null as usage", effects.with_fields(usage=None), _SERVED),
    _row(
        "string_created",
        "created as a string",
        effects.edited(lambda answer, _: {**answer, "created": str(answer.get("created"))}),
        _SERVED,
    ),
    _row("long_header", "a header of this many characters", effects.long_header, _SERVED, _whole("characters", 16_000)),
    _row(
        "header",
        "any header, set to any value",
        effects.set_header,
        _SERVED,
        Param(name="name", kind="header", default="x-new"),
        Param(name="value", kind="text"),
        downloads=_SERVED,
    ),
    _row("bom", "a byte order mark before the JSON", effects.rewritten(lambda body: b"\xef\xbb\xbf" + body), _SERVED),
    _row("gzip", "the body, compressed with gzip", effects.gzipped, _SERVED, downloads=_DEAD_LINK),
    _row("bad_gzip", "content-encoding: gzip on a plain body", effects.header("content-encoding", "gzip"), _SERVED),
    _row("content_encoding", "an unknown content-encoding", effects.header("content-encoding", "x-new"), _SERVED),
    _row("content_type", "content-type: text/html on JSON", effects.header("content-type", "text/html"), _SERVED),
)
"""Unusable bodies, and unusual bodies with usable images."""

CATALOG: Mapping[str, FaultType] = MappingProxyType({row.name: row for row in (*_EXCHANGES, *_DOCUMENTED, *_RESPONSES)})
"""All types of fault by name."""

_TARGETS: Mapping[str, Target] = {"order": "generate", "img": "download"}


def fault_table() -> list[tuple[str, str, str, str, str]]:
    """The catalog as rows of text: fault, kind of call, description, whether the order is billed, error class.

    Each expected result has its own row; the last cell is empty if no error is raised. An order is billed ("yes") even
    if the download of its image fails.
    """
    return [
        (
            f"{row.name}({first or _required(row)})".removesuffix("()"),
            on,
            row.doc,
            "yes" if expected.billed else "no",
            expected.raises or "",
        )
        for row in CATALOG.values()
        for on in _TARGETS.values()
        for first, expected in row.expected(on).items()
    ]


def _required(row: FaultType) -> str:
    """An argument for a fault that cannot be written without one."""
    return row.params[0].example if row.params and row.params[0].default is None else ""


def fault_help() -> list[str]:
    """The catalog as lines for a terminal: each fault with its parameters, and below it the expected results.

    Each result says, for an order or a download ("img"), whether the order is billed, which error is raised, and for
    which values of the first parameter.
    """
    return [line for row in CATALOG.values() for line in (f"{row}  {row.doc}", *_expected_lines(row))]


def _expected_lines(row: FaultType) -> Iterator[str]:
    for label, on in _TARGETS.items():
        values: dict[Expected, list[str]] = {}
        for first, expected in row.expected(on).items():
            values.setdefault(expected, []).append(first)
        for expected, firsts in values.items():
            billed = "billed" if expected.billed else "not billed"
            start = f"    {label:5}  {billed:10}  {expected.raises or 'served':28}  "
            yield (
                fill(", ".join(firsts), 100, initial_indent=start, subsequent_indent=" " * len(start)) or start.rstrip()
            )
