"""What the service says about each model: one row per model, facts and nothing else.

Every rule names the page it comes from. A rule that stands on the model's own page refuses; a rule that stands only on
the provider's general page, which contradicts the model pages elsewhere, warns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

__all__ = ["DEFAULT_MODEL", "FLUX_MODELS", "AspectRatio", "FluxField", "FluxModel", "ResponseFormat"]

AspectRatio = Literal["21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21"]
ResponseFormat = Literal["url", "b64_json"]

DEFAULT_MODEL = "black-forest-labs/flux-kontext-max/text-to-image"

MODEL_PAGE = "the model's own page"
GENERAL_PAGE = "the provider's general page for image models"


@dataclass(frozen=True, kw_only=True)
class FluxField:
    """One request field of a model.

    `minimum` and `maximum` are inclusive; `default` is what the service documents for a field that is left out.
    `enforced` says whether a value outside the limits is refused ("error") or only remarked on ("warn"); `source` is
    the page that states the limits; `hint` tells what to do instead when the limits are too narrow.
    """

    name: str
    type: type[str] | type[int] | type[float]
    doc: str
    hint: str = ""
    required: bool = False
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[str, ...] = ()
    default: str | int | float | None = None
    enforced: Literal["error", "warn"] = "error"
    source: str = MODEL_PAGE


@dataclass(frozen=True, kw_only=True)
class FluxModel:
    """One model: its full name on the wire and its fields by name, in the order of its page."""

    id: str
    fields: Mapping[str, FluxField]
    source: str


def _row(id: str, source: str, *fields: FluxField) -> FluxModel:
    return FluxModel(id=id, fields=MappingProxyType({field.name: field for field in fields}), source=source)


_COMMON = (
    FluxField(name="prompt", type=str, required=True, doc="What to draw."),
    FluxField(
        name="n",
        type=int,
        minimum=1,
        maximum=4,
        default=1,
        doc="Number of images.",
        hint="for more, make several calls, each with a seed of its own",
    ),
    FluxField(
        name="seed",
        type=int,
        minimum=-1,
        maximum=2**31 - 1,
        default=-1,
        enforced="warn",
        source=GENERAL_PAGE,
        doc="Same seed, same picture; -1 draws a new one each time.",
    ),
    FluxField(name="steps", type=int, minimum=1, maximum=50, default=20, doc="Number of inference steps."),
    FluxField(
        name="guidance_scale",
        type=float,
        minimum=1,
        maximum=10,
        default=2.5,
        doc="How closely the picture follows the prompt.",
    ),
    FluxField(name="negative_prompt", type=str, doc="What must not appear."),
    FluxField(
        name="response_format",
        type=str,
        choices=get_args(ResponseFormat),
        default="url",
        doc="A link that lives 7 days, or the image itself as base64.",
    ),
)

_ASPECT_RATIO = FluxField(
    name="aspect_ratio",
    type=str,
    choices=get_args(AspectRatio),
    default="1:1",
    doc="Width to height.",
)

FLUX_MODELS: Mapping[str, FluxModel] = MappingProxyType(
    {
        model.id: model
        for model in (
            _row(
                DEFAULT_MODEL,
                "black-forest-labs/flux-kontext-max/text-to-image API: Request Parameters",
                *_COMMON,
                _ASPECT_RATIO,
            ),
            _row(
                "black-forest-labs/flux-kontext-pro/text-to-image",
                "black-forest-labs/flux-kontext-pro/text-to-image API: Request Parameters",
                *_COMMON,
                _ASPECT_RATIO,
            ),
        )
    }
)
"""All known models by their full name."""
