"""Unsupported options: what `unsupported=` does with options that a model does not take."""

import json
from collections.abc import Iterator
from difflib import get_close_matches

from flux_openai._http.redaction import redact_value, redacted_repr
from flux_openai.errors import InvalidParam, listed
from flux_openai.models import FluxModel
from flux_openai.request.model_choice import IMAGE_FIELDS, models_with_field
from flux_openai.request.modes import Unsupported
from flux_openai.request.size import nearest_size

__all__ = ["handle_unsupported"]

_NEVER = {
    "stream": "FLUX answers are not streamed; leave it out",
    "partial_images": "FLUX answers are not streamed; leave it out",
}
_OPENAI_ONLY = frozenset(
    {
        "background",
        "complexity",
        "frame_count",
        "frame_duration_ms",
        "input_fidelity",
        "markup",
        "mask",
        "moderation",
        "output_compression",
        "output_format",
        "quality",
        "safety_identifier",
        "style",
        "svg",
        "user",
    }
)


def handle_unsupported(
    values: dict[str, object], model: FluxModel, unsupported: Unsupported, faults: list[InvalidParam]
) -> tuple[dict[str, object], list[str]]:
    """Move the options that the model has no field for out of `values`.

    Returns the options to send unchecked, and a notice for each that is left out. Each that is refused adds an
    InvalidParam to `faults`.
    """
    unknown = {name: values.pop(name) for name in list(values) if name not in model.fields}
    if not unknown:
        return {}, []
    never = {name: unknown.pop(name) for name in _NEVER if name in unknown}
    faults += [
        InvalidParam(param=name, value=value, rule=_NEVER[name]) for name, value in never.items() if value is not False
    ]
    # Images are refused whatever the setting: without them the answer would be paid for and useless.
    images = {name: unknown.pop(name) for name in IMAGE_FIELDS if name in unknown}
    faults += [_image_fault(name, value, model, beside=values.keys() & IMAGE_FIELDS) for name, value in images.items()]
    if unsupported == "error":
        faults += [_fault(name, value, model) for name, value in unknown.items()]
    if unsupported == "send":
        faults += [fault for name, value in unknown.items() for fault in _json_faults(name, value)]
        return unknown, []
    notices = [
        f"{name}={redacted_repr(value, name=name)} was left out: {model.id} does not take it"
        for name, value in unknown.items()
    ]
    return {}, notices if unsupported == "warn" else []


def _image_fault(name: str, image: object, model: FluxModel, *, beside: set[str]) -> InvalidParam:
    # By now the image is a data URI of megabytes or a signed link: the error must carry neither.
    value = redact_value(str(image) if isinstance(image, str) else image)
    if beside:
        return InvalidParam(param=name, value=value, rule=f"cannot be given beside {min(beside)}; give one of them")
    others = models_with_field(name, instead_of=model)
    return InvalidParam(param=name, value=value, rule=_not_taken(model, others), nearest=f"model={others[0]!r}")


def _fault(name: str, value: object, model: FluxModel) -> InvalidParam:
    ways = "leave it out, or set unsupported= to 'warn', 'drop' or 'send'"
    others = models_with_field(name, instead_of=model)
    if name == "aspect_ratio" and (size := model.fields.get("size")) is not None:
        near = nearest_size(value, low=int(size.minimum or 0), high=int(size.maximum or 0), largest=True)
        return InvalidParam(param=name, value=value, rule="this model takes a size", nearest=near and f"size={near!r}")
    if others:
        return InvalidParam(param=name, value=value, rule=f"{_not_taken(model, others)}; {ways}")
    close = get_close_matches(name, model.fields, n=1)
    reason = "is an option of OpenAI's own models" if name in _OPENAI_ONLY else "is no parameter of this model"
    suggestion = f"; did you mean {close[0]}?" if close else ""
    return InvalidParam(param=name, value=value, rule=f"{reason}{suggestion}; {ways}")


def _not_taken(model: FluxModel, others: list[str]) -> str:
    return f"is not taken by {model.id}, but by {listed(others)}"


def _json_faults(name: str, value: object) -> Iterator[InvalidParam]:
    rule = "must be something JSON can hold"
    try:
        json.dumps({name: value}, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        yield InvalidParam(param=name, value=value, rule=f"{rule}; it has half of a surrogate pair in it")
    except (TypeError, ValueError, RecursionError):
        yield InvalidParam(param=name, value=value, rule=rule)
