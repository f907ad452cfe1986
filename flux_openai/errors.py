"""Everything this package raises. Each is an `openai.OpenAIError`, so existing `except` clauses keep working.

    openai.OpenAIError
    └── FluxError                          .billing .attempts .retry_after .request_id
        ├── ConfigurationError             the client was set up wrongly; also a ValueError
        │   └── ScriptError                a fault script of the emulator is wrong    .line .column
        ├── InvalidParamsError             the call is wrong, nothing was sent; also a ValueError
        ├── DownloadError                  the image was made, but its link could not be read
        │   └── UnsafeURLError             the link is one we refuse to open
        ├── SaveError                      the image was made, but the file could not be written; also an OSError
        └── FluxAPIError                   the service's side; also an openai.APIError
            ├── BadResponseError           also an openai.APIResponseValidationError
            ├── FluxConnectionError        also an openai.APIConnectionError
            │   └── FluxTimeoutError       also an openai.APITimeoutError
            └── FluxStatusError            also an openai.APIStatusError
                ├── FluxBadRequestError            400, also an openai.BadRequestError
                ├── FluxAuthenticationError        401, also an openai.AuthenticationError
                ├── FluxPermissionDeniedError      403, also an openai.PermissionDeniedError
                ├── FluxNotFoundError              404, also an openai.NotFoundError
                ├── FluxConflictError              409, also an openai.ConflictError
                ├── FluxUnprocessableEntityError   422, also an openai.UnprocessableEntityError
                ├── FluxRateLimitError             429, also an openai.RateLimitError
                └── FluxInternalServerError        5xx, also an openai.InternalServerError

An SDK error is not raised as it is: it cannot be unpickled, and it carries the request with the key in it. `answers`
makes the class above from it, with the request and the response reduced to what may be shown.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import openai

from flux_openai._http.redaction import is_secret, redact_value, redacted_repr

__all__ = [
    "BadResponseError",
    "Billing",
    "ConfigurationError",
    "DownloadError",
    "FluxAPIError",
    "FluxAuthenticationError",
    "FluxBadRequestError",
    "FluxConflictError",
    "FluxConnectionError",
    "FluxError",
    "FluxInternalServerError",
    "FluxNotFoundError",
    "FluxPermissionDeniedError",
    "FluxRateLimitError",
    "FluxStatusError",
    "FluxTimeoutError",
    "FluxUnprocessableEntityError",
    "FluxWarning",
    "InvalidParam",
    "InvalidParamsError",
    "SaveError",
    "ScriptError",
    "UnsafeURLError",
    "listed",
]

Billing = Literal["none", "unknown", "paid"]
"""What the failed call cost: nothing, nobody here can know, or the full price."""


class PartialImage(Protocol):
    """One image of a partial response: a `FluxImage`, as far as an error knows it."""

    def read(self) -> bytes:
        """The bytes of the image."""

    def save(self, path: str | os.PathLike[str] = ".", *, overwrite: bool = False) -> Path:
        """Write the image to a file and return its path."""


class PartialResponse(Protocol):
    """The images that a failed call brought all the same: a `FluxImagesResponse`, as far as an error knows it."""

    @property
    def data(self) -> Sequence[PartialImage]:
        """The images."""

    @property
    def sent(self) -> Mapping[str, object]:
        """What was asked for as a whole."""

    @property
    def missing(self) -> int:
        """How many images were asked for and did not come."""

    def save(self, path: str | os.PathLike[str] = ".", *, overwrite: bool = False) -> list[Path]:
        """Save every image and return the paths."""

    async def asave(self, path: str | os.PathLike[str] = ".", *, overwrite: bool = False) -> list[Path]:
        """The same as `save`, for async code."""


class FluxWarning(UserWarning):
    """Something was sent, or came back, in another way than asked; the same text is in `response.notices`."""


class FluxError(openai.OpenAIError):
    """Base of every error this package raises.

    `billing` is "none", "unknown" or "paid"; `attempts` counts the requests that were sent or tried; `retry_after` is
    what the server asked for, in seconds; `request_id` comes from the body's `error.param`, else from the header.

    When a part of a split call fails, `partial` holds the images that the others brought, and `rest` the arguments of
    one `images.generate` call for each part that brought none, the one that was refused included, but not one that was
    paid for and cannot be used. Headers and a query of your own are to be given again. `billing` is then "unknown" if
    one of those may have been billed, else "paid": the images in `partial` are. An interruption carries both too; under
    asyncio it may stand behind what is raised, as its context or cause.
    """

    billing: Billing = "none"
    attempts: int = 0
    retry_after: float | None = None
    request_id: str | None = None
    partial: PartialResponse | None = None
    rest: tuple[dict[str, Any], ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by state: the constructors of the SDK's errors take arguments that pickle would not pass."""
        return (_revive, (type(self), self.args, self.__dict__))


def _revive(cls: type[FluxError], args: tuple[object, ...], state: dict[str, object]) -> FluxError:
    error = cls.__new__(cls, *args)
    for name, value in state.items():
        setattr(error, name, value)
    return error


class ConfigurationError(FluxError, ValueError):
    """The client cannot be set up as asked: no key, a key that no header can hold, an unsafe base_url."""

    @classmethod
    def of(cls, *invalid: "InvalidParam") -> Self:
        """The error that reports these parameters of a client, a policy or an emulator, one a line."""
        return cls("\n".join(map(str, invalid)))


class ScriptError(ConfigurationError):
    """A fault script of the emulator cannot be read; `line` and `column` count from 1, and the message shows them."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, kw_only=True)
class InvalidParam:
    """One thing wrong with a call: the parameter, the value given, the rule, and the nearest value that would do."""

    param: str
    value: object
    rule: str
    nearest: object | None = None

    def __post_init__(self) -> None:
        """A credential that was passed to the wrong place must not travel on inside the error."""
        if is_secret(self.param):
            object.__setattr__(self, "value", redact_value(self.value, name=self.param))

    def __str__(self) -> str:
        hint = "" if self.nearest is None else f" (nearest: {self.nearest!r})"
        return f"{self.param}={redacted_repr(self.value, name=self.param)}: {self.rule}{hint}"

    __repr__ = __str__

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the value as it is shown: what was given can be anything, an open file too."""
        kept = redact_value(self.value, name=self.param)
        return (partial(type(self), param=self.param, value=kept, rule=self.rule, nearest=self.nearest), ())


def listed(choices: Iterable[str]) -> str:
    """The choices as they stand in a message."""
    return ", ".join(repr(choice) for choice in choices)


class InvalidParamsError(FluxError, ValueError):
    """The call breaks the model's rules; nothing was sent. `faults` has every fault, in the order of the fields."""

    faults: tuple[InvalidParam, ...] = ()

    @classmethod
    def of(cls, faults: Iterable[InvalidParam]) -> Self:
        """The error that reports all the given faults."""
        found = tuple(faults)
        heading = "1 invalid parameter" if len(found) == 1 else f"{len(found)} invalid parameters"
        error = cls("\n".join([f"{heading}, nothing was sent:", *(f"  {fault}" for fault in found)]))
        error.faults = found
        return error


class DownloadError(FluxError):
    """The image was made and paid for, but its link could not be read; `status_code` is the answer's, if one came."""

    billing: Billing = "paid"
    status_code: int | None = None


class UnsafeURLError(DownloadError):
    """The link of an image points to where no image may come from; it was not opened."""


class SaveError(FluxError, OSError):
    """The image was made and paid for, but the file could not be written; the image object still holds it."""

    billing: Billing = "paid"

    def __str__(self) -> str:
        """The sentence, where OSError would show its number."""
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with what OSError keeps outside the state of an object."""
        state = {"errno": self.errno, "strerror": self.strerror, "filename": self.filename, **self.__dict__}
        return (_revive, (type(self), self.args, state))


class FluxAPIError(FluxError, openai.APIError):
    """The call reached for the service and failed there, or on the way.

    `raw` is what came of the answer's body, 64 KiB at most, without keys and without the signatures of links.
    """

    raw: bytes = b""

    def add_to_message(self, remark: str) -> None:
        """Add a remark to the message."""
        self.message = f"{self.message}; {remark}"
        self.args = (self.message,)

    def with_unknown_billing(self) -> Self:
        """This error, with `billing` "unknown" instead of "none": an earlier attempt may have been billed."""
        if self.billing == "none":
            self.billing = "unknown"
            self.add_to_message("an earlier attempt may have been carried out and billed")
        return self


class BadResponseError(FluxAPIError, openai.APIResponseValidationError):
    """The service answered with success, and nothing in the answer can be used."""


class FluxConnectionError(FluxAPIError, openai.APIConnectionError):
    """No whole answer came back; `billing` says whether the request can have been carried out."""


class FluxTimeoutError(FluxConnectionError, openai.APITimeoutError):
    """A time limit ran out; `billing` says whether the request can have been carried out."""


class FluxStatusError(FluxAPIError, openai.APIStatusError):
    """The service answered with an error status, or with an error inside a 200."""


class FluxBadRequestError(FluxStatusError, openai.BadRequestError):
    """400: the service refuses the parameters or the content."""


class FluxAuthenticationError(FluxStatusError, openai.AuthenticationError):
    """401: the key is missing or wrong."""


class FluxPermissionDeniedError(FluxStatusError, openai.PermissionDeniedError):
    """403: the key may not use this model."""


class FluxNotFoundError(FluxStatusError, openai.NotFoundError):
    """404: no such model or path."""


class FluxConflictError(FluxStatusError, openai.ConflictError):
    """409: the service says the request clashes with another."""


class FluxUnprocessableEntityError(FluxStatusError, openai.UnprocessableEntityError):
    """422: the service cannot work with the parameters."""


class FluxRateLimitError(FluxStatusError, openai.RateLimitError):
    """429: too many requests, or no credit left."""


class FluxInternalServerError(FluxStatusError, openai.InternalServerError):
    """5xx: the service failed."""


_BY_STATUS: Mapping[int, type[FluxStatusError]] = {
    400: FluxBadRequestError,
    401: FluxAuthenticationError,
    403: FluxPermissionDeniedError,
    404: FluxNotFoundError,
    409: FluxConflictError,
    422: FluxUnprocessableEntityError,
    429: FluxRateLimitError,
}


def status_error_class(status: int) -> type[FluxStatusError]:
    """The class for an HTTP status, chosen as the SDK chooses its own."""
    return FluxInternalServerError if status >= 500 else _BY_STATUS.get(status, FluxStatusError)
