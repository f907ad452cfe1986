"""Tracebacks without secrets: the errors of the client's methods are raised without the frames below them.

Tools such as Sentry, rich and pytest print the locals of every frame of a traceback, and those hold the key, the prompt
and signed links.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import openai

from flux_openai.errors import InvalidParamsError

__all__ = ["hide_frames", "hide_locals"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def hide_locals(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function that has the key as an argument: its errors are raised without the frames that hold it."""

    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except (openai.OpenAIError, TypeError, ValueError) as error:
            kwargs.clear()
            raise error.with_traceback(None) from None

    return wrapper


class _Resource(Protocol):
    """An images resource."""

    _client: Any


_F = TypeVar("_F", bound=Callable[..., Any])


def hide_frames(method: _F) -> _F:
    """Decorate a method of the images resource: its errors are raised without the frames below it, and without the key.

    The locals of those frames, the SDK's among them, are the prompt, signed links and headers of the call.
    """
    if inspect.iscoroutinefunction(method):

        @wraps(method)
        async def awrapper(self: _Resource, *args: object, **params: object) -> object:
            try:
                return await method(self, *args, **params)
            except openai.OpenAIError as error:
                params.clear()
                raise _without_key(error, self._client.api_key)  # noqa: B904  # the same error, with its own cause

        return cast(_F, awrapper)

    @wraps(method)
    def wrapper(self: _Resource, *args: object, **params: object) -> object:
        try:
            return method(self, *args, **params)
        except openai.OpenAIError as error:
            params.clear()
            raise _without_key(error, self._client.api_key)  # noqa: B904  # the same error, with its own cause

    return cast(_F, wrapper)


def _without_key(error: openai.OpenAIError, key: str) -> openai.OpenAIError:
    """The error without frames, and without the client's key in the parameters that it lists."""
    if isinstance(error, InvalidParamsError) and len(key) >= 4 and key in f"{error} {error.faults!r}":
        redacted = InvalidParamsError.of(fault.without((key,)) for fault in error.faults)
        error.args, error.faults = redacted.args, redacted.faults
    return error.with_traceback(None)
