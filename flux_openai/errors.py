"""The errors that this package raises. Each is an `openai.OpenAIError`, so existing `except` clauses keep working.

    openai.OpenAIError
    └── FluxError                          .billing .attempts .retry_after .request_id
        ├── ConfigurationError             the client was set up wrongly; also a ValueError
        │   ├── ChangedRowsError           rows of a batch differ from its ledger    .changed .removed
        │   ├── FolderInUseError           another run of a batch uses its folder    .pid .host
        │   ├── InvalidRowsError           rows of a batch are wrong, nothing was sent    .rows
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

The SDK's own errors are not raised: they cannot be unpickled, and they carry the request with the API key in its
headers. `sending/outcome.py` makes the matching class above from them, with a redacted request and response.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self

import openai

from flux_openai._http.redaction import is_secret, redact_links, redact_value, redacted_repr, replace_secrets

__all__ = [
    "DOCUMENTED_CODES",
    "BadResponseError",
    "Billing",
    "ChangedRowsError",
    "ConfigurationError",
    "DocumentedCode",
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
    "FolderInUseError",
    "InvalidParam",
    "InvalidParamsError",
    "InvalidRow",
    "InvalidRowsError",
    "SaveError",
    "ScriptError",
    "UnsafeURLError",
    "listed",
]

Billing = Literal["none", "unknown", "paid"]
"""What a failed call cost: "none", "unknown" (it may have been carried out and billed), or "paid" (the full price)."""


@dataclass(frozen=True, kw_only=True)
class DocumentedCode:
    """One error code that the service documents.

    Attributes:
        code: The `code` of the error object.
        type: Its `type`.
        status: The HTTP status; the service documents none for "forbidden", and 403 is the usual one.
        meaning: What the code says, in a few words.
    """

    code: str
    type: str
    status: int
    meaning: str


_REQUEST = "invalid_request_error"
DOCUMENTED_CODES: Mapping[str, DocumentedCode] = MappingProxyType(
    {
        code: DocumentedCode(code=code, type=kind, status=status, meaning=meaning)
        for status, kind, code, meaning in (
            (400, _REQUEST, "param_error", "a parameter or the path is not supported"),
            (400, _REQUEST, "invalid_messages", "a word filter refused the content"),
            (400, _REQUEST, "sensitive_check_error", "the content check refused the content, or failed"),
            (400, _REQUEST, "websearch_error", "the web search failed; not for images"),
            (400, _REQUEST, "model_error", "the key may not use this model"),
            (400, _REQUEST, "tokens_too_long", "the prompt is too long"),
            (401, _REQUEST, "auth_error", "the key is not valid"),
            (
                403,
                "permission_error",
                "forbidden",
                "the spend cap of the key is reached, or its address list lacks yours",
            ),
            (408, "timeout", "timeout", "the request took too long"),
            (429, "rate_limit_error", "rate_limit", "too many requests"),
            (500, "internal_error", "internal_error", "the service failed"),
            (500, "internal_error", "model_server_error", "the model behind the service failed"),
            (504, "timeout", "gateway_timeout_error", "the model did not answer the gateway in time"),
        )
    }
)
"""The error codes that the service documents (its pages on error codes and API keys, April 2026), by code.

The retry table takes the status of an error inside a 200 from here, and the emulator answers with these codes.
"""


class PartialImage(Protocol):
    """One image of a partial response: a `FluxImage`. A protocol, since an import of that class would be a cycle."""

    def read(self) -> bytes:
        """The bytes of the image."""

    def save(self, path: str | os.PathLike[str] = ".", *, overwrite: bool = False, metadata: bool = False) -> Path:
        """Write the image to a file and return its path."""


class PartialResponse(Protocol):
    """The images of a call that failed in part: a `FluxImagesResponse`; a protocol for the same reason."""

    @property
    def data(self) -> Sequence[PartialImage]:
        """The images."""

    @property
    def sent(self) -> Mapping[str, object]:
        """The JSON body of the whole call, before it was split."""

    @property
    def missing(self) -> int:
        """How many of the requested images did not come."""

    def save(
        self, path: str | os.PathLike[str] = ".", *, overwrite: bool = False, metadata: bool = False
    ) -> list[Path]:
        """Save every image and return the paths."""

    async def asave(
        self, path: str | os.PathLike[str] = ".", *, overwrite: bool = False, metadata: bool = False
    ) -> list[Path]:
        """The same as `save`, for async code."""


class FluxWarning(UserWarning):
    """A request was changed before it was sent, or its answer is not quite what was requested.

    `response.notices` has the same text.
    """


class FluxError(openai.OpenAIError):
    """Base of every error this package raises.

    Attributes:
        billing: What the call cost: "none", "unknown" (it may have been billed) or "paid". After a split call it covers
            all parts, so it is "unknown" if any part may have been billed without an image, else "paid" if there are
            images in `partial`.
        attempts: How many requests were sent or tried, retries included.
        retry_after: The server's Retry-After in seconds; None if it sent none.
        request_id: The service's id of the request: the body's `error.param`, unless that names a parameter such as
            "prompt"; else the X-Request-Id header.
        partial: When a part of a split call fails: a response with the images of the other parts; else None.
        rest: When a part of a split call fails: the arguments of one `images.generate` call for each part without
            images. A part that was paid for but cannot be used is left out, otherwise it would be paid for twice. Your
            own `extra_headers` and `extra_query` are not included, since they may hold a key: pass them again.

    A KeyboardInterrupt or CancelledError during a split call has `partial` and `rest` too; under asyncio it may be the
    `__context__` or `__cause__` of the exception that reaches you.

    Example:
        try:
            response = client.images.generate(prompt="a red fox", n=9, split=True)
        except FluxError as error:
            if error.partial:
                error.partial.save("out")
            if error.billing != "unknown":
                for arguments in error.rest:
                    client.images.generate(**arguments).save("out")
    """

    billing: Billing = "none"
    attempts: int = 0
    retry_after: float | None = None
    request_id: str | None = None
    partial: PartialResponse | None = None
    rest: tuple[dict[str, Any], ...] = ()

    def add_to_message(self, remark: str) -> None:
        """Add a remark to the message."""
        self.args = (f"{self}; {remark}",)

    def with_unknown_billing(self) -> Self:
        """This error, with `billing` "unknown" instead of "none": an earlier attempt may have been billed."""
        if self.billing == "none":
            self.billing = "unknown"
            self.add_to_message("an earlier attempt may have been carried out and billed")
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by state: the constructors of the SDK's errors take arguments that pickle would not pass."""
        return (_revive, (type(self), self.args, self.__dict__))


def _revive(cls: type[FluxError], args: tuple[object, ...], state: dict[str, object]) -> FluxError:
    error = cls.__new__(cls, *args)
    for name, value in state.items():
        setattr(error, name, value)
    return error


def _message_lines(error: FluxError) -> list[str]:
    """The error as a notebook prints it: IPython would show 40 lines of code, and the message says all."""
    return f"{type(error).__name__}: {error}".splitlines()


class ConfigurationError(FluxError, ValueError):
    """A client, a policy or an emulator is set up wrongly: no key, a malformed key, or an unsafe base_url, say.

    Attributes:
        faults: The invalid options, if it is about options.
    """

    faults: "tuple[InvalidParam, ...]" = ()

    _render_traceback_ = _message_lines

    @classmethod
    def of(cls, *invalid: "InvalidParam") -> Self:
        """The error that lists these parameters of a client, a policy or an emulator, one a line."""
        error = cls("\n".join(map(str, invalid)))
        error.faults = invalid
        return error


class ChangedRowsError(ConfigurationError):
    """Rows of a batch differ from those that its folder was started with; nothing was sent.

    Attributes:
        changed: One text for each changed row, such as "line 17 (custom_id '17'): steps: 20 -> 28"; the first 10,000.
        removed: The ids that the input no longer has; the first 10,000.
        count: How many rows are changed or removed.
    """

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    count: int = 0

    @classmethod
    def of_rows(cls, changed: Iterable[str], removed: Iterable[str], *, count: int, folder: str) -> Self:
        """The error that lists what is changed and removed."""
        differences, ids = tuple(changed), tuple(removed)
        lines = [*differences, *(f"custom_id {custom_id!r}: not in the input any more" for custom_id in ids)]
        heading = f"{count:,} row{'' if count == 1 else 's'} changed since {folder!r} was started, nothing was sent:"
        more = [f"  … and {count - 20:,} more"] if count > 20 else []
        hint = "rows can be added; for changed rows, start a new folder"
        error = cls("\n".join([heading, *(f"  {line}" for line in lines[:20]), *more, hint]))
        error.changed, error.removed, error.count = differences, ids, count
        return error


class FolderInUseError(ConfigurationError):
    """Another run of a batch uses the folder; nothing was sent.

    Attributes:
        pid: The process that uses it; None if that is not known.
        host: The computer that it runs on.
    """

    pid: int | None = None
    host: str | None = None

    @classmethod
    def of_owner(cls, folder: str, *, pid: int | None, host: str | None) -> Self:
        """The error that names the process."""
        owner = "another process" if pid is None else f"process {pid} on {host}"
        error = cls(f"the folder {folder!r} is in use by {owner}; one run at a time")
        error.pid, error.host = pid, host
        return error


class ScriptError(ConfigurationError):
    """A fault script of the emulator cannot be parsed.

    Attributes:
        line: The line of the mistake, from 1.
        column: Its column, from 1. The message contains both.
    """

    line: int = 1
    column: int = 1


@dataclass(frozen=True, kw_only=True)
class InvalidParam:
    """One invalid parameter of a call.

    Attributes:
        param: The name of the parameter.
        value: The invalid value; redacted if the parameter holds a credential.
        rule: The rule that the value breaks, such as "must be an integer from 1 to 4".
        nearest: The nearest valid value; None if there is none to suggest.
    """

    param: str
    value: object
    rule: str
    nearest: object | None = None

    def __post_init__(self) -> None:
        """Redact a credential that was passed as the wrong parameter, and the query of links: errors are logged."""
        secret = is_secret(self.param)
        value = redact_value(self.value, name=self.param) if secret else redact_links(self.value)
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "nearest", redact_links(self.nearest))

    def without(self, secrets: tuple[str, ...]) -> "InvalidParam":
        """The same without these secrets in the value and in the text."""
        rule, value = replace_secrets(self.rule, secrets, by="[redacted]"), redact_links(self.value, secrets)
        return type(self)(param=self.param, value=value, rule=rule, nearest=redact_links(self.nearest, secrets))

    def __str__(self) -> str:
        hint = "" if self.nearest is None else f" (nearest: {self.nearest!r})"
        return f"{self.param}={redacted_repr(self.value, name=self.param)}: {self.rule}{hint}"

    __repr__ = __str__

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the redacted value: the value itself can be anything, also an open file."""
        value = redact_value(self.value, name=self.param)
        return (partial(type(self), param=self.param, value=value, rule=self.rule, nearest=self.nearest), ())


def listed(choices: Iterable[str]) -> str:
    """The choices as text for a message: quoted, with commas between them."""
    return ", ".join(repr(choice) for choice in choices)


class InvalidParamsError(FluxError, ValueError):
    """The call breaks the rules of its model; nothing was sent.

    Attributes:
        faults: Every invalid parameter of the call, in the order of the model's fields.

    Example:
        try:
            client.images.generate(prompt="a red fox", steps=99)
        except InvalidParamsError as error:
            print(error.faults[0].nearest)  # 50
    """

    faults: tuple[InvalidParam, ...] = ()

    _render_traceback_ = _message_lines

    @classmethod
    def of(cls, faults: Iterable[InvalidParam]) -> Self:
        """The error that lists all the invalid parameters."""
        found = tuple(faults)
        heading = "1 invalid parameter" if len(found) == 1 else f"{len(found)} invalid parameters"
        error = cls("\n".join([f"{heading}, nothing was sent:", *(f"  {fault}" for fault in found)]))
        error.faults = found
        return error


@dataclass(frozen=True, kw_only=True)
class InvalidRow:
    """One row of a batch that cannot be sent.

    Attributes:
        where: Where it stands, such as "line 17".
        custom_id: Its id; empty if it cannot be read.
        faults: Everything that is wrong with it.
    """

    where: str
    custom_id: str
    faults: tuple[InvalidParam, ...]

    def __str__(self) -> str:
        """One line for each fault; with the id, unless that is the row's number."""
        return "\n".join(f"{_places([self])}: {fault}" for fault in self.faults)


def _places(rows: "list[InvalidRow]") -> str:
    """Where rows stand: "line 4 (custom_id 'fox')", or "lines 4, 5, 8 and 38 more"."""
    if len(rows) == 1:
        [row] = rows
        named = row.custom_id and not row.custom_id.isdecimal()
        return f"{row.where} (custom_id {row.custom_id!r})" if named else row.where
    kind, _, first = rows[0].where.rpartition(" ")
    if kind and all(row.where.rpartition(" ")[0] == kind for row in rows):
        kind, places = f"{kind}s ", [first, *(row.where.rpartition(" ")[2] for row in rows[1:])]
    else:
        kind, places = "", [row.where for row in rows]
    shown = places[: 3 if len(places) > 4 else len(places) - 1]
    rest = f"{len(places) - 3:,} more" if len(places) > 4 else places[-1]
    return f"{kind}{', '.join(shown)} and {rest}"


class InvalidRowsError(ConfigurationError):
    """Rows of a batch break the rules of their models; nothing was sent.

    Attributes:
        rows: The invalid rows, the first 10,000 of them.
        count: How many there are.

    Example:
        try:
            report = run_batch_sync("prompts.csv", "out")
        except InvalidRowsError as error:
            for row in error.rows:
                print(row.where, row.faults[0].rule)  # line 17 must be an integer from 1 to 50
    """

    rows: tuple[InvalidRow, ...] = ()
    count: int = 0

    @classmethod
    def of_rows(
        cls, invalid: Iterable[InvalidRow], *, count: int | None = None, name: str = "", hint: str = ""
    ) -> Self:
        """The error that lists these rows of an input of this name, each fault once; `count` if there are more."""
        listed_rows = tuple(invalid)
        count = len(listed_rows) if count is None else count
        heading = f"{count:,} invalid row{'' if count == 1 else 's'}{name and f' in {name}'}, nothing was sent:"
        alike = dict[str, list[InvalidRow]]()
        for row in listed_rows:
            for fault in row.faults:
                alike.setdefault(str(fault), []).append(row)
        lines = [f"  {_places(rows)}: {fault}" for fault, rows in alike.items()]
        more = [f"  … and {count - len(listed_rows):,} more"] if count > len(listed_rows) else []
        error = cls("\n".join([heading, *lines, *more, *([hint] if hint else [])]))
        error.rows, error.count = listed_rows, count
        error.faults = tuple(fault for row in listed_rows for fault in row.faults)
        return error


class DownloadError(FluxError):
    """The image was made and paid for, but its URL could not be downloaded; `image.read()` can be called again.

    Attributes:
        status_code: The HTTP status of the failed download; None if no answer came.
    """

    billing: Billing = "paid"
    status_code: int | None = None


class UnsafeURLError(DownloadError):
    """The URL of an image, or a redirect from it, must not be fetched: because of a private address, for example."""


class SaveError(FluxError, OSError):
    """The image was made and paid for, but the file could not be written; `image.save()` can be called again."""

    billing: Billing = "paid"

    def __str__(self) -> str:
        """The message; `OSError` would print its `errno` instead."""
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle `errno`, `strerror` and `filename` too: OSError does not keep them in `__dict__`."""
        state = {"errno": self.errno, "strerror": self.strerror, "filename": self.filename, **self.__dict__}
        return (_revive, (type(self), self.args, state))


class FluxAPIError(FluxError, openai.APIError):
    """The request failed at the service, or on the way there or back.

    Attributes:
        raw: The first 64 KiB of the answer's body, without keys and without the signatures of links; empty if none
            came.
    """

    raw: bytes = b""

    def add_to_message(self, remark: str) -> None:
        """Add a remark to the message."""
        super().add_to_message(remark)
        self.message = str(self)


class BadResponseError(FluxAPIError, openai.APIResponseValidationError):
    """The service answered with success, but nothing in the answer can be used: no JSON, or no image, for example.

    It is not retried. `raw` has the beginning of the answer, and `billing` is "paid" if it holds images.

    Example:
        try:
            response = client.images.generate(prompt="a red fox")
        except BadResponseError as error:
            Path("answer.bin").write_bytes(error.read_body())  # with the links as they were signed: keep it private
    """

    __slots__ = ("_body",)  # not in `vars`, which tools print, and which is pickled
    _body: bytes

    def read_body(self) -> bytes:
        """The whole answer as it came, up to 64 MiB: it may be all that leads to an image that was paid for.

        It has the signatures of links, so it is in no message, log or pickle.

        Raises:
            FluxError: The error was pickled or copied, which drops the answer; `raw` is still there.
        """
        try:
            return self._body
        except AttributeError:
            error = FluxError("the whole answer does not survive pickling; `raw` has its beginning, redacted")
            error.billing, error.attempts, error.request_id = self.billing, self.attempts, self.request_id
            raise error from None

    def keep_body(self, body: bytes) -> None:
        """Keep the whole answer for `read_body`."""
        self._body = body


class FluxConnectionError(FluxAPIError, openai.APIConnectionError):
    """No complete answer came back; `billing` is "unknown" if the request may have been carried out, else "none"."""


class FluxTimeoutError(FluxConnectionError, openai.APITimeoutError):
    """A time-out; `billing` is "unknown" if the request may have been carried out, else "none"."""


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
    """409: the service reports that the request conflicts with another."""


class FluxUnprocessableEntityError(FluxStatusError, openai.UnprocessableEntityError):
    """422: the service cannot process the parameters."""


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
