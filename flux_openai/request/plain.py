"""Plain values: the text or number that a value of another type equals, and what can be seen of a text.

Config files, data frames and other libraries hand over Decimal, Fraction, enums, `UserString` and NumPy scalars. JSON
has none of these: each is sent as the plain value that it equals exactly, or it is refused by name.
"""

import operator
import re
import unicodedata
from collections import UserString
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from typing import TypeVar

__all__ = ["canonical", "half_surrogate", "is_blank", "number_of", "plain"]

_PLAIN = frozenset({str, int, float, bool, list, tuple, dict, bytes, type(None)})
_SURROGATE = re.compile("[\ud800-\udfff]")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Mn", "Zl", "Zp", "Zs"})
"""The Unicode categories of controls, format characters such as zero-width spaces, lone marks, and spaces."""
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that look like spaces."""


def plain(value: object) -> object:
    """The `str`, `int` or `float` that a value equals exactly; the value itself if there is none.

    A bool stays what it is, and so does NumPy's: True is not 1.
    """
    if type(value) in _PLAIN:
        return value
    equal = _or_none(_equal, value)
    return value if equal is None else equal


def number_of(value: object) -> int | float | None:
    """The finite number that a value is or is nearest to, such as 20 for "20"; None for a bool, or if there is none."""
    number: int | float | None = _or_none(_nearest, value)
    # `isfinite` fails for an integer that is too large for a float.
    return None if isinstance(number, float) and not isfinite(number) else number


_T = TypeVar("_T")


def _or_none(convert: Callable[[object], _T | None], value: object) -> _T | None:
    """What the function returns for a value; None if it raises."""
    try:
        return convert(value)
    except Exception:  # noqa: BLE001  # `item`, `__index__`, `__float__` and `==` are code of the value's own class
        return None


def _equal(value: object) -> str | int | float | None:
    scalar = _scalar(value)
    if isinstance(scalar, UserString):
        scalar = scalar.data
    if isinstance(scalar, str):
        return str.__str__(scalar)  # `str()` of an enum would be the name of its member
    number = _number_of(scalar)
    # An integer comes from `__index__`, which is exact.
    return number if isinstance(number, int) or (number is not None and bool(number == value)) else None


def _nearest(value: object) -> int | float | None:
    scalar = _scalar(value)
    return _number_of_text(str(scalar)) if isinstance(scalar, str | UserString) else _number_of(scalar)


def _scalar(value: object) -> object:
    """The Python scalar in a NumPy scalar or an array of no dimension; any other value as it is."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else value


def _number_of_text(text: str) -> int | float:
    try:
        return int(canonical(text))  # `float` would round a large integer
    except ValueError:
        return float(canonical(text))


def _number_of(value: object) -> int | float | None:
    if isinstance(value, bool):
        return None
    if hasattr(type(value), "__index__"):
        return int(operator.index(value))  # type: ignore[arg-type]  # it has the method
    # The limit is checked first: `int` of Decimal("1e999999999") would never end.
    if isinstance(value, Decimal | Fraction) and -(2**64) < value < 2**64 and value == int(value):
        return int(value)
    return float(value) if hasattr(type(value), "__float__") else None  # type: ignore[arg-type]  # likewise


def canonical(text: str) -> str:
    """The text in small letters and plain digits, without invisible characters, for comparisons."""
    letters = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in letters if char.isprintable()).strip()


def is_blank(text: str) -> bool:
    """Whether nothing of the text can be seen."""
    return not any(unicodedata.category(char) not in _INVISIBLE and char not in _FILLERS for char in text)


def half_surrogate(text: str) -> str | None:
    """A description of the first lone surrogate in the text; None if there is none."""
    found = _SURROGATE.search(text)
    return None if found is None else f"half of a surrogate pair at character {found.start() + 1}"
