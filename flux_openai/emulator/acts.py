"""The words for what can go wrong: each act's name, its arguments, and what it means for the bill and the client."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeGuard

from flux_openai.emulator.contract import is_whole
from flux_openai.emulator.faults import Target
from flux_openai.emulator.replies import Reply

__all__ = [
    "Act",
    "Job",
    "Kind",
    "Outcome",
    "Param",
    "Percent",
    "Problem",
    "Seconds",
    "Value",
    "act_text",
    "closest",
    "make_act",
    "value_text",
]

Value = str | int | float | bool
"""An argument. Seconds and shares are floats: `250ms` is 0.25, and so is `25%`."""

Sort = Literal["choice", "seconds", "share", "text", "code", "whole"]


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
    """One argument that an act takes; only the first has a default, and without one it must be given."""

    name: str
    sort: Sort
    default: Value | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an act does to an order: whether it is billed, and what FluxOpenAI raises; None for nothing at all."""

    billed: bool
    raises: str | None


@dataclass(frozen=True, kw_only=True)
class Act:
    """One act: its `first` argument, if it takes any, and those of the others that were given.

    `billed` overrides what the act declares.
    """

    name: str
    first: Value | None = None
    arguments: tuple[tuple[str, Value], ...] = ()
    billed: bool | None = None

    def __str__(self) -> str:
        return act_text(self)


@dataclass(frozen=True, kw_only=True)
class Job:
    """An answer on its way to being spoiled, with the arguments of the act that does it."""

    reply: Reply
    request_id: str
    arguments: Mapping[str, Value] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """An argument as text, blank if it was left out."""
        return str(self.arguments.get(name, ""))

    def number(self, name: str) -> float:
        """An argument as a number, 0 if it was left out."""
        value = self.arguments.get(name, 0)
        return 0 if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row of the table of acts.

    `outcomes` is keyed by the value of the first parameter, or has the one key "" if that changes nothing. `on` is
    the kinds of call that the act applies to.
    """

    name: str
    doc: str
    spoil: Callable[[Job], Reply]
    outcomes: Mapping[str, Outcome]
    params: tuple[Param, ...] = ()
    on: tuple[Target, ...] = ("generate",)

    def outcome(self, values: Mapping[str, Value]) -> Outcome:
        """What the act with these arguments does to an order."""
        first = str(values.get(self.params[0].name)) if self.params else ""
        return self.outcomes.get(first) or self.outcomes[""]

    def values(self, act: Act) -> Mapping[str, Value]:
        """The arguments of an act of this kind, its defaults filled in."""
        first = {} if act.first is None else {self.params[0].name: act.first}
        return {**first, **dict(act.arguments)}


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice most like the word."""
    return difflib.get_close_matches(word, list(choices), n=1, cutoff=0)[0]


def make_act(
    kinds: Mapping[str, Kind], name: str, given: Sequence[Value], named: Sequence[tuple[str, Value]] = ()
) -> Act | Problem:
    """The checked act; arguments go by place and then by name, as in a call."""
    kind = kinds.get(name)
    if kind is None:
        return Problem(text=f"there is no act {name:.40}; the nearest is {closest(name, kinds)}")
    if len(given) > len(kind.params):
        return Problem(at=len(kind.params), text=f"{name} takes {_takes(kind)}")
    pairs = [*zip((param.name for param in kind.params), given, strict=False), *named]
    found: dict[str, Value] = {}
    for at, (key, value) in enumerate(pairs):
        checked = _argument(kind, key, value) if key not in found else Problem(text=f"{key} is given twice")
        if isinstance(checked, Problem):
            return Problem(at=at, text=checked.text)
        found[key] = checked
    return _complete(kind, found)


def _complete(kind: Kind, found: Mapping[str, Value]) -> Act | Problem:
    first = None
    for param in kind.params[:1]:
        first = found.get(param.name, param.default)
        if first is None:
            return Problem(text=f"{kind.name} needs {_rule(param)}, as in {kind.name}({_example(param)})")
    kept = tuple((param.name, found[param.name]) for param in kind.params[1:] if param.name in found)
    billed = found.get("billed")
    return Act(name=kind.name, first=first, arguments=kept, billed=billed if isinstance(billed, bool) else None)


def _argument(kind: Kind, name: str, value: Value) -> Value | Problem:
    if name == "billed":
        return _billed(kind, value)
    for param in kind.params:
        if param.name == name:
            checked = _SORTS[param.sort](param, value)
            if checked is None:
                return Problem(text=f"{name} of {kind.name} must be {_rule(param)}, as in {_example(param)}")
            return checked
    return Problem(text=f"{kind.name} has no {name:.40}; it takes {_takes(kind)}")


def _billed(kind: Kind, value: Value) -> bool | Problem:
    if not isinstance(value, bool):
        return Problem(text="billed must be true or false")
    if "generate" not in kind.on:
        return Problem(text="downloads are never billed")
    if value and kind.name == "connect":
        return Problem(text="what was never sent is never billed: billed must be false")
    return value


def _takes(kind: Kind) -> str:
    names = [param.name for param in kind.params] + (["billed"] if "generate" in kind.on else [])
    return ", ".join(names) or "nothing"


def _rule(param: Param) -> str:
    return f"one of {', '.join(param.choices)}" if param.sort == "choice" else _RULES[param.sort]


def _example(param: Param) -> str:
    if param.sort == "choice":
        return param.choices[0]
    return {"seconds": "1.5s", "share": "50%", "text": '"so it is"', "code": "quota_exceeded", "whole": "1"}[param.sort]


_RULES: Mapping[str, str] = {
    "seconds": "a time from 0s to a day",
    "share": "a share between 0% and 100%",
    "text": "a text in double quotes",
    "code": "a word",
    "whole": "a whole number from 0 to 1000000",
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


def _as_whole(_: Param, value: Value) -> int | None:
    return value if is_whole(value) and 0 <= value <= 1_000_000 else None


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
    }
)


def act_text(act: Act) -> str:
    """The act as it is written in a script."""
    parts = [] if act.first is None else [value_text(act.first)]
    parts += [f"{name}={value_text(value)}" for name, value in act.arguments]
    parts += [] if act.billed is None else [f"billed={value_text(act.billed)}"]
    return f"{act.name}({', '.join(parts)})" if parts else act.name


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
