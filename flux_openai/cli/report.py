"""The result of a run: its exit code, and one JSON document."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from flux_openai._http.redaction import printable
from flux_openai.cli.exit_codes import ExitCode
from flux_openai.errors import (
    BadResponseError,
    Billing,
    ConfigurationError,
    DownloadError,
    FluxError,
    FluxStatusError,
    InvalidParamsError,
)
from flux_openai.formats import sniff
from flux_openai.request.image_inputs import WireImage
from flux_openai.retry import cause_of_status

__all__ = [
    "InterruptedRunError",
    "MissingImagesError",
    "Report",
    "SavedImage",
    "as_printable",
    "error_document",
    "exit_code_of",
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


def error_document(error: FluxError) -> dict[str, object]:
    """The attributes of an error as JSON values, without control characters, which a terminal would execute."""
    return {
        "type": type(error).__name__,
        "message": as_printable(str(error)),
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
            "sent": [{name: _without_bytes(value) for name, value in body.items()} for body in self.sent],
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "error": None if self.error is None else error_document(self.error),
            "exit_code": self.exit_code,
        }
        return json.dumps(document, allow_nan=False)


def _without_bytes(value: object) -> object:
    """The value of a parameter; for an image only its type and length, not the base64 of the whole file."""
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    return repr(value) if isinstance(value, WireImage) else value
