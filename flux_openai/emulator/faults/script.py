"""The language of fault scripts: from text to rules, or to an error that points at what is wrong.

    // the first two times that any one order with "cat" is sent
    prompt~/cat/ #1..2 -> status(429, retry_after=1s)
    n>=3 & model=flux-dev #every 5 -> slow(2s), truncate(50%)
    * p=0.01 -> reset(after_bill) ; img #1 -> url(410)

A rule is a selector, perhaps an occurrence, perhaps a chance, an arrow, and acts. Rules end with the line or with `;`.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from flux_openai.emulator.faults.arguments import Percent, Problem, Seconds, Value
from flux_openai.emulator.faults.catalog import KINDS
from flux_openai.emulator.faults.fault import Act, make_act
from flux_openai.emulator.faults.queue import Target
from flux_openai.emulator.faults.rules import Condition, Occurrence, Rule, Script, make_condition, make_rule
from flux_openai.errors import ConfigurationError, InvalidParam, ScriptError

__all__ = ["as_script", "parse"]

_T = TypeVar("_T")


def as_script(script: object) -> Script:
    """The script in any of its forms; raises ScriptError for a text that is none, ConfigurationError for the rest."""
    match script:
        case None:
            return Script()
        case Script():
            return script
        case Rule():
            return Script(rules=(script,))
        case str():
            return parse(script)
        case _:
            raise ConfigurationError.of(
                InvalidParam(param="script", value=script, rule="must be a text, a Rule or a Script")
            )


def parse(text: str) -> Script:
    """The script in a text; raises ScriptError, which shows the place and what would do there."""
    reader = _Reader(text)
    rules = []
    while reader.find_rule():
        rules.append(_rule(reader))
        reader.end_rule()
    return Script(rules=tuple(rules))


class _Reader:
    """A text and a place in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0

    def take(self, pattern: str) -> re.Match[str] | None:
        """What stands here, if it is of that form; blanks before it are passed over."""
        found = re.compile(rf"[ \t\r]*(?P<it>{pattern})").match(self._text, self.at)
        if found:
            self.at = found.end()
        return found

    def need(self, pattern: str, *, otherwise: str) -> re.Match[str]:
        return self.take(pattern) or self.fail(otherwise)

    def skip(self) -> int:
        """Pass over blanks; returns the place."""
        self.take("")
        return self.at

    def find_rule(self) -> bool:
        """Go to the next rule, if there is one."""
        self.take(r"(?:[\s;]|//[^\n]*)*")
        return self.at < len(self._text)

    def end_rule(self) -> None:
        self.take("(?://[^\n]*)?")
        if not self.take(r"[\n;]|\Z"):
            self.fail(
                "the rule should end here: with the line, with ; or with a comment after //; acts need a , between"
            )

    def fail(self, says: str, *, at: int | None = None) -> NoReturn:
        """Raise the error, with the line and a caret under the place."""
        place = self.skip() if at is None else at
        start = self._text.rfind("\n", 0, place) + 1
        line, column = self._text.count("\n", 0, place) + 1, place - start + 1
        shown = self._text[start:].partition("\n")[0].replace("\t", " ").replace("\r", " ")
        error = ScriptError(f"line {line}, column {column}: {says}\n  {shown}\n  {' ' * (column - 1)}^")
        error.line, error.column = line, column
        raise error

    def checked(self, made: _T | Problem, *, places: Mapping[int | None, int]) -> _T:
        """What was made, or an error at the place of its problem."""
        if isinstance(made, Problem):
            self.fail(made.text, at=places.get(made.at, places[None]))
        return made


def _rule(reader: _Reader) -> Rule:
    start = reader.skip()
    on, conditions = _selector(reader)
    nth, p = _occurrence(reader), _chance(reader)
    reader.need("->", otherwise="-> should stand here, after the selector, its occurrence (#1..2) and chance (p=0.1)")
    places: dict[int | None, int] = {None: start}
    acts: list[Act] = []
    while not acts or reader.take(","):
        places[len(acts)] = reader.skip()
        acts.append(_act(reader))
    return reader.checked(make_rule(on, conditions, nth=nth, p=p, acts=tuple(acts)), places=places)


def _selector(reader: _Reader) -> tuple[Target, tuple[Condition, ...]]:
    on: Target = "generate"
    if found := reader.take(r"\*|img\b"):
        joined = reader.take("&")
        if found["it"] == "*" and joined:
            reader.fail("* stands alone: only img and fields of an order can be joined by &")
        on = "download" if found["it"] == "img" else "generate"
        if not joined:
            return on, ()
    conditions = [_condition(reader)]
    while reader.take("&"):
        conditions.append(_condition(reader))
    return on, tuple(conditions)


def _condition(reader: _Reader) -> Condition:
    start = reader.skip()
    hint = " (a comment starts with //)" if reader.take("#") else ""
    says = f"a selector should stand here: *, img, prompt~/cat/, model=kontext-max, n>=3{hint}"
    if hint:
        reader.fail(says, at=start)
    field = reader.need(r"[A-Za-z_]+", otherwise=says)["it"]
    places: dict[int | None, int] = {None: start, 0: reader.skip()}
    operator = reader.need(r"[<>]=?|=|~", otherwise=f"{field} should be compared: with =, <, >, <=, >= or ~")["it"]
    places[1] = reader.skip()
    if operator == "~":
        found = reader.need(r"/((?:[^/\\\n]|\\.)*)/", otherwise="a pattern should stand here, between slashes: /cat/")
        return reader.checked(make_condition(field, operator, found[2]), places=places)
    raw = reader.need(r"(?:(?!->)[^\s&;#])+", otherwise=f"{field} should be compared with something")["it"]
    value = int(raw) if re.fullmatch(r"-?[0-9]{1,20}", raw) else raw
    return reader.checked(make_condition(field, operator, value), places=places)


def _occurrence(reader: _Reader) -> Occurrence | None:
    if not reader.take("#"):
        return None
    start = reader.at
    if word := reader.take(r"every\b|after\b"):
        number = _count(reader)
        return Occurrence(every=number) if word["it"] == "every" else Occurrence(first=number + 1)
    first = _count(reader)
    last = _count(reader) if reader.take(r"\.\.") else first
    if last < first:
        reader.fail(f"the last time comes before the first: #{last}..{first} would do", at=start)
    return Occurrence(first=first, last=last)


def _count(reader: _Reader) -> int:
    says = "a whole number from 1 should stand here: #1, #1..2, #every 5, #after 10"
    return int(reader.need(r"[1-9][0-9]{0,14}(?![0-9])", otherwise=says)["it"])


def _chance(reader: _Reader) -> float | None:
    if not reader.take(r"p[ \t]*="):
        return None
    start = reader.skip()
    found = reader.need(r"[^\s;]*?(?=\s|;|->|\Z)", otherwise="a chance should stand here, as in p=0.01")["it"]
    if re.fullmatch(r"(?:[0-9]{1,20}(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?", found) and 0 <= float(found) <= 1:
        return float(found)
    return reader.fail("p should be a number from 0 to 1, as in p=0.01", at=start)


def _act(reader: _Reader) -> Act:
    places: dict[int | None, int] = {None: reader.skip()}
    name = reader.need(r"[A-Za-z_][A-Za-z0-9_]*", otherwise="an act should stand here, as in status(429)")["it"]
    given: list[Value] = []
    named: list[tuple[str, Value]] = []
    if reader.take(r"\(") and not reader.take(r"\)"):
        while True:
            places[len(given) + len(named)] = reader.skip()
            _argument(reader, given, named)
            if reader.take(r"\)"):
                break
            reader.need(",", otherwise=f"the arguments of {name} should go on with , or end with )")
    return reader.checked(make_act(KINDS, name, given, named), places=places)


def _argument(reader: _Reader, given: list[Value], named: list[tuple[str, Value]]) -> None:
    start = reader.skip()
    if key := reader.take(r"([A-Za-z_]+)[ \t]*=(?!=)"):
        named.append((key[2], _value(reader)))
    elif named:
        reader.fail("an argument without a name comes before those with one", at=start)
    else:
        given.append(_value(reader))


_UNITS: Mapping[str, Callable[[float], float]] = {
    "ms": lambda number: Seconds(number / 1000),
    "s": Seconds,
    "m": lambda number: Seconds(number * 60),
    "min": lambda number: Seconds(number * 60),
    "%": lambda number: Percent(number / 100),
}


def _value(reader: _Reader) -> Value:
    start = reader.skip()
    if found := reader.take(r'"(?:[^"\\\n]|\\.)*"'):
        try:
            return str(json.loads(found["it"], strict=False))
        except ValueError:
            reader.fail(r"this text is not written as in JSON; a backslash in it is \\", at=start)
    if found := reader.take(r"[A-Za-z_][A-Za-z0-9_.-]*"):
        return {"true": True, "false": False}.get(found["it"], found["it"])
    number = r"(-?[0-9]{1,15})(\.[0-9]{1,30})?(e[+-]?[0-9]{1,3})?(ms|s|min|m|%)?(?![\w.%])"
    found = reader.need(number, otherwise='an argument should stand here: 429, 1.5s, 2min, 50%, word, "some text"')
    whole, point, power, unit = found[2], found[3], found[4], found[5]
    if point is None and power is None and unit is None:
        return int(whole)
    return _UNITS.get(unit, float)(float(f"{whole}{point or ''}{power or ''}"))
