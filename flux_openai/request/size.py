"""Sizes and aspect ratios: the aspect ratio that matches a size, and the nearest valid size or ratio."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from flux_openai.errors import listed
from flux_openai.request.plain import canonical, number_of

__all__ = ["Fit", "fit_of_size", "is_between", "nearest_ratio", "nearest_size", "sides_of"]

TOLERANCE = Fraction(3, 100)
"""The largest relative difference between a `size` and the aspect ratio that is sent instead."""

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_RATIO = re.compile(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})", re.ASCII)
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(?:px)?"
_PAIR = re.compile(
    r"[(\[]?(?:(landscape|portrait)[\s:_-]*|(?:aspect[\s_-]*)?ratio[\s:=_-]*)?"
    rf"{_NUMBER}(?:\s*(?:[x×*/:\u2236_-]|by|to|,\s)\s*|\s+){_NUMBER}[)\]]?",
    re.ASCII,
)
"""Width and height as people write them: 16x9, 16 by 9, landscape_16_9, (16, 9)."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The aspect ratio nearest to a size, the relative difference, and the rule that the size breaks, if any.

    `size` is the same size as it should be written, where only that is wrong.
    """

    ratio: str | None
    off: Fraction = Fraction(0)
    rule: str | None = None
    size: str | None = None


def fit_of_size(size: object, choices: Sequence[str], *, between: bool = False) -> Fit:
    """The aspect ratio nearest to a WIDTHxHEIGHT; with `between`, all from the first to the last choice are allowed."""
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        rule = "must be 'auto' or WIDTHxHEIGHT such as '1024x1024'; FLUX takes an aspect_ratio instead"
        rewritten = _rewritten(size)
        fits = rewritten == "auto" or (
            rewritten is not None and fit_of_size(rewritten, choices, between=between).rule is None
        )
        return Fit(ratio=nearest_ratio(size, choices), rule=rule, size=rewritten if fits else None)
    shape = Fraction(int(match[1]), int(match[2]))
    ranked = sorted(choices, key=lambda choice: _apart(shape, _shape(choice)))
    off = _apart(shape, _shape(ranked[0]))
    if between and off and is_between(reduced := f"{shape.numerator}:{shape.denominator}", choices):
        return Fit(ratio=reduced)
    if off > TOLERANCE:
        rule = f"has no aspect ratio within {float(TOLERANCE):.0%}; the three nearest are {listed(ranked[:3])}"
        if between:
            rule = f"must have a shape from {choices[0]} to {choices[-1]}"
        return Fit(ratio=ranked[0], off=off, rule=rule)
    return Fit(ratio=ranked[0], off=off)


def _rewritten(size: object) -> str | None:
    """A size such as "1024 X 1024" or (1024, 1024) as WIDTHxHEIGHT, or "auto"; None if it is neither."""
    if isinstance(size, str) and canonical(size) == "auto":
        return "auto"
    sides = _pair(size)
    if sides is None or any(side.denominator > 1 or side > 99_999 for side in sides):
        return None
    return f"{sides[0]}x{sides[1]}"


def sides_of(size: str) -> tuple[int, int] | None:
    """Width and height of a WIDTHxHEIGHT; None for any other text."""
    match = _SIZE.fullmatch(size)
    return None if match is None else (int(match[1]), int(match[2]))


def is_between(ratio: str, choices: Sequence[str]) -> bool:
    """Whether a text is a ratio W:H from the first to the last choice, in whatever order these are."""
    match = _RATIO.fullmatch(ratio)
    if match is None:
        return False
    ends = sorted((_shape(choices[0]), _shape(choices[-1])))
    return ends[0] <= Fraction(int(match[1]), int(match[2])) <= ends[1]


def nearest_size(value: object, *, low: int, high: int, step: int = 1, largest: bool = False) -> str | None:
    """The WIDTHxHEIGHT within the limits that is nearest to the value; with `largest`, the largest of that shape.

    Both sides are multiples of `step`, and so must be the limits.
    """
    sides = _pair(value)
    if sides is None:
        return None
    width, height = sides
    most = high / max(width, height)
    scale = most if largest else min(most, max(Fraction(1), low / min(width, height)))
    return "x".join(str(min(max(round(side * scale / step) * step, low), high)) for side in (width, height))


def _shape(ratio: str) -> Fraction:
    width, height = ratio.split(":")
    return Fraction(int(width), int(height))


def _apart(one: Fraction, other: Fraction) -> Fraction:
    return max(one / other, other / one) - 1


def _pair(value: object) -> tuple[Fraction, Fraction] | None:
    """The width and height that a text or a pair of numbers names, in whatever notation."""
    turned, numbers = None, value
    if isinstance(value, str):
        match = _PAIR.fullmatch(canonical(value))
        turned, *numbers = match.groups() if match else (None,)
    if not isinstance(numbers, list | tuple) or len(numbers) != 2:
        return None
    sides = [number_of(side) for side in numbers]
    if not all(side is not None and 0 < side < 10**9 for side in sides):
        return None
    width, height = (Fraction(side) for side in sides if side is not None)
    if turned is not None and (width < height) == (turned == "landscape"):
        return height, width
    return width, height


def nearest_ratio(value: object, choices: Sequence[str]) -> str | None:
    """The ratio nearest to a value such as "16x9", (16, 9) or 1.78; None if the value is not a ratio."""
    sides, number = _pair(value), number_of(value)
    # YAML 1.1 reads an unquoted 16:9 as minutes and seconds: 969.
    if type(value) is int and 0 < value < 3600 and (clock := "{}:{}".format(*divmod(value, 60))) in choices:
        return clock
    if sides is not None:
        shape = sides[0] / sides[1]
    elif number is not None and 1 / 4 <= number <= 4:
        shape = Fraction(number)
    else:
        return None
    return min(choices, key=lambda choice: _apart(shape, _shape(choice)))
