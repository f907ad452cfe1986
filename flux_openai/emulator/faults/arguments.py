"""The arguments of acts: their kinds, what is checked of each, and how they are written in a script."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeGuard

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.faults.queue import is_header_name

__all__ = ["Param", "Percent", "Problem", "Seconds", "Value", "example", "rule", "value_of", "value_text"]

Value = str | int | float | bool
"""An argument. Seconds and shares are floats: `250ms` is 0.25, and so is `25%`."""

Sort = Literal["choice", "seconds", "share", "text", "code", "whole", "header"]


class Seconds(float):
    """A number that was written with a unit of time."""


class Percent(float):
    """A number that was written with a percent sign: `50%` is 0.5."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with an act or a test; `at` counts its arguments from 0, and is None for the whole."""

    text: str
    at: int | None = None


@dataclass(frozen=True, kw_only=True)
class Param:
    """One argument that an act takes; only the first has a default, and without one it must be given.

    A whole number is one from `least` to `most`.
    """

    name: str
    sort: Sort
    default: Value | None = None
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = 1_000_000


def rule(param: Param) -> str:
    """What the argument must be."""
    match param.sort:
        case "choice":
            return f"one of {', '.join(param.choices)}"
        case "whole":
            return f"a whole number from {param.least} to {param.most}"
        case _:
            return _RULES[param.sort]


def example(param: Param) -> str:
    """One that would do."""
    return str(max(param.least, 1)) if param.sort == "whole" else _EXAMPLES.get(param.sort) or param.choices[0]


_RULES: Mapping[str, str] = {
    "seconds": "a time from 0s to a day",
    "share": "a share between 0% and 100%",
    "text": "a text in double quotes, and not empty",
    "code": "a word",
    "header": "the name of a header, other than content-length and transfer-encoding",
}
_EXAMPLES: Mapping[str, str] = {
    "seconds": "1.5s",
    "share": "50%",
    "text": '"so it is"',
    "code": "quota_exceeded",
    "header": '"retry-after"',
}


def _as_choice(param: Param, value: Value) -> str | int | None:
    if isinstance(value, bool | float) or str(value) not in param.choices:
        return None
    return int(value) if str(value).isdigit() else str(value)


def _as_seconds(_: Param, value: Value) -> float | None:
    return float(value) if _is_number(value) and not isinstance(value, Percent) and 0 <= value <= 86_400 else None


def _as_share(_: Param, value: Value) -> float | None:
    return float(value) if _is_number(value) and not isinstance(value, Seconds) and 0 < value < 1 else None


def _as_text(_: Param, value: Value) -> str | None:
    return value if isinstance(value, str) and value else None


def _as_code(_: Param, value: Value) -> str | None:
    # A code of digits is one too, and is written without quotes.
    code = str(value) if is_whole(value) else value
    return code if isinstance(code, str) and re.fullmatch(r"[\w.-]{1,200}", code, re.ASCII) else None


def _as_whole(param: Param, value: Value) -> int | None:
    return value if is_whole(value) and param.least <= value <= param.most else None


def _as_header(_: Param, value: Value) -> str | None:
    # How long a body is, is up to whoever sends it.
    name = value.lower() if is_header_name(value) else "content-length"
    return name if name not in ("content-length", "transfer-encoding") else None


def _is_number(value: Value) -> TypeGuard[float]:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


_SORTS: Mapping[Sort, Callable[[Param, Value], Value | None]] = MappingProxyType(
    {
        "choice": _as_choice,
        "seconds": _as_seconds,
        "share": _as_share,
        "text": _as_text,
        "code": _as_code,
        "whole": _as_whole,
        "header": _as_header,
    }
)


def value_of(param: Param, value: Value) -> Value | None:
    """The value as this argument keeps it, or None if it is none of its kind."""
    return _SORTS[param.sort](param, value)


def value_text(value: Value) -> str:
    """An argument as it is written in a script."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    # What would be read as something else is told from it by its quotes.
    plain = isinstance(value, int) or (re.fullmatch(_WORD, value) and value not in ("true", "false"))
    return str(value) if plain else json.dumps(value)


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
