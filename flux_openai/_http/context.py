"""Context variables that have a value inside of a block: what `with variable.set(value)` does from Python 3.14 on."""

from contextvars import ContextVar, Token
from typing import Any

__all__ = ["Bound"]


class Bound:
    """A block in which context variables have these values; a generator for each would take much longer."""

    def __init__(self, *values: tuple[ContextVar[Any], object]) -> None:
        """The variables, each with its value; nothing is set yet."""
        self._values = values
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> None:
        """Set the values."""
        self._tokens = [variable.set(value) for variable, value in self._values]

    def __exit__(self, *_: object) -> None:
        """Set the values that were there before."""
        for token in self._tokens:
            token.var.reset(token)
