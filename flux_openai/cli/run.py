"""The run itself: check everything, prove the folder, then call after call; what is made is saved at once."""

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_openai.cli.console import Screen
from flux_openai.cli.exit_codes import EndedEarlyError, MissingImagesError
from flux_openai.cli.report import Report, SavedImage, shown
from flux_openai.cli.service import Service, prove_writable
from flux_openai.client.clients import FluxOpenAI
from flux_openai.errors import FluxAPIError, FluxError, FluxWarning
from flux_openai.request.validation import CheckedParams, split_params, validate
from flux_openai.response.response import FluxImage, FluxImagesResponse

__all__ = ["Order", "carry_out"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for: the parameters that were given, of which service, and the folder for the images."""

    params: Mapping[str, object]
    editing: bool
    service: Service
    folder: Path


class _Tally:
    """What a run has come to so far; made inside the run and seen by nobody else."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.answers: list[FluxImagesResponse] = []
        self.images: list[SavedImage] = []
        self.unsaved: list[FluxImage] = []
        self.notices: dict[str, None] = {}
        self.errors: list[FluxError] = []
        self.under_way = False

    def note(self, notices: Iterable[str]) -> None:
        for notice in map(shown, notices):
            if notice not in self.notices:
                self.notices[notice] = None
                self.screen.say(f"notice: {notice}")

    def fail(self, error: FluxError) -> None:
        if self.answers and isinstance(error, FluxAPIError) and error.billing == "none":
            # What the run came to is more than its last call.
            error.billing = "paid"
            error.add_to_message("the images of the calls before are paid for")
        self.errors.append(error)
        self.screen.failed(error)

    @property
    def missing(self) -> int:
        return sum(answer.missing for answer in self.answers)

    def report(self) -> Report:
        failed = sum(error.attempts for error in self.errors if isinstance(error, FluxAPIError))
        return Report(
            images=tuple(self.images),
            request_ids=tuple(shown(answer.request_id) for answer in self.answers if answer.request_id),
            sent=tuple(answer.sent for answer in self.answers),
            attempts=failed + sum(answer.attempts for answer in self.answers),
            notices=tuple(self.notices),
            missing=self.missing,
            expires_at=min((answer.expires_at for answer in self.answers), default=None),
            unsaved=tuple(image.url for image in self.unsaved if image.url is not None),
            error=self.errors[-1] if self.errors else None,
        )


def carry_out(order: Order, screen: Screen) -> Report:
    """Make and save the images; whatever goes wrong stands in the report, beside what was done until then."""
    tally = _Tally(screen)
    try:
        with warnings.catch_warnings():
            # They come as notices too, and a filter that makes errors of them would end a run half way.
            warnings.simplefilter("ignore", FluxWarning)
            _make_all(order, tally)
    except FluxError as error:
        tally.fail(error)
    except KeyboardInterrupt:
        tally.fail(_interruption(tally))
    report = tally.report()
    screen.ended(report)
    return report


def _make_all(order: Order, tally: _Tally) -> None:
    params = validate(order.params, editing=order.editing, split=True)
    tally.note(params.notices)
    with order.service.client(on_retry=tally.screen.retrying) as client:
        prove_writable(order.folder)
        for part in split_params(params):
            _make(part, client, order.folder, tally)
            if tally.errors:
                return
    if tally.missing:
        tally.fail(MissingImagesError(f"images that did not come back usable: {tally.missing}"))


def _make(part: CheckedParams, client: FluxOpenAI, folder: Path, tally: _Tally) -> None:
    before = len(tally.images)
    try:
        with tally.screen.busy("waiting for the service"):
            _ask_and_save(part, client, folder, tally)
    finally:
        tally.screen.saved(tally.images[before:])


def _ask_and_save(part: CheckedParams, client: FluxOpenAI, folder: Path, tally: _Tally) -> None:
    tally.under_way = True
    arguments: dict[str, Any] = {"model": part.model.id, **part.values}
    answer = client.images.generate(**arguments)
    tally.answers.append(answer)
    tally.under_way = False
    tally.unsaved += answer.data
    tally.note(answer.notices)
    for image in answer.data:
        _save(image, folder, tally)


def _save(image: FluxImage, folder: Path, tally: _Tally) -> None:
    try:
        # The separator says that it is a folder, whatever its name ends in.
        path = image.save(os.path.join(folder, ""))  # noqa: PTH118  # a Path would drop the separator again
    except FluxError as error:
        tally.fail(error)
    else:
        tally.unsaved.remove(image)
        tally.images.append(SavedImage.at(path))


def _interruption(tally: _Tally) -> EndedEarlyError:
    if tally.under_way:
        error = EndedEarlyError("interrupted: the request that was under way may have been carried out and billed")
        error.billing = "unknown"
    elif tally.answers:
        error = EndedEarlyError("interrupted: the images asked for until now are paid for")
        error.billing = "paid"
    else:
        error = EndedEarlyError("interrupted: nothing was sent")
    return error
