"""The parser of fault scripts: from text to rules.

    // an order with "cat" in its prompt, the first two times that it is sent
    prompt~/cat/ #1..2 -> status(429, retry_after=1s)
    n>=3 & model=flux-dev #every 5 -> slow(2s), truncate(50%)
    * p=0.01 -> reset(after_bill) ; img #1 -> url(410)

A rule is a selector, an optional occurrence and probability, an arrow, and one or more faults. It ends with the line or
with `;`. The first rule that matches decides. `flux-openai emulate --help-faults` lists the faults.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NoReturn

from flux_openai.emulator.faults.catalog import CATALOG
from flux_openai.emulator.faults.fault import Fault, FaultType, Percent, Seconds, Target, Value, closest
from flux_openai.emulator.faults.rules import COMPARISONS, Condition, Occurrence, Rule, Script, compiled, models_named
from flux_openai.errors import ConfigurationError, InvalidParam, ScriptError
from flux_openai.models import FAMILIES, FLUX_MODELS

__all__ = ["as_script", "parse"]


def as_script(script: object) -> Script:
    """The script from a text, a Rule or a Script; None is the empty one.

    Raises:
        ScriptError: The text is not a valid script.
        ConfigurationError: The value is of another type.
    """
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
    """The script in a text. Raises ScriptError with the position and what was expected there."""
    reader = _Reader(text)
    rules = []
    while reader.find_rule():
        rules.append(_rule(reader))
        reader.take("(?://[^\n]*)?")
        reader.need(
            r"[\n;]|\Z", "expected the end of the rule: a new line, ; or a // comment (a , goes between faults)"
        )
    return Script(rules=tuple(rules))


class _Reader:
    """A text and a position in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0

    def find_rule(self) -> bool:
        """Go to the start of the next rule, if there is one."""
        self.take(r"(?:[\s;]|//[^\n]*)*")
        return self.at < len(self._text)

    def take(self, pattern: str) -> re.Match[str] | None:
        """Match a pattern after blanks and move behind it; the group `it` is the match without the blanks."""
        found = re.compile(rf"[ \t\r]*(?P<it>{pattern})").match(self._text, self.at)
        if found:
            self.at = found.end()
        return found

    def need(self, pattern: str, otherwise: str) -> re.Match[str]:
        """The same as `take`, but raise ScriptError with this message if the pattern does not match."""
        return self.take(pattern) or self.fail(otherwise)

    def skip(self) -> int:
        """Skip blanks and return the position."""
        self.take("")
        return self.at

    def fail(self, message: str, *, at: int | None = None) -> NoReturn:
        """Raise ScriptError with the line, and a caret under the position."""
        place = self.skip() if at is None else at
        start = self._text.rfind("\n", 0, place) + 1
        line, column = self._text.count("\n", 0, place) + 1, place - start + 1
        source = self._text[start:].partition("\n")[0].replace("\t", " ").replace("\r", " ")
        error = ScriptError(f"line {line}, column {column}: {message}\n  {source}\n  {' ' * (column - 1)}^")
        error.line, error.column = line, column
        raise error


def _rule(reader: _Reader) -> Rule:
    on, conditions = _selector(reader)
    nth, p = _occurrence(reader), _probability(reader)
    reader.need("->", "expected -> after the selector, its occurrence (#1..2) and its probability (p=0.1)")
    faults: list[Fault] = []
    while not faults or reader.take(","):
        at = reader.skip()
        fault = _fault(reader)
        if not fault.type.expected(on):
            here, there = ("img", "orders") if on == "download" else ("orders", "img")
            reader.fail(f"{fault.type.name} does not apply to {here}; it is for {there}", at=at)
        if on == "download" and fault.billed is not None:
            reader.fail("downloads are never billed", at=at)
        faults.append(fault)
    return Rule(on=on, conditions=conditions, nth=nth, p=p, faults=tuple(faults))


def _selector(reader: _Reader) -> tuple[Target, tuple[Condition, ...]]:
    on: Target = "generate"
    if found := reader.take(r"\*|img\b"):
        joined = reader.take("&")
        if found["it"] == "*" and joined:
            reader.fail("* stands alone; & joins img and fields of an order")
        on = "download" if found["it"] == "img" else "generate"
        if not joined:
            return on, ()
    conditions = [_condition(reader)]
    while reader.take("&"):
        conditions.append(_condition(reader))
    return on, tuple(conditions)


_NUMBERS = ("n", "seed", "steps")
_EXAMPLES: Mapping[str, str] = {
    "prompt": "prompt~/cat/",
    "model": "model=kontext-max",
    **{field: f"{field}>=3" for field in _NUMBERS},
    "size": "size=512x512",
    "aspect_ratio": "aspect_ratio=16:9",
    "response_format": "response_format=b64_json",
}
"""The fields of an order that a selector can compare, with an example for each."""


def _condition(reader: _Reader) -> Condition:
    start = reader.skip()
    found = reader.take(r"[A-Za-z_]+")
    if found is None:
        hint = " (a comment starts with //)" if reader.take("#") else ""
        reader.fail(f"expected a selector: *, img, prompt~/cat/, model=kontext-max, n>=3{hint}", at=start)
    field = found["it"]
    if field == "p":
        reader.fail("a probability comes after a selector, as in * p=0.01", at=start)
    if field not in _EXAMPLES:
        reader.fail(f"orders have no field {field:.40}; the nearest is {closest(field, _EXAMPLES)}", at=start)
    example, at = _EXAMPLES[field], reader.skip()
    operators = ["~"] if field == "prompt" else list(COMPARISONS) if field in _NUMBERS else ["="]
    operator = reader.need(r"[<>]=?|=|~", f"expected {' '.join(operators)} after {field}, as in {example}")["it"]
    if operator not in operators:
        reader.fail(f"{field} can only be compared with {' '.join(operators)}, as in {example}", at=at)
    at = reader.skip()
    if field == "prompt":
        return Condition(field=field, operator=operator, value=_pattern(reader))
    raw = reader.need(r"(?:(?!->)[^\s&;#])+", f"expected a value to compare {field} with, as in {example}")["it"]
    if field in _NUMBERS:
        if not re.fullmatch(r"-?[0-9]{1,20}", raw):
            reader.fail(f"{field} must be compared with a whole number, as in {example}", at=at)
        return Condition(field=field, operator=operator, value=int(raw))
    if field == "model" and not models_named(raw):
        nearest = closest(raw, [*FAMILIES, *FLUX_MODELS])
        reader.fail(f"there is no model {raw:.80}; the nearest is {nearest}", at=at)
    if not re.fullmatch(r"[\w./:-]+", raw, re.ASCII):
        reader.fail(f"{field} cannot have this value; expected one as in {example}", at=at)
    return Condition(field=field, operator=operator, value=raw)


def _pattern(reader: _Reader) -> str:
    at = reader.skip()
    quoted = reader.need(r"/((?:[^/\\\n]|\\.)*)/", "expected a regular expression between slashes, as in prompt~/cat/")
    pattern = re.sub(r"\\(.)", lambda found: "/" if found[1] == "/" else found[0], quoted[2])
    try:
        compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        reader.fail(f"this is not a regular expression: {error}", at=at)
    if not pattern:
        reader.fail("an empty pattern would match every order; write * for that", at=at)
    return pattern


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
        reader.fail(f"the range ends before it starts; write #{last}..{first}", at=start)
    return Occurrence(first=first, last=last)


def _count(reader: _Reader) -> int:
    expected = "expected a whole number from 1, as in #1, #1..2, #every 5, #after 10"
    return int(reader.need(r"[1-9][0-9]{0,14}(?![0-9])", expected)["it"])


def _probability(reader: _Reader) -> float | None:
    if not reader.take(r"p[ \t]*="):
        return None
    start = reader.skip()
    found = reader.need(r"[^\s;]*?(?=\s|;|->|\Z)", "expected a number from 0 to 1, as in p=0.01")["it"]
    if re.fullmatch(r"(?:[0-9]{1,20}(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?", found) and 0 <= float(found) <= 1:
        return float(found)
    return reader.fail("p must be a number from 0 to 1, as in p=0.01", at=start)


def _fault(reader: _Reader) -> Fault:
    start = reader.skip()
    name = reader.need(r"[A-Za-z_][A-Za-z0-9_]*", "expected a fault, as in status(429)")["it"]
    if name not in CATALOG:
        reader.fail(f"there is no fault {name:.40}; the nearest is {closest(name, CATALOG)}", at=start)
    kind = CATALOG[name]
    given = _arguments(reader, kind)
    billed = given.pop("billed", None)
    first = kind.params[0] if kind.params else None
    if first and first.name not in given:
        if first.default is None:
            reader.fail(f"{name} needs {first.rule}, as in {name}({first.example})", at=start)
        given[first.name] = first.default
    fault = Fault(type=kind, arguments={param.name: given[param.name] for param in kind.params if param.name in given})
    if billed and fault.expected and not fault.expected.billable:
        reader.fail(f"{fault} cannot be billed: the order was not carried out", at=start)
    return replace(fault, billed=billed if isinstance(billed, bool) else None)


def _arguments(reader: _Reader, kind: FaultType) -> dict[str, Value]:
    """The arguments in parentheses, first by position and then by name, as in a Python call."""
    found: dict[str, Value] = {}
    named = False
    if not reader.take(r"\(") or reader.take(r"\)"):
        return found
    while True:
        at = reader.skip()
        if key := reader.take(r"([A-Za-z_]+)[ \t]*=(?!=)"):
            name, named = key[2], True
        elif named:
            reader.fail("an argument without a name must come before those with a name", at=at)
        elif len(found) == len(kind.params):
            reader.fail(f"{kind.name} takes {_takes(kind)}", at=at)
        else:
            name = kind.params[len(found)].name
        if name in found:
            reader.fail(f"{name} is given twice", at=at)
        found[name] = _argument(reader, kind, name, at=at)
        if reader.take(r"\)"):
            return found
        reader.need(",", f"expected , or ) after an argument of {kind.name}")


def _argument(reader: _Reader, kind: FaultType, name: str, *, at: int) -> Value:
    value = _value(reader)
    if name == "billed":
        if not isinstance(value, bool):
            reader.fail("billed must be true or false", at=at)
        return value if kind.orders else reader.fail("downloads are never billed", at=at)
    for param in kind.params:
        if param.name == name:
            converted = param.convert(value)
            if converted is None:
                reader.fail(f"{name} of {kind.name} must be {param.rule}, as in {param.example}", at=at)
            return converted
    return reader.fail(f"{kind.name} has no {name:.40}; it takes {_takes(kind)}", at=at)


def _takes(kind: FaultType) -> str:
    return ", ".join([*(param.name for param in kind.params), *(["billed"] if kind.orders else [])])


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
            reader.fail(r"this text is not a JSON string; a backslash in it is \\", at=start)
    if found := reader.take(r"[A-Za-z_][A-Za-z0-9_.-]*"):
        return {"true": True, "false": False}.get(found["it"], found["it"])
    number = r"(-?[0-9]{1,15})(\.[0-9]{1,30})?(e[+-]?[0-9]{1,3})?(ms|s|min|m|%)?(?![\w.%])"
    found = reader.need(number, 'expected an argument: 429, 1.5s, 2min, 50%, word, "some text"')
    whole, point, power, unit = found[2], found[3], found[4], found[5]
    if point is None and power is None and unit is None:
        return int(whole)
    return _UNITS.get(unit, float)(float(f"{whole}{point or ''}{power or ''}"))
