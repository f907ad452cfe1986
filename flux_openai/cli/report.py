"""The result of a run: its exit code, and one JSON document."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Self

from flux_openai._http.redaction import printable, redact_value
from flux_openai.cli.exit_codes import ExitCode
from flux_openai.cli.options import OutputOptions, ServiceOptions
from flux_openai.errors import (
    BadResponseError,
    Billing,
    ConfigurationError,
    DownloadError,
    FluxError,
    FluxStatusError,
    InvalidParam,
    InvalidParamsError,
)
from flux_openai.formats import sniff
from flux_openai.models import FLUX_MODELS, Price
from flux_openai.request.image_inputs import WireImage
from flux_openai.retry import cause_of_status
from flux_openai.sending.split import PARTIAL_REMARK

__all__ = [
    "InterruptedRunError",
    "MissingImagesError",
    "Report",
    "SavedImage",
    "as_printable",
    "error_document",
    "error_text",
    "exit_code_of",
    "without_images",
]

_WITH_STATUS = (BadResponseError, DownloadError, FluxStatusError)


class MissingImagesError(FluxError):
    """Fewer usable images came back than were requested; the usable ones are saved."""

    billing: Billing = "paid"


class InterruptedRunError(FluxError):
    """Ctrl-C ended the run; `billing` is what the run may have cost."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for the error that ended a run. Raises TypeError for an error that is a bug in this program."""
    match error:
        case KeyboardInterrupt() | InterruptedRunError():
            return ExitCode.INTERRUPTED
        case InvalidParamsError() | ConfigurationError():
            return ExitCode.BAD_INPUT
        case FluxError(billing="unknown"):
            return ExitCode.UNKNOWN
        case FluxStatusError() if _is_refusal(error):
            return ExitCode.REFUSED  # even if earlier calls were paid for: a second run would be refused too
        case FluxError(billing="paid"):
            return ExitCode.UNUSABLE
        case FluxError():
            return ExitCode.GAVE_UP
        case _:
            raise TypeError(f"no exit code for {type(error).__name__}") from error


def _is_refusal(error: FluxStatusError) -> bool:
    # openai 2 does not convert the code to text; it may be a number.
    code = None if error.code is None else str(error.code)
    return cause_of_status(error.status_code, code, error.type) == "refused"


def as_printable(text: str) -> str:
    """Text from the service for the terminal: scrubbed, without control characters, at most 4000 characters."""
    return printable(text, limit=4000)


@dataclass(frozen=True, kw_only=True)
class SavedImage:
    """One saved file: its path, its MIME type (None if unknown), and its size in bytes."""

    path: str
    mime_type: str | None
    bytes: int

    @classmethod
    def at(cls, path: Path) -> Self:
        """The image in a file."""
        with path.open("rb") as file:
            kind = sniff(file.read(64))
        return cls(path=str(path), mime_type=None if kind is None else kind.mime, bytes=path.stat().st_size)


_NAMES = {"prompt": "PROMPT", "n": "-n", "image": "-i", "images": "-i"}
_OPTIONS = frozenset(
    [
        *(name for model in FLUX_MODELS.values() for name in model.fields),
        *(option.name for group in (ServiceOptions, OutputOptions) for option in fields(group)),
        "size",
    ]
)
_ARGUMENT = re.compile(r"\b([a-z_]+)=('[^']*'|[\w.:/+-]+)")


def _option(name: str) -> str:
    return _NAMES.get(name, f"--{name.replace('_', '-')}")


def _in_options(text: str) -> str:
    """A rule of the library with the options of the program in place of arguments: "--size 3x4" for "size='3x4'"."""

    def option(argument: re.Match[str]) -> str:
        name, value = argument.groups()
        if name not in _OPTIONS:
            return argument[0]
        return _option(name) if value == "True" else f"{_option(name)} {value.strip(chr(39))}"

    return _ARGUMENT.sub(option, text)


def _fault(fault: InvalidParam) -> str:
    value = "" if fault.value is None else f" {redact_value(fault.value, name=fault.param)}"
    nearest = fault.nearest
    if nearest is None:
        hint = ""
    elif isinstance(nearest, str) and _ARGUMENT.fullmatch(nearest):
        hint = f" (nearest: {_in_options(nearest)})"
    else:
        hint = f" (nearest: {_option(fault.param)} {nearest})"
    return f"{_option(fault.param)}{value}: {_in_options(fault.rule)}{hint}"


def error_text(error: FluxError) -> str:
    """The message of an error, which names options of the program where the library names arguments."""
    if isinstance(error, InvalidParamsError | ConfigurationError) and error.faults:
        found = [_fault(fault) for fault in error.faults]
        return "\n  ".join(["nothing was sent:", *found]) if len(found) > 1 else found[0]
    text = str(error)
    for words, shown in _SHOWN_AS.items():
        text = text.replace(words, shown)
    return as_printable(text)


_SHOWN_AS: Mapping[str, str] = {
    PARTIAL_REMARK: "the images that came are paid for",
    "the argument api_key=": "--api-key-file",
    "allow_http=True": "--allow-http",
}
"""What only a program can use, and what a reader of the command line can."""


def error_document(error: FluxError) -> dict[str, object]:
    """The attributes of an error as JSON values, without control characters, which a terminal would execute."""
    return {
        "type": type(error).__name__,
        "message": error_text(error),
        "billing": error.billing,
        "attempts": error.attempts,
        "retry_after": error.retry_after,
        "request_id": None if error.request_id is None else as_printable(error.request_id),
        "status_code": error.status_code if isinstance(error, _WITH_STATUS) else None,
    }


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a run.

    Attributes:
        images: The saved files.
        request_ids: The request ids of the calls that were answered.
        sent: The bodies of these calls.
        attempts: The number of requests, retries included.
        notices: The texts of the warnings about the calls.
        missing: The number of images that did not come back usable.
        estimated_cost: What the images that came probably cost; None if no price is known.
        unsaved: The links of images that could not be saved.
        expires_at: When the first link of the service stops working.
        error: The error that ended the run, if any.
    """

    images: tuple[SavedImage, ...] = ()
    request_ids: tuple[str, ...] = ()
    sent: tuple[Mapping[str, object], ...] = ()
    attempts: int = 0
    notices: tuple[str, ...] = ()
    missing: int = 0
    estimated_cost: Price | None = None
    unsaved: tuple[str, ...] = field(default=(), repr=False)
    expires_at: datetime | None = None
    error: FluxError | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the program."""
        return ExitCode.DONE if self.error is None else exit_code_of(self.error)

    def as_json(self) -> str:
        """The report on one line, in ASCII, which every locale can encode."""
        document = vars(self) | {
            "images": [asdict(image) for image in self.images],
            "sent": [without_images(body) for body in self.sent],
            "estimated_cost": None if self.estimated_cost is None else str(self.estimated_cost),
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "error": None if self.error is None else error_document(self.error),
            "exit_code": self.exit_code,
        }
        return json.dumps(document, allow_nan=False)


def without_images(body: Mapping[str, object]) -> dict[str, object]:
    """The body of a request as it can be printed."""
    return {name: _without_bytes(value) for name, value in body.items()}


def _without_bytes(value: object) -> object:
    """The value of a parameter; for an image only its type and length, not the base64 of the whole file."""
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    return repr(value) if isinstance(value, WireImage) else value
