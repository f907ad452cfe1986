"""Signatures of functions whose keywords are written once, in a TypedDict."""

import inspect
from collections.abc import Callable
from typing import Any, Required, TypeVar

__all__ = ["with_signature"]

_F = TypeVar("_F", bound=Callable[..., object])


def with_signature(keywords: type) -> Callable[[_F], _F]:
    """Decorate a function whose `**keywords` are the keys of a TypedDict: `help()` and notebooks then show each.

    `inspect.signature` would show `**keywords` alone, for it does not look into `Unpack`.
    """

    def decorate(function: _F) -> _F:
        signature, required = inspect.signature(function), getattr(keywords, "__required_keys__", frozenset[str]())
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if name in required else None,
                annotation=_readable(annotation),
            )
            for name, annotation in keywords.__annotations__.items()
            if not name.startswith("_")
        ]
        first = [parameter for parameter in own if parameter.kind is not parameter.KEYWORD_ONLY]
        last = [parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY]
        added.sort(key=lambda parameter: parameter.default is not parameter.empty)
        shown = signature.replace(parameters=[*first, *added, *last])
        function.__signature__ = shown  # type: ignore[attr-defined]  # where `inspect.signature` looks first
        return function

    return decorate


def _readable(annotation: Any) -> object:  # noqa: ANN401  # annotations have no common type
    """The annotation of a key without what only a TypedDict needs: `Required[...]`, and the wrapping of text."""
    if getattr(annotation, "__origin__", None) is Required:
        annotation = annotation.__args__[0]
    return getattr(annotation, "__forward_arg__", annotation)
