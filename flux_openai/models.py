"""The table of models: one row per model, with its request fields and their limits as the service documents them.

Validation, the emulator, the command line and the tool schemas read this table; it contains no logic. Every rule names
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
    "AspectRatio",
    "FluxField",
    "FluxModel",
    "FluxParams",
    "Price",
    "ResponseFormat",
]

AspectRatio = Literal["21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21"]
ResponseFormat = Literal["url", "b64_json"]


class FluxParams(TypedDict, total=False):
    """The types of the FLUX parameters, except images, for the signatures of `images.generate` and `images.edit`.

    Their limits are in the rows below; a test checks that both have the same parameters.
    """

    n: "int | None | Omit"
    aspect_ratio: "AspectRatio | None | Omit"
    size: "str | None | Omit"
    strength: "float | None | Omit"
    seed: "int | None | Omit"
    steps: "int | None | Omit"
    guidance_scale: "float | None | Omit"
    negative_prompt: "str | None | Omit"
    response_format: "ResponseFormat | None | Omit"


DEFAULT_MODEL = "black-forest-labs/flux-kontext-max/text-to-image"

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
        return f"{self.amount} {self.currency}"


@dataclass(frozen=True, kw_only=True)
class FluxField:
    """One request field of a model.

    Attributes:
        name: The name of the field in the JSON body.
        type: Its Python type.
        doc: One sentence on what the field does.
        hint: What to do instead if the limits are too narrow; appended to the error message.
        format: What the text, or each text of a list, contains: "image" (a link or a data URI), "ratio"
            ("width:height") or "size" ("WIDTHxHEIGHT").
        required: Whether a request without the field is refused.
        blank: Whether a text may be empty or whitespace.
        minimum: The smallest value, inclusive; for a size, of each side in pixels; for a list, the number of items.
        maximum: The largest value, inclusive, in the same units.
        choices: The values allowed; empty if there is no list of them.
        default: The value that the service documents for a field that is left out.
        enforced: Whether a value outside the limits is refused ("error") or sent with a FluxWarning ("warn").
        source: The page that states the limits.
    """

    name: str
    type: type[str] | type[int] | type[float] | type[list[str]]
    doc: str
    hint: str = ""
    format: Literal["image", "ratio", "size"] | None = None
    required: bool = False
    blank: bool = True
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[str, ...] = ()
    default: str | int | float | None = None
    enforced: Literal["error", "warn"] = "error"
    source: str = MODEL_PAGE


@dataclass(frozen=True, kw_only=True)
class FluxModel:
    """One model.

    Attributes:
        id: The full name, as it is sent in `model`.
        family: The short name that the model shares with models of the same kind that take other images. As `model=` it
            selects the one that takes the images of the call.
        fields: The request fields by name, in the order of the model's page.
        source: The page that documents the model.
        price: The price of one image; None if no page states it.
    """

    id: str
    family: str
    fields: Mapping[str, FluxField]
    source: str
    price: Price | None = None


def _row(family: str, id: str, *fields: FluxField, price: Price | None = None) -> FluxModel:
    by_name, source = MappingProxyType({field.name: field for field in fields}), f"{id} API: Request Parameters"
    return FluxModel(id=id, family=family, fields=by_name, source=source, price=price)


def _listed_price(amount: str) -> Price:
    return Price(amount=Decimal(amount), currency="CNY", date="2026-03-24", source=PRICE_PAGE)


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
_DRAWING = (
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
