"""Signatures for functions whose keyword arguments are typed by a TypedDict (PEP 692)."""

import inspect
from collections.abc import Callable
from typing import Any, Required, TypeVar

__all__ = ["with_signature"]

_F = TypeVar("_F", bound=Callable[..., object])


def with_signature(keywords: type) -> Callable[[_F], _F]:
    """Decorate a function with `**keywords: Unpack[TypedDict]`, so that `help()` and notebooks list every keyword.

    Without it `inspect.signature` shows only `**keywords`, because it does not resolve `Unpack`.
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
        expanded = signature.replace(parameters=[*first, *added, *last])
        function.__signature__ = expanded  # type: ignore[attr-defined]  # where `inspect.signature` looks first
        return function

    return decorate


def _readable(annotation: Any) -> object:  # noqa: ANN401  # annotations have no common type
    """The annotation of a key without `Required[...]` and `ForwardRef`, which make sense in a TypedDict only."""
    if getattr(annotation, "__origin__", None) is Required:
        annotation = annotation.__args__[0]
    return getattr(annotation, "__forward_arg__", annotation)
