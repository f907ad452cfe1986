"""A run of `generate` or `edit`.

    make_images(params)
      validate(params)                   every fault at once, before anything is sent
      prove_writable(…), prove_free(…)   so that no image is paid for that cannot be saved
      for part in split_params(…):       one call after the other
        client.images.generate(…)
        image.save(place)                before the next call: an error or Ctrl-C then loses no image
    Report

Errors do not end the run without a report: it contains the images that were saved before.
"""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flux_openai.cli.console import Console
from flux_openai.cli.options import ServiceOptions
from flux_openai.cli.report import InterruptedRunError, MissingImagesError, Report, SavedImage, as_printable
from flux_openai.cli.service import client_of, prove_writable
from flux_openai.client.clients import FluxOpenAI
from flux_openai.errors import ConfigurationError, FluxAPIError, FluxError, FluxWarning
from flux_openai.request.validation import CheckedParams, split_params, validate
from flux_openai.response.file_names import names_a_file, numbered, place_of, target

if TYPE_CHECKING:
    from flux_openai.response.response import FluxImage, FluxImagesResponse

__all__ = ["make_images"]


class _RunState:
    """The images, notices and errors of a run so far."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.responses: list[FluxImagesResponse] = []
        self.images: list[SavedImage] = []
        self.unsaved: list[FluxImage] = []
        self.notices: dict[str, None] = {}
        self.errors: list[FluxError] = []
        self.in_flight = False

    @property
    def missing(self) -> int:
        return sum(response.missing for response in self.responses)

    def notice(self, notices: Iterable[str]) -> None:
        """Print each notice once: the calls of one run repeat their notices."""
        for notice in map(as_printable, notices):
            if notice not in self.notices:
                self.notices[notice] = None
                self.console.message(f"notice: {notice}")

    def fail(self, error: FluxError) -> None:
        if self.responses and isinstance(error, FluxAPIError) and error.billing == "none":
            # The billing is that of the whole run, not only of the call that failed.
            error.billing = "paid"
            error.add_to_message("the images of the calls before are paid for")
        self.errors.append(error)
        self.console.failed(error)

    def report(self) -> Report:
        failed = sum(error.attempts for error in self.errors if isinstance(error, FluxAPIError))
        return Report(
            images=tuple(self.images),
            request_ids=tuple(as_printable(response.request_id) for response in self.responses if response.request_id),
            sent=tuple(response.sent for response in self.responses),
            attempts=failed + sum(response.attempts for response in self.responses),
            notices=tuple(self.notices),
            missing=self.missing,
            expires_at=min((response.expires_at for response in self.responses), default=None),
            unsaved=tuple(image.url for image in self.unsaved if image.url is not None),
            error=self.errors[-1] if self.errors else None,
        )


def make_images(
    params: Mapping[str, object], *, editing: bool, service: ServiceOptions, out: str, as_json: bool
) -> Report:
    """Make and save the images; the report has everything that was made, also after an error.

    Args:
        params: The parameters by name; those that are None count as left out.
        editing: Whether the parameters are those of `edit`.
        service: The service and its options.
        out: The folder for the images, or a file, if it ends in an image extension and is no folder.
        as_json: Whether stdout gets one JSON document instead of the paths.
    """
    console = Console(as_json=as_json)
    state = _RunState(console)
    try:
        with warnings.catch_warnings():
            # Each warning is printed as a notice. A filter that turns warnings into errors would end the run half way.
            warnings.simplefilter("ignore", FluxWarning)
            checked = validate(params, editing=editing, split=True)
            state.notice(checked.notices)
            count = int(str(checked.values.get("n", 1)))
            places = [_place(out, index, several=count > 1) for index in range(count)]
            with client_of(service, on_retry=console.retrying) as client:
                prove_writable(target(places[0], stem="image", extension=".png").parent)
                _prove_free(places)
                for part in split_params(checked):
                    _make_part(part, client, out, state, several=count > 1)
                    if state.errors:
                        break
        if state.missing and not state.errors:
            state.fail(MissingImagesError(f"images that did not come back usable: {state.missing}"))
    except FluxError as error:
        state.fail(error)
    except KeyboardInterrupt:
        state.fail(_interruption(state))
    report = state.report()
    console.finished(report)
    return report


def _place(out: str, index: int, *, several: bool) -> str | os.PathLike[str]:
    """The path for one image, as `save` takes it: a file, which has a number if there are several, or a folder."""
    if names_a_file(out) and not place_of(out).is_dir():
        return numbered(out, index) if several else out
    # With a separator at its end: otherwise `save` would take a folder "fox.png" for a file.
    return os.path.join(out, "")  # noqa: PTH118  # a Path drops the separator


def _prove_free(places: Iterable[str | os.PathLike[str]]) -> None:
    """Find out that a file exists before its image is paid for. Raises ConfigurationError."""
    for place in filter(names_a_file, places):
        if os.path.lexists(place_of(place)):
            raise ConfigurationError(f"the file {str(place)!r} already exists; choose another name, or a folder")


def _make_part(part: CheckedParams, client: FluxOpenAI, out: str, state: _RunState, *, several: bool) -> None:
    """Make one call and save its images; if one cannot be saved, the others still are."""
    before = len(state.images)
    try:
        with state.console.spinner("waiting for the service"):
            state.in_flight = True
            arguments: dict[str, Any] = {"model": part.model.id, **part.values}
            response = client.images.generate(**arguments)
            state.responses.append(response)
            state.in_flight = False
            state.unsaved += response.data
            state.notice(response.notices)
            several = several or len(response.data) > 1
            for index, image in enumerate(response.data, start=part.first):
                try:
                    path = image.save(_place(out, index, several=several))
                except FluxError as error:
                    state.fail(error)
                else:
                    state.unsaved.remove(image)
                    state.images.append(SavedImage.at(path))
    finally:
        state.console.saved(state.images[before:])


def _interruption(state: _RunState) -> InterruptedRunError:
    if state.in_flight:
        error = InterruptedRunError("interrupted: the request that was under way may have been carried out and billed")
        error.billing = "unknown"
    elif state.responses:
        error = InterruptedRunError("interrupted: the images asked for until now are paid for")
        error.billing = "paid"
    else:
        error = InterruptedRunError("interrupted: nothing was sent")
    return error
