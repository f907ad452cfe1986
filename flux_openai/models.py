"""The table of models: one row per model, with its request fields and their limits as the service documents them.

Validation, the emulator, the command line and the tool schemas read this table; it decides nothing. Every rule names
the page it comes from. A value that breaks a rule of the model's own page is refused. A value that breaks a rule of the
provider's general page only gets a warning, because that page contradicts the model pages elsewhere.

Example:
    FLUX_MODELS["black-forest-labs/flux.1-dev"].fields["steps"].maximum  # 50
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

if TYPE_CHECKING:
    from openai import Omit

__all__ = [
    "DEFAULT_MODEL",
    "FAMILIES",
    "FLUX_MODELS",
    "GENERATIONS",
    "AspectRatio",
    "FluxField",
    "FluxModel",
    "FluxParams",
    "OutputFormat",
    "Price",
    "ResponseFormat",
]

AspectRatio = Literal["21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21"]
ResponseFormat = Literal["url", "b64_json"]
OutputFormat = Literal["png", "webp", "jpeg", "gif", "svg"]
"""The formats that the SDK knows; a FLUX model with this parameter takes "png" and "jpeg"."""


class FluxParams(TypedDict, total=False):
    """The types of the FLUX parameters, except images, for the signatures of `images.generate` and `images.edit`.

    Their limits are in the rows below; a test checks that both have the same parameters.
    """

    n: "int | None | Omit"
    aspect_ratio: "AspectRatio | str | None | Omit"
    size: "str | None | Omit"
    width: "int | None | Omit"
    height: "int | None | Omit"
    strength: "float | None | Omit"
    seed: "int | None | Omit"
    steps: "int | None | Omit"
    guidance_scale: "float | None | Omit"
    negative_prompt: "str | None | Omit"
    safety_tolerance: "int | None | Omit"
    prompt_upsampling: "bool | None | Omit"
    output_format: "OutputFormat | None | Omit"
    response_format: "ResponseFormat | None | Omit"


DEFAULT_MODEL = "black-forest-labs/flux-kontext-max/text-to-image"

GENERATIONS = "/images/generations"
"""The path of the models that a request names in `model`, behind the base_url."""

MODEL_PAGE = "the model's own page"
GENERAL_PAGE = "the provider's general page for image models"
PRICE_PAGE = "the provider's price page"

_AMOUNT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([A-Z]{3})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of an image, or of several, by which costs are estimated.

    The service sends no price with its answers, bills by the hour, and may change its prices.

    Attributes:
        amount: How much, in units of the currency.
        currency: The currency by its three letters, such as "CNY".
        date: The day on which the page with this price was changed last, such as "2026-03-24"; empty for your own.
        source: The page that states it; empty for your own.

    Example:
        Price.of("0.70 CNY").for_images(3)  # prints as 2.10 CNY
    """

    amount: Decimal
    currency: str
    date: str = ""
    source: str = ""

    @classmethod
    def of(cls, text: str) -> "Price":
        """The price in a text such as "0.70 CNY". Raises ValueError."""
        match = _AMOUNT.fullmatch(text.strip())
        if match is None:
            raise ValueError("must be an amount and the three letters of a currency, such as '0.70 CNY'")
        return cls(amount=Decimal(match[1]), currency=match[2])

    def for_images(self, count: int) -> "Price":
        """The price of so many images."""
        return replace(self, amount=self.amount * count)

    def __str__(self) -> str:
        """Amount and currency, as `Price.of` reads them."""
        return f"{self.amount:f} {self.currency}"


@dataclass(frozen=True, kw_only=True)
class FluxField:
    """One request field of a model.

    Attributes:
        name: The name of the field, and of the parameter.
        type: Its Python type.
        doc: One sentence on what the field does.
        hint: What to do instead if the limits are too narrow; appended to the error message.
        sent_as: The names in the JSON body, where they are others: several for a list whose items have a name each,
            none (an empty tuple) for a field that is not sent. None stands for the field's own name. Only models with
            a path of their own have other names.
        format: What the text, or each text of a list, contains: "image" (a link or a data URI), "ratio"
            ("width:height") or "size" ("WIDTHxHEIGHT").
        links: For an image: whether it may be a link. If not, it is sent as plain base64, and not as a data URI.
        required: Whether a request without the field is refused.
        blank: Whether a text may be empty or whitespace.
        minimum: The smallest value, inclusive; for a size, of each side in pixels; for a list, the number of items.
        maximum: The largest value, inclusive, in the same units.
        multiple_of: The value, or each side of a size, is a multiple of this number.
        choices: The values allowed; empty if there is no list of them.
        between: For ratios: whether every other ratio between the first and the last choice is allowed too.
        default: The value that the service documents for a field that is left out.
        enforced: Whether a value outside the limits is refused ("error") or sent with a FluxWarning ("warn").
        source: The page that states the limits.
    """

    name: str
    type: type[str] | type[int] | type[float] | type[bool] | type[list[str]]
    doc: str
    hint: str = ""
    sent_as: tuple[str, ...] | None = None
    format: Literal["image", "ratio", "size"] | None = None
    links: bool = True
    required: bool = False
    blank: bool = True
    minimum: int | float | None = None
    maximum: int | float | None = None
    multiple_of: int | None = None
    choices: tuple[str, ...] = ()
    between: bool = False
    default: str | int | float | None = None
    enforced: Literal["error", "warn"] = "error"
    source: str = MODEL_PAGE


@dataclass(frozen=True, kw_only=True)
class FluxModel:
    """One model.

    Attributes:
        id: The full name. It is sent in `model`, unless the model has a path of its own, which names it.
        family: The short name that the model shares with models of the same kind that take other images. As `model=` it
            selects the one that takes the images of the call.
        fields: The request fields by name, in the order of the model's page.
        source: The page that documents the model.
        path: The path of its requests, behind the base_url.
        answer: The fields of its answers, spelt as the service spells them.
        link_days: How many days the links in its answers work; None if they hold the images themselves.
        price: The price of one image; None if no page states it.
    """

    id: str
    family: str
    fields: Mapping[str, FluxField]
    source: str
    path: str = GENERATIONS
    answer: tuple[str, ...] = ("created", "data", "usage")
    link_days: int | None = 7
    price: Price | None = None


def _row(family: str, id: str, *fields: FluxField, price: Price | None = None) -> FluxModel:
    by_name, source = MappingProxyType({field.name: field for field in fields}), f"{id} API: Request Parameters"
    return FluxModel(id=id, family=family, fields=by_name, source=source, price=price)


def _listed_price(amount: str) -> Price:
    return Price(amount=Decimal(amount), currency="CNY", date="2026-03-24", source=PRICE_PAGE)


def _row_with_path(name: str, *fields: FluxField, answer: tuple[str, ...] = ()) -> FluxModel:
    """The row of a model whose name is also its path."""
    return replace(_row(name, name, *fields), path=f"/{name}", answer=("createed", "data", *answer), link_days=None)


_PROMPT = FluxField(name="prompt", type=str, required=True, blank=False, doc="What to draw.")
_CHANGE = FluxField(name="prompt", type=str, blank=False, doc="What to change about the image.")

_WITHOUT = "without one, name a text-to-image model"
_IMAGE = FluxField(name="image", type=str, format="image", required=True, doc="The image to change.", hint=_WITHOUT)
_IMAGES = FluxField(
    name="images", type=list, format="image", required=True, minimum=1, doc="The images to combine.", hint=_WITHOUT
)
_STRENGTH = FluxField(
    name="strength",
    type=float,
    minimum=0,
    maximum=1,
    default=0.8,
    doc="How far the picture may depart from the image.",
)

_ASPECT_RATIO = FluxField(
    name="aspect_ratio",
    type=str,
    format="ratio",
    choices=get_args(AspectRatio),
    default="1:1",
    doc="Width to height.",
)
_SIZE = FluxField(
    name="size",
    type=str,
    format="size",
    minimum=256,
    maximum=1536,
    default="1024x1024",
    doc="WIDTHxHEIGHT in pixels.",
)

_N = FluxField(
    name="n",
    type=int,
    minimum=1,
    maximum=4,
    default=1,
    doc="Number of images.",
    hint="for more, split=True makes them in several calls, side by side",
)
_SEED = FluxField(
    name="seed",
    type=int,
    minimum=-1,
    maximum=2**31 - 1,
    default=-1,
    enforced="warn",
    source=GENERAL_PAGE,
    doc="Same seed, same picture; -1 draws a new one each time.",
)
_RESPONSE_FORMAT = FluxField(
    name="response_format",
    type=str,
    choices=get_args(ResponseFormat),
    default="url",
    doc="A link that lives 7 days, or the image itself as base64.",
)
_DRAWING = (
    _SEED,
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
    _RESPONSE_FORMAT,
)

# The models with a path of their own make one image for each request, and answer with the image itself.
_WITH_PATH = (
    replace(_N, maximum=1, sent_as=()),
    replace(_SEED, default=None),
    FluxField(
        name="safety_tolerance",
        type=int,
        minimum=0,  # one page has "1-6" in its table, and calls 0 the strictest
        maximum=6,
        doc="How much the content check lets through; 0 is the strictest.",
    ),
    FluxField(
        name="output_format", type=str, choices=("jpeg", "png"), default="png", doc="The type of the image's file."
    ),
    replace(
        _RESPONSE_FORMAT,
        choices=("b64_json",),
        default="b64_json",
        sent_as=(),
        hint="the answer of this model is always the image itself",
    ),
)
_UPSAMPLING = FluxField(
    name="prompt_upsampling", type=bool, default=False, doc="Whether the service may add detail to the prompt."
)


def _inputs(count: int) -> FluxField:
    """The field for up to so many images, each with a name of its own in the body."""
    names = ("input_image", *(f"input_image_{number}" for number in range(2, count + 1)))
    return replace(_IMAGES, required=False, maximum=count, links=False, sent_as=names, hint="")


def _sides(low: int, high: int | None) -> tuple[FluxField, FluxField]:
    """The fields for width and height."""
    width = FluxField(name="width", type=int, minimum=low, maximum=high, multiple_of=32, doc="Width in pixels.")
    return width, replace(width, name="height", doc="Height in pixels.")


_TEXT_TO_IMAGE = (_PROMPT, _N, _ASPECT_RATIO, *_DRAWING)
_ONE_IMAGE = (_CHANGE, _IMAGE, _N, _STRENGTH, *_DRAWING)
_SEVERAL_IMAGES = (_CHANGE, _IMAGES, _N, _ASPECT_RATIO, *_DRAWING)

_KONTEXT_MAX_PRICE, _KONTEXT_PRO_PRICE = _listed_price("0.70"), _listed_price("0.35")

_ROWS = (
    _row("kontext-max", DEFAULT_MODEL, *_TEXT_TO_IMAGE, price=_KONTEXT_MAX_PRICE),
    _row("kontext-max", "black-forest-labs/flux-kontext-max", *_ONE_IMAGE, price=_KONTEXT_MAX_PRICE),
    _row("kontext-max", "black-forest-labs/flux-kontext-max/multi", *_SEVERAL_IMAGES, price=_KONTEXT_MAX_PRICE),
    _row("kontext-pro", "black-forest-labs/flux-kontext-pro/text-to-image", *_TEXT_TO_IMAGE, price=_KONTEXT_PRO_PRICE),
    _row("kontext-pro", "black-forest-labs/flux-kontext-pro", *_ONE_IMAGE, price=_KONTEXT_PRO_PRICE),
    _row("kontext-pro", "black-forest-labs/flux-kontext-pro/multi", *_SEVERAL_IMAGES, price=_KONTEXT_PRO_PRICE),
    _row(
        "flux-dev",
        "black-forest-labs/flux.1-dev",
        _PROMPT,
        replace(_IMAGE, required=False, doc="An image to start from.", hint=""),
        _N,
        _SIZE,
        _STRENGTH,
        *_DRAWING,
        price=_listed_price("0.10"),
    ),
    _row_with_path(
        "flux-2-pro",
        _PROMPT,
        _inputs(8),
        *_sides(64, None),
        *_WITH_PATH,
        answer=("input_mp", "output_mp", "total_pixels"),
    ),
    _row_with_path(
        "flux-kontext-pro",
        _PROMPT,
        _inputs(4),
        replace(_ASPECT_RATIO, between=True, default=None),
        _UPSAMPLING,
        *_WITH_PATH,
    ),
    _row_with_path(
        "flux-pro-1.1",
        _PROMPT,
        replace(_IMAGE, required=False, links=False, sent_as=("image_prompt",), doc="An image to go by.", hint=""),
        *_sides(256, 1440),
        _UPSAMPLING,
        *_WITH_PATH,
    ),
)

FLUX_MODELS: Mapping[str, FluxModel] = MappingProxyType({model.id: model for model in _ROWS})
"""All known models by their full name."""

FAMILIES: Mapping[str, tuple[FluxModel, ...]] = MappingProxyType(
    {
        family: tuple(model for model in _ROWS if model.family == family)
        for family in dict.fromkeys(m.family for m in _ROWS)
    }
)
"""The models by the short name of their family."""
