"""The error object of an answer: its message, code, type and request id, in the forms that services and gateways use.

The documented form is `{"error": {"message", "type", "param", "code"}}`. Gateways and other OpenAI-compatible services
also write `{"detail": …}`, `{"errors": […]}`, `{"base_resp": {"status_code", "status_msg"}}`, `{"code", "message"}`, or
an error in an item of `data`. Names are compared in lower case and without underscores. The texts are a server's:
whoever prints them passes them through `redaction.printable` first.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from flux_openai._http.redaction import identifier
from flux_openai.models import FLUX_MODELS

__all__ = [
    "ErrorDetails",
    "error_details",
    "error_of_answer",
    "moderation_flags",
    "request_id_of",
    "said_of_image",
    "words_of_answer",
]

_DEPTH = 6
"""How deep an error object is searched: deeper JSON is no error object."""

_TEXT_LIMIT = 4000
"""How many characters of one text are used; a message shows far fewer."""

_MOST_TEXTS = 50
"""How many texts of a list are joined."""


@dataclass(frozen=True, kw_only=True)
class ErrorDetails:
    """What an error object says.

    Attributes:
        message: All texts that say what went wrong; empty if there are none.
        code: The code as text.
        type: The type as text.
        param: The field `param`; the service puts the request id there, others the name of a parameter.
        request_id: The field `request_id` or `trace_id`.
    """

    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None


def error_details(body: object) -> ErrorDetails:
    """What the body of an error, or the error object in it, says."""
    return ErrorDetails(
        message=_message_or_fields(body),
        code=_find(body, *_CODE_FIELDS, "statuscode") or _word_of_error(body),
        type=_find(body, "type", "errortype"),
        param=_find(body, "param"),
        request_id=_find(body, "requestid", "traceid"),
    )


def _plain_name(name: str) -> str:
    return name.replace("_", "").lower()


def _plain_names(fields: Mapping[str, object]) -> dict[str, object]:
    return {_plain_name(name): value for name, value in fields.items()}


_MESSAGE_FIELDS = (
    *("message", "msg", "errormessage", "errormsg", "statusmsg", "errordescription", "detail", "title"),
    *("failurereason", "reason"),
)


def _message(value: object, depth: int = _DEPTH) -> str:
    """The texts of an error object: `error` first, then the first field that has a message, then `errors`."""
    match value:
        case str():
            return _text(value)
        case int() | float() if not isinstance(value, bool):
            return _number(value)
        case list() if depth:
            return _joined((_message_or_fields(item, depth - 1) for item in value), by="; ")
        case dict() if depth:
            fields = _plain_names(value)
            error, base_resp = fields.get("error"), fields.get("baseresp")
            said = (_message_or_fields(field, depth - 1) for name in _MESSAGE_FIELDS if (field := fields.get(name)))
            texts = (
                _message(error, depth - 1) if _says_something(error) else "",
                next(filter(None, said), ""),
                _message(base_resp, depth - 1) if _says_something(base_resp) else "",
                _message_or_fields(errors, depth - 1) if (errors := fields.get("errors")) else "",
                _message([*_item_errors(fields)], depth - 1),
            )
            where = fields.get("loc")  # FastAPI: {"loc": ["body", "prompt"], "msg": "…"}
            path = ".".join(str(part) for part in where if part != "body") if isinstance(where, list) else ""
            return _joined((path, _joined(texts, by=": ")), by=": ")
        case _:
            return ""


def _message_or_fields(value: object, depth: int = _DEPTH) -> str:
    """The texts of an error object; without any, its fields: `code: quota_exceeded`, or `prompt: is too long`."""
    if message := _message(value, depth):
        return message
    # Without the limit, the time would double with every level of nesting.
    fields: Mapping[str, object] = value if isinstance(value, dict) and depth else {}
    for name in ("error", "detail"):
        if isinstance(inner := fields.get(name), dict):
            fields = inner
    return _joined((f"{name}: {text}" for name, item in fields.items() if (text := _message(item, depth - 1))), by="; ")


def _text(value: str) -> str:
    # JSON can hold half a surrogate pair, which cannot be printed.
    return value[:_TEXT_LIMIT].encode("utf-8", "replace").decode().strip()


def _number(value: float) -> str:
    # Python refuses to print an integer of thousands of digits.
    return "a huge number" if isinstance(value, int) and value.bit_length() > 256 else str(value)


def _joined(texts: Iterable[str], *, by: str) -> str:
    """The first texts in one, without those that another one contains."""
    kept: list[str] = []
    for text in islice(texts, _MOST_TEXTS):
        if text and not any(text in other for other in kept):
            kept = [*(other for other in kept if other not in text), text]
    return by.join(kept)


def _find(value: object, *names: str, depth: int = _DEPTH) -> str | None:
    """The first of these fields in an error object: in what it contains first, then in the object itself."""
    if not isinstance(value, dict) or not depth:
        return None
    fields = _plain_names(value)
    for container in ("error", "baseresp", "detail", "message"):
        if (found := _find(fields.get(container), *names, depth=depth - 1)) is not None:
            return found
    for name in names:
        field = fields.get(name)
        if isinstance(field, str | int) and not isinstance(field, bool) and field != "":
            return _text(field) if isinstance(field, str) else _number(field)
    # Several errors have a code together only if it is the same one: another code can mean another bill.
    errors = fields.get("errors")
    inside = [*(errors if isinstance(errors, list) else ()), *_item_errors(fields)]
    found_inside = {_find(error, *names, depth=depth - 1) for error in inside}
    return found_inside.pop() if len(found_inside) == 1 else None


def _word_of_error(value: object) -> str | None:
    """The code in `{"error": "insufficient_quota", "message": "…"}`; None if `error` is a sentence."""
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, str) and re.fullmatch(r"[A-Za-z][\w.-]{2,60}", error, re.ASCII) else None


def _item_errors(fields: Mapping[str, object]) -> Iterator[object]:
    """The errors in the items of `data`."""
    data = fields.get("data")
    for item in data if isinstance(data, list) else ():
        if isinstance(item, dict) and (error := _item_error(item)) is not None:
            yield error


_FINE = frozenset(
    {"", "0", "ok", "okay", "success", "succeeded", "successful", "done", "completed", "complete", "finished", "normal"}
    | {"none", "null", "nil", "false", "no error", "no_error", "noerror", "n/a", "stop", "pass", "passed", "safe"}
    | {"allow", "allowed", "approved", "clean"}
)
"""Texts that say that nothing went wrong."""


def _says_something(value: object, depth: int = _DEPTH) -> bool:
    """Whether the value of an error field tells of an error; `null`, `{}`, 0, "success" and `{"code": 0}` do not."""
    match value:
        case str():
            return value.strip(" \t\r\n.!").lower() not in _FINE and not re.fullmatch(r"\s*2[0-9]{2}\s*", value)
        case bool() | None:
            return bool(value)
        case int() | float():
            return value != 0 and not 200 <= value < 300
        case list() if depth:
            return any(_says_something(item, depth - 1) for item in value)
        case dict() if depth:
            ids = ("param", "requestid", "traceid")
            return any(
                _says_something(item, depth - 1) for name, item in _plain_names(value).items() if name not in ids
            )
        case _:
            return bool(value)


_CODE_FIELDS = ("code", "errorcode", "errcode")


def _has_error(answer: Mapping[str, object]) -> bool:
    """Whether a success, or one image in it, also tells of an error: in `error`, `errors`, `base_resp` or a code."""
    fields = _plain_names(answer)
    base_resp = fields.get("baseresp")
    if isinstance(base_resp, dict) and _says_something(_plain_names(base_resp).get("statuscode")):
        return True
    codes = [code for name in _CODE_FIELDS if not isinstance(code := fields.get(name), bool)]
    return any(map(_says_something, [fields.get("error"), fields.get("errors"), *codes]))


_SILENT_FIELDS = frozenset({"created", "usage"})
_IMAGE_FIELDS = frozenset({"url", "b64_json", "revised_prompt"})


def _item_error(item: Mapping[str, object]) -> object | None:
    """The error in one item of `data`; None if there is none."""
    if item.keys() <= _IMAGE_FIELDS or not _has_error(item):
        return None
    if _says_something(error := item.get("error")) and not item.get("message"):
        return error
    return {name: value for name, value in item.items() if name not in _IMAGE_FIELDS}


def error_of_answer(answer: Mapping[str, object], items: Sequence[object] = ()) -> Mapping[str, object] | None:
    """The error that a success tells of, for `error_details`; None if there is none.

    `items` are those of `data` if no image is usable: the error is then that of the items, if each of them has one.
    """
    if not items and answer.keys() <= _SILENT_FIELDS:
        return None
    if _has_error(answer):
        return {name: value for name, value in answer.items() if name not in _SILENT_FIELDS}
    errors = [_item_error(item) if isinstance(item, dict) else None for item in items]
    return {"errors": errors} if errors and None not in errors else None


def said_of_image(item: Mapping[str, object]) -> list[str]:
    """What one item of `data` says beside its image: an error, or the flags of moderation."""
    if item.keys() <= _IMAGE_FIELDS:
        return []
    error = _item_error(item)
    if error is None and not item.get("url") and not item.get("b64_json"):
        error = {name: value for name, value in item.items() if _plain_name(name) in _MESSAGE_FIELDS}
    text = "" if error is None else error_details(error).message
    return [f"the service says {said}" for said in (text, *moderation_flags(item)) if said]


def words_of_answer(answer: Mapping[str, object]) -> str:
    """What an answer without images and without an error says, in `message` or `detail`; "success" is left out."""
    text = _message(answer)
    return text if _says_something(text) else ""


_FLAG = re.compile(r"nsfw|flagged|moderated|blocked|filtered|censored|unsafe")
_FLAG_IN_GROUP = re.compile(rf"{_FLAG.pattern}|detected|violation|sensitive")
_VERDICT = re.compile(r"(finish|block|filtered|moderation)reason|moderationstatus")
_FLAG_GROUP = re.compile(r"moderation|safety|filter|nsfw")
_ANSWER_FIELDS = frozenset({"created", "data", "usage", "error"})


def moderation_flags(fields: Mapping[str, object]) -> list[str]:
    """What moderation says about an answer or one item of it, as `name: value`; nothing for flags that are not set."""
    if fields.keys() <= _IMAGE_FIELDS or fields.keys() <= _ANSWER_FIELDS:
        return []
    return list(_flags(fields, _DEPTH))


def _flags(fields: Mapping[str, object], depth: int) -> Iterator[str]:
    for name, value in fields.items():
        plain = _plain_name(name)
        if isinstance(value, str) and _VERDICT.search(plain):
            if _says_something(value):
                yield f"{name}: {_text(value)}"
        elif isinstance(value, str) and plain in ("action", "state", "status"):
            if _FLAG.search(value.lower()):
                yield f"{name}: {_text(value)}"
        elif _FLAG_GROUP.search(plain) and isinstance(value, dict) and depth:
            for flag in _flags(value, depth - 1):
                yield f"{name}.{flag}"
        elif (_FLAG if depth == _DEPTH else _FLAG_IN_GROUP).search(plain) and _is_set(value):
            yield f"{name}: {_flag_text(value)}"
        elif isinstance(value, dict) and depth and depth < _DEPTH:
            for flag in _flags(value, depth - 1):  # {"content_filter_results": {"hate": {"filtered": true}}}
                yield f"{name}.{flag}"


def _is_set(value: object) -> bool:
    """Whether a flag is set. A number other than 1 is a score, which says nothing without its threshold."""
    if isinstance(value, list):
        return any(map(_is_set, value))
    return value is True or value == 1 or (isinstance(value, str) and value.lower() in ("true", "yes", "1", "nsfw"))


def _flag_text(value: object) -> str:
    """The value of a flag; of a list with one flag per image, the numbers of those that are set."""
    if isinstance(value, list):
        return "image " + ", ".join(str(index) for index, flag in enumerate(value) if _is_set(flag))
    return "true" if value is True else str(value)


_PARAMETERS = frozenset(
    {
        name
        for model in FLUX_MODELS.values()
        for field in model.fields.values()
        for name in (field.name, *(field.sent_as or ()))
    }
    | {"background", "body", "extra_body", "input", "mask", "messages", "model", "n", "output_format", "prompt"}
    | {"quality", "response_format", "size", "stream", "style", "user"}
)


def request_id_of(details: ErrorDetails, *, header: str | None, sent: Iterable[str] = ()) -> str | None:
    """The request id: the error's `param` unless that names a parameter, else the header's, else a field `request_id`.

    `header` is the X-Request-Id, and `sent` are the names of the parameters that were sent.
    """
    param = identifier(details.param)
    if param is not None and not _names_parameter(param, sent, likely=identifier(header) is not None):
        return param
    return identifier(header) or identifier(details.request_id)


def _names_parameter(param: str, sent: Iterable[str], *, likely: bool) -> bool:
    """Whether a `param` such as "prompt", "images[0]" or "body.seed" names a parameter; any bare word if `likely`."""
    names = [name for name in re.split(r"[.\[\]/]", param) if name]
    return not _PARAMETERS.union(sent).isdisjoint(names) or (
        likely and re.fullmatch(r"[A-Za-z_]+([.\[/][A-Za-z_0-9\]]*)*", param) is not None
    )
