"""The classes of a fault: its type (a row of the catalog), its parameters, and its expected result."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.api.responses import Reply

__all__ = [
    "Expected",
    "Fault",
    "FaultContext",
    "FaultType",
    "Param",
    "Percent",
    "Seconds",
    "Target",
    "Value",
    "closest",
    "is_header_name",
]

Target = Literal["generate", "download"]
"""The two kinds of call that can fail: an order (a request for images), and the download of one image."""

Value = str | int | float | bool
"""An argument of a fault. Times are in seconds and shares are fractions: `250ms` is 0.25, and so is `25%`."""


class Seconds(float):
    """A number that was written with a unit of time."""


class Percent(float):
    """A number that was written with a percent sign: `50%` is 0.5."""


@dataclass(frozen=True, kw_only=True)
class Param:
    """A parameter of a fault type.

    Only the first parameter of a type can have a default, and without one it is required. A "whole" number lies between
    `least` and `most`.
    """

    name: str
    kind: Literal["choice", "seconds", "share", "text", "code", "whole", "header"]
    default: Value | None = None
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = 1_000_000

    @property
    def rule(self) -> str:
        """What an argument must be."""
        if self.kind == "whole":
            return f"a whole number from {self.least} to {self.most}"
        return f"one of {', '.join(self.choices)}" if self.choices else _RULES[self.kind][0]

    @property
    def example(self) -> str:
        """A valid argument, as it is written in a script."""
        if self.kind == "whole":
            return str(max(self.least, 1))
        return self.choices[0] if self.choices else _RULES[self.kind][1]

    def convert(self, value: Value) -> Value | None:
        """The argument in the type that effects expect, or None if it breaks the rule."""
        text = value if isinstance(value, str) else ""
        number = value if is_whole(value) or (isinstance(value, float) and math.isfinite(value)) else math.nan
        converted: Value | None = None
        match self.kind:
            case "choice" if not isinstance(value, bool | float) and str(value) in self.choices:
                converted = int(value) if str(value).isdigit() else value
            case "seconds" if 0 <= number <= 86_400 and not isinstance(value, Percent):
                converted = float(value)
            case "share" if 0 < number < 1 and not isinstance(value, Seconds):
                converted = float(value)
            case "text":
                converted = text or None
            case "code":
                # A code of digits is written without quotes, so the script reads a number.
                code = str(value) if is_whole(value) else text
                converted = code if re.fullmatch(r"[\w.-]{1,200}", code, re.ASCII) else None
            case "whole" if is_whole(value) and self.least <= value <= self.most:
                converted = value
            # These two headers frame the body, so the transport computes them.
            case "header" if is_header_name(text) and text.lower() not in ("content-length", "transfer-encoding"):
                converted = text.lower()
            case _:
                pass
        return converted


_RULES: Mapping[str, tuple[str, str]] = {
    "seconds": ("a time from 0s to a day", "1.5s"),
    "share": ("a share between 0% and 100%", "50%"),
    "text": ("a text in double quotes that is not empty", '"some text"'),
    "code": ("a word", "quota_exceeded"),
    "header": ("the name of a header other than content-length and transfer-encoding", '"retry-after"'),
}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected result of a fault.

    Attributes:
        billed: Whether the order is billed.
        raises: The name of the error class that FluxOpenAI raises; None if it raises none.
        billable: Whether a script may set `billed=true`; not if the order never reaches the service.
    """

    billed: bool
    raises: str | None
    billable: bool = True


@dataclass(frozen=True, kw_only=True)
class FaultContext:
    """The call to which a fault applies: its response so far, its request id, and the path and query of its URL."""

    reply: Reply
    request_id: str
    on: Target
    path: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultType:
    """A row of the catalog.

    Attributes:
        name: The name of the fault in scripts.
        doc: What it does, in a few words.
        effect: A function of the FaultContext and the arguments; returns the changed response.
        params: The parameters.
        orders: The expected results for orders, by the value of the first parameter; "" stands for every other value.
            An order whose value is not listed is not billed. Empty if the fault does not apply to orders.
        downloads: The same for downloads.
    """

    name: str
    doc: str
    effect: Callable[..., Reply]
    params: tuple[Param, ...] = ()
    orders: Mapping[str, Expected] = field(default_factory=dict)
    downloads: Mapping[str, Expected] = field(default_factory=dict)

    def __str__(self) -> str:
        """The signature: parameters with their defaults, and those choices that `orders` does not list."""
        texts = []
        for param in self.params:
            default = "" if param.default is None else _value_text(param.default)
            others = [choice for choice in param.choices if choice != default and choice not in self.orders]
            texts.append(f"{param.name}={'|'.join([default, *others])}" if default else param.name)
        return f"{self.name}({', '.join(texts)})".removesuffix("()")

    def expected(self, on: Target) -> Mapping[str, Expected]:
        """What to expect of this kind of call; empty if the fault does not apply to it."""
        return self.orders if on == "generate" else self.downloads


@dataclass(frozen=True, kw_only=True, repr=False)
class Fault:
    """A fault with its arguments, in the order of the parameters; `billed` overrides the default of its type."""

    type: FaultType
    arguments: Mapping[str, Value] = field(default_factory=dict)
    billed: bool | None = None

    def __str__(self) -> str:
        """The fault as it is written in a script."""
        texts = [f"{name}={_value_text(value)}" for name, value in self.arguments.items()]
        texts[:1] = [text.partition("=")[2] for text in texts[:1]]
        texts += [] if self.billed is None else [f"billed={_value_text(self.billed)}"]
        return f"{self.type.name}({', '.join(texts)})".removesuffix("()")

    def __repr__(self) -> str:
        return f"<Fault {self}>"

    @property
    def expected(self) -> Expected | None:
        """The expected result of an order with this fault; None if the catalog does not list its first argument."""
        first = next(iter(self.arguments.values()), None)
        return self.type.orders.get(str(first)) or self.type.orders.get("")

    @property
    def bills(self) -> bool:
        """Whether an order with this fault is billed."""
        return bool(self.expected and self.expected.billed) if self.billed is None else self.billed


def _value_text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    # Without quotes, a text such as "5" or "true" would be read as a number or a boolean.
    plain = isinstance(value, int) or (_WORD.fullmatch(value) and value not in ("true", "false"))
    return str(value) if plain else json.dumps(value)


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def is_header_name(name: object) -> TypeGuard[str]:
    """Whether HTTP allows this name for a header."""
    return isinstance(name, str) and re.fullmatch(r"[\w!#$%&'*+.^`|~-]{1,200}", name, re.ASCII) is not None


def closest(value: object, choices: Iterable[str]) -> str:
    """The choice most similar to the value, for the hint in an error message."""
    return difflib.get_close_matches(str(value), list(choices), n=1, cutoff=0)[0]
