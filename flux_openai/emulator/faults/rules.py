"""What a fault script says, as values: which request, which time, how likely, and what befalls it."""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from operator import eq, ge, gt, le, lt
from types import MappingProxyType

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.faults.arguments import Problem
from flux_openai.emulator.faults.catalog import KINDS
from flux_openai.emulator.faults.fault import Act
from flux_openai.emulator.faults.queue import Target, closest
from flux_openai.models import FAMILIES, FLUX_MODELS

__all__ = ["Condition", "Occurrence", "Rule", "Script", "find_acts", "make_condition", "make_rule"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that must hold of an order: a field of its body, compared with a value."""

    field: str
    operator: str
    value: str | int

    def __str__(self) -> str:
        value = f"/{_slashed(str(self.value))}/" if self.operator == "~" else self.value
        return f"{self.field}{self.operator}{value}"


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """Which times a request strikes, of those with its key: from `first` to `last`, and of those every `every`th."""

    first: int = 1
    last: int | None = None
    every: int | None = None

    def __str__(self) -> str:
        if self.every is not None:
            return f"#every {self.every}"
        if self.last is None:
            return f"#after {self.first - 1}"
        return f"#{self.first}" if self.first == self.last else f"#{self.first}..{self.last}"

    def holds(self, nth: int) -> bool:
        """Whether it speaks of the nth request of its key, counted from 1."""
        return self.first <= nth and (self.last is None or nth <= self.last) and nth % (self.every or 1) == 0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of a script: for `on`, where all `conditions` hold, on these occurrences, with chance `p`: the acts.

    The conditions are on the order, and of a download on the order that the picture was made for.
    """

    on: Target = "generate"
    conditions: tuple[Condition, ...] = ()
    nth: Occurrence | None = None
    p: float | None = None
    acts: tuple[Act, ...]

    def __str__(self) -> str:
        img = ["img"] if self.on == "download" else []
        words = [" & ".join([*img, *map(str, self.conditions)]) or "*"]
        words += [] if self.nth is None else [str(self.nth)]
        words += [] if self.p is None else [f"p={self.p!r}"]
        return f"{' '.join(words)} -> {', '.join(map(str, self.acts))}"


@dataclass(frozen=True, kw_only=True)
class Script:
    """Rules in their order; the first that matches a request wins. As text it is a script again, a rule a line."""

    rules: tuple[Rule, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.rules))


def find_acts(
    script: Script, order: Mapping[str, object] | None, *, on: object, key: str, nth: int, seed: int
) -> tuple[Act, ...]:
    """The acts of the first rule that matches: the `nth` request with this `key`, whatever else is under way.

    `order` is the body of the order, or of the one that the download is for.
    """
    for number, rule in enumerate(script.rules, start=1):
        if (
            rule.on == on
            and (rule.nth is None or rule.nth.holds(nth))
            and all(_holds(condition, order or {}) for condition in rule.conditions)
            and (rule.p is None or _draw(seed, number, key, nth) < rule.p)
        ):
            return rule.acts
    return ()


def _draw(seed: int, rule: int, key: str, nth: int) -> float:
    told = f"{seed}:{rule}:{key}:{nth}".encode()
    # 53 bits are what a float holds, so the draw stays below 1.
    return (int.from_bytes(blake2b(told, digest_size=8).digest(), "big") >> 11) / 2**53


_COMPARED: Mapping[str, Callable[[int, int], bool]] = {"=": eq, "<": lt, ">": gt, "<=": le, ">=": ge}
_NUMBERS = ("n", "seed", "steps")
_TEXTS = ("size", "aspect_ratio", "response_format")
_OPERATORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"prompt": ("~",), "model": ("=",), **dict.fromkeys(_NUMBERS, tuple(_COMPARED)), **dict.fromkeys(_TEXTS, ("=",))}
)


def _holds(condition: Condition, body: Mapping[str, object]) -> bool:
    value = _value(condition.field, body)
    if condition.field == "model":
        return value in _models_named(str(condition.value))
    if isinstance(condition.value, int):
        return is_whole(value) and _COMPARED[condition.operator](value, condition.value)
    if condition.operator == "~":
        return isinstance(value, str) and _compiled(condition.value).search(value) is not None
    return value == condition.value


def _value(name: str, body: Mapping[str, object]) -> object:
    """A field, or what the model documents for one that is left out."""
    model = FLUX_MODELS.get(str(body.get("model")))
    field = None if model is None else model.fields.get(name)
    return body.get(name, None if field is None else field.default)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        # What a later Python may read in another way; said or not by what was compiled before.
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(pattern)


def _models_named(name: str) -> tuple[str, ...]:
    family = tuple(model.id for model in FAMILIES.get(name, ()))
    return family or tuple(model for model in FLUX_MODELS if name in (model, model.partition("/")[2]))


def make_condition(field: str, operator: str, value: str | int) -> Condition | Problem:
    """The checked condition."""
    operators = _OPERATORS.get(field)
    if operators is None:
        unknown = f"there is no field {field:.40} to select by; the nearest is {closest(field, _OPERATORS)}"
        return Problem(text="a chance comes after a selector, as in * p=0.01" if field == "p" else unknown)
    if operator not in operators:
        return Problem(at=0, text=f"{field} is compared by {' '.join(operators)}, as in {_EXAMPLES[field]}")
    if field in _NUMBERS and not is_whole(value):
        return Problem(at=1, text=f"{field} is compared with a whole number, as in {_EXAMPLES[field]}")
    if field == "model" and not _models_named(str(value)):
        nearest = closest(str(value), [*FAMILIES, *FLUX_MODELS])
        return Problem(at=1, text=f"there is no model {value!s:.80}; the nearest is {nearest}")
    if field == "prompt":
        return _pattern(str(value))
    return _plain(field, operator, value)


def _plain(field: str, operator: str, value: str | int) -> Condition | Problem:
    if isinstance(value, str) and not re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return Problem(at=1, text=f"{field} is compared with a value without spaces, as in {_EXAMPLES[field]}")
    return Condition(field=field, operator=operator, value=value if field in _NUMBERS else str(value))


def _pattern(pattern: str) -> Condition | Problem:
    plain = _unslashed(pattern)
    try:
        _compiled(plain)
    except (re.error, OverflowError, RecursionError) as error:
        return Problem(at=1, text=f"this is no regular expression: {error}")
    if not plain:
        return Problem(at=1, text="an empty pattern matches every order: write * for that")
    return Condition(field="prompt", operator="~", value=plain)


def _unslashed(pattern: str) -> str:
    """One pattern, one spelling: no escaped slashes, and no line breaks, which would end the rule."""
    return re.sub(r"\\(.)|\n", lambda m: {"/": "/", "\n": r"\n", None: r"\n"}.get(m[1], m[0]), pattern, flags=re.DOTALL)


def _slashed(pattern: str) -> str:
    return re.sub(r"\\.|/", lambda m: r"\/" if m[0] == "/" else m[0], pattern)


_EXAMPLES: Mapping[str, str] = {
    "prompt": "prompt~/cat/",
    "model": "model=kontext-max",
    **{name: f"{name}>=3" for name in _NUMBERS},
    "size": "size=512x512",
    "aspect_ratio": "aspect_ratio=16:9",
    "response_format": "response_format=b64_json",
}


def make_rule(
    on: Target,
    conditions: tuple[Condition, ...],
    *,
    nth: Occurrence | None = None,
    p: float | None = None,
    acts: tuple[Act, ...],
) -> Rule | Problem:
    """The checked rule; the problem's `at` counts the acts."""
    for at, act in enumerate(acts):
        if on not in KINDS[act.name].on:
            word, other = ("img", "orders") if on == "download" else ("orders", "img")
            return Problem(at=at, text=f"{act.name} does not apply to {word}; it is for {other}")
        if on == "download" and act.billed is not None:
            return Problem(at=at, text="downloads are never billed")
    return Rule(on=on, conditions=conditions, nth=nth, p=p, acts=acts)
