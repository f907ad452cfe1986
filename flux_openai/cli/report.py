"""What a run has come to, as one JSON document."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from flux_openai._http.redaction import printable
from flux_openai.cli.exit_codes import ExitCode, exit_code_of
from flux_openai.errors import BadResponseError, Billing, DownloadError, FluxError, FluxStatusError
from flux_openai.formats import sniff
from flux_openai.request.image_inputs import WireImage

__all__ = ["Failure", "Report", "SavedImage", "shown"]

_LONGEST_TEXT = 4000
_WITH_STATUS = (BadResponseError, DownloadError, FluxStatusError)


def shown(text: str) -> str:
    """Text that may hold words of the service's, as it may go to a terminal or into a document."""
    return printable(text, limit=_LONGEST_TEXT)


@dataclass(frozen=True, kw_only=True)
class SavedImage:
    """One image on the disk; `mime_type` is None when its bytes are of no known type."""

    path: str
    mime_type: str | None
    bytes: int

    @classmethod
    def at(cls, path: Path) -> Self:
        """The image in a file."""
        with path.open("rb") as file:
            kind = sniff(file.read(64))
        return cls(path=str(path), mime_type=None if kind is None else kind.mime, bytes=path.stat().st_size)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended a run before everything was done."""

    type: str
    message: str
    billing: Billing
    attempts: int
    retry_after: float | None
    request_id: str | None
    status_code: int | None

    @classmethod
    def of(cls, error: FluxError) -> Self:
        """The facts of an error, and none of its words that a terminal would obey."""
        return cls(
            type=type(error).__name__,
            message=shown(str(error)),
            billing=error.billing,
            attempts=error.attempts,
            retry_after=error.retry_after,
            request_id=None if error.request_id is None else shown(error.request_id),
            status_code=error.status_code if isinstance(error, _WITH_STATUS) else None,
        )


def _brief(value: object) -> object:
    """A value as it stands in the document: an image is named, and not repeated."""
    if isinstance(value, list):
        return [_brief(item) for item in value]
    return repr(value) if isinstance(value, WireImage) else value


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run has come to.

    `images`: the files. `request_ids` and `sent`: the service's names and the bodies of the calls that were answered.
    `attempts`: requests in all. `notices`: what was sent, or came back, in another way than asked. `missing`: images
    that did not come back usable. `unsaved`: the links of images that came and are in no file. `expires_at`: when the
    first link of the service stops working.
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
        """What the program returns."""
        return ExitCode.DONE if self.error is None else exit_code_of(self.error)

    def as_json(self) -> str:
        """The report on one line; plain ASCII, so that every terminal and every locale can take it."""
        document = {
            "images": [asdict(image) for image in self.images],
            "request_ids": self.request_ids,
            "sent": [{name: _brief(value) for name, value in body.items()} for body in self.sent],
            "attempts": self.attempts,
            "notices": self.notices,
            "missing": self.missing,
            "unsaved": self.unsaved,
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "error": None if self.error is None else asdict(Failure.of(self.error)),
            "exit_code": self.exit_code,
        }
        return json.dumps(document, allow_nan=False)
