"""Sizes and aspect ratios: the aspect ratio that matches a size, and the nearest valid size or ratio."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from flux_openai.errors import listed

__all__ = ["Fit", "fit_of_size", "nearest_ratio", "nearest_size", "sides_of"]

TOLERANCE = Fraction(3, 100)
"""The largest relative difference between a `size` and the aspect ratio that is sent instead."""

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_RATIO = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*[:x×/*]\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The aspect ratio nearest to a size, the relative difference, and the rule that the size breaks, if any."""

    ratio: str | None
    off: Fraction = Fraction(0)
    rule: str | None = None


def fit_of_size(size: object, choices: Sequence[str]) -> Fit:
    """The aspect ratio nearest to a WIDTHxHEIGHT."""
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        rule = "must be 'auto' or WIDTHxHEIGHT such as '1024x1024'; FLUX takes an aspect_ratio instead"
        return Fit(ratio=nearest_ratio(size, choices), rule=rule)
    shape = Fraction(int(match[1]), int(match[2]))
    ranked = sorted(choices, key=lambda choice: _apart(shape, _shape(choice)))
    off = _apart(shape, _shape(ranked[0]))
    if off > TOLERANCE:
        rule = f"has no aspect ratio within {float(TOLERANCE):.0%}; the three nearest are {listed(ranked[:3])}"
        return Fit(ratio=ranked[0], off=off, rule=rule)
    return Fit(ratio=ranked[0], off=off)


def sides_of(size: str) -> tuple[int, int] | None:
    """Width and height of a WIDTHxHEIGHT; None for any other text."""
    match = _SIZE.fullmatch(size)
    return None if match is None else (int(match[1]), int(match[2]))


def nearest_size(value: object, *, low: int, high: int, largest: bool = False) -> str | None:
    """The WIDTHxHEIGHT within the limits that is nearest to the value; with `largest`, the largest of that shape."""
    match = _RATIO.fullmatch(value) if isinstance(value, str) else None
    if match is None or not float(match[1]) or not float(match[2]):
        return None
    width, height = Fraction(match[1]), Fraction(match[2])
    most = high / max(width, height)
    scale = most if largest else min(most, max(Fraction(1), low / min(width, height)))
    return "x".join(str(min(max(round(side * scale), low), high)) for side in (width, height))


def _shape(ratio: str) -> Fraction:
    width, height = ratio.split(":")
    return Fraction(int(width), int(height))


def _apart(one: Fraction, other: Fraction) -> Fraction:
    return max(one / other, other / one) - 1


def nearest_ratio(value: object, choices: Iterable[str]) -> str | None:
    """The ratio nearest to a value such as "16x9", "16/10" or 1.5; None if the value is not a ratio."""
    match = _RATIO.fullmatch(value) if isinstance(value, str) else None
    if match is not None and float(match[1]) and float(match[2]):
        shape = Fraction(match[1]) / Fraction(match[2])
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1000:
        shape = Fraction(value)
    else:
        return None
    return min(choices, key=lambda choice: _apart(shape, _shape(choice)))
