"""Fault scripts in Python: the same rules as in the text, from functions.

    from flux_openai.emulator.faults.builder import script, status, url, when

    script(
        when(prompt="cat", nth=range(1, 3)).then(status(429, retry_after=1)),
        when(img=True, p=0.1).then(url(410)),
    )

Every act of the table can be imported from here under its name.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.faults.arguments import Problem, Value
from flux_openai.emulator.faults.catalog import KINDS
from flux_openai.emulator.faults.fault import Act, make_act
from flux_openai.emulator.faults.queue import Target, closest
from flux_openai.emulator.faults.rules import Condition, Occurrence, Rule, Script, make_condition, make_rule
from flux_openai.errors import ConfigurationError

__all__ = ["When", "after", "every", "script", "when"]

_T = TypeVar("_T")


def __getattr__(name: str) -> Callable[..., Act]:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in KINDS:
        raise AttributeError(f"there is no act {name}; the nearest is {closest(name, KINDS)}", name=name)

    def build(*given: Value, **named: Value) -> Act:
        return _or_raise(make_act(KINDS, name, given, tuple(named.items())))

    return build


def _or_raise(made: _T | Problem) -> _T:
    if isinstance(made, Problem):
        raise ConfigurationError(made.text)
    return made


@dataclass(frozen=True, kw_only=True)
class When:
    """The left side of a rule."""

    on: Target
    conditions: tuple[Condition, ...]
    nth: Occurrence | None
    p: float | None

    def then(self, *acts: Act) -> Rule:
        """The rule with these acts, one or more. Raises ConfigurationError where an act does not apply."""
        if not acts or not all(isinstance(act, Act) for act in acts):
            raise ConfigurationError("a rule needs acts, as in then(status(429), gzip())")
        return _or_raise(make_rule(self.on, self.conditions, nth=self.nth, p=self.p, acts=acts))


def when(
    *,
    prompt: str | None = None,
    model: str | None = None,
    n: int | str | None = None,
    seed: int | str | None = None,
    steps: int | str | None = None,
    size: str | None = None,
    aspect_ratio: str | None = None,
    response_format: str | None = None,
    img: bool = False,
    nth: int | range | Occurrence | None = None,
    p: float | None = None,
) -> When:
    """Which requests a rule is for: every order, or those with these fields; with `img`, the downloads of their images.

    `prompt` is a regular expression; a number is an int, or a comparison such as ">=3". `nth` is 1, range(1, 3),
    every(5) or after(10), counted among equal requests; `p` is a chance from 0 to 1. Raises ConfigurationError for
    other values.
    """
    asked = {"prompt": prompt, "model": model, "n": n, "seed": seed, "steps": steps, "size": size}
    asked |= {"aspect_ratio": aspect_ratio, "response_format": response_format}
    conditions = tuple(_conditions({name: value for name, value in asked.items() if value is not None}))
    return When(on="download" if img else "generate", conditions=conditions, nth=_occurrence(nth), p=_chance(p))


def _conditions(asked: dict[str, int | str]) -> Iterator[Condition]:
    for name, value in asked.items():
        if not isinstance(value, str | int):
            raise ConfigurationError(f"{name} should be a text, also where it is a pattern: (?i)cat for any case")
        yield _or_raise(make_condition(name, *_comparison(name, value)))


def _comparison(name: str, value: int | str) -> tuple[str, int | str]:
    if name not in ("n", "seed", "steps"):
        return ("~" if name == "prompt" else "="), str(value)
    found = re.fullmatch(r"([<>=]*) *(-?[0-9]{1,20})", value) if isinstance(value, str) else None
    return ((found[1] or "="), int(found[2])) if found else ("=", value)


def _chance(p: object) -> float | None:
    if p is None or (isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1):
        return None if p is None else float(p)
    raise ConfigurationError("p should be a number from 0 to 1, as in p=0.01")


def _occurrence(nth: int | range | Occurrence | None) -> Occurrence | None:
    match nth:
        case None | Occurrence():
            return nth
        case range(start=first, stop=stop, step=1) if 1 <= first < stop:
            return Occurrence(first=first, last=stop - 1)
        case int() if is_whole(nth) and nth >= 1:
            return Occurrence(first=nth, last=nth)
        case _:
            raise ConfigurationError("nth should be 1, range(1, 3), every(5) or after(10)")


def every(count: int) -> Occurrence:
    """Every so many requests of one kind: with 5, the fifth, the tenth, and so on."""
    return Occurrence(every=_count(count))


def after(count: int) -> Occurrence:
    """All after so many requests of one kind."""
    return Occurrence(first=_count(count) + 1)


def _count(count: int) -> int:
    if not is_whole(count) or count < 1:
        raise ConfigurationError("a whole number from 1 should stand here: every(5), after(10)")
    return count


def script(*rules: Rule) -> Script:
    """The script with these rules; the first that matches wins. Raises ConfigurationError for what is no rule."""
    if not all(isinstance(rule, Rule) for rule in rules):
        raise ConfigurationError('a script is made of rules, as in script(when(prompt="cat").then(status(429)))')
    return Script(rules=rules)
