"""A run of `generate` or `edit`.

    make_images(params, output, …)
      _checked(…)                        the prompt of a file or stdin, the parameters of --from, a seed if none is
                                         given; then every fault at once, before anything is sent
      _requests(…)                       with --dry-run: the requests and their cost, and the end
      prove_writable(…), _prove_free(…)  so that no image is paid for that cannot be saved
      for … in _calls(…):                as many requests as run side by side
        client.images.generate(…)
        image.save(place)                for each image, also for those that came before an error or Ctrl-C
    Report

Errors do not end the run without a report: it contains the images that were saved.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from flux_openai.cli.console import Console, Progress
from flux_openai.cli.exit_codes import ExitCode
from flux_openai.cli.options import OutputOptions, ServiceOptions
from flux_openai.cli.report import InterruptedRunError, MissingImagesError, Report, SavedImage, as_printable
from flux_openai.cli.service import PATTERNS, client_of, price_of, prove_writable
from flux_openai.client.clients import FluxOpenAI
from flux_openai.errors import ConfigurationError, FluxAPIError, FluxError, FluxWarning
from flux_openai.request.validation import CheckedParams, body_of, split_params, validate
from flux_openai.response.file_names import EXTENSIONS, SIDECAR, names_a_file, numbered, place_of, target
from flux_openai.response.metadata import read_metadata, sources_of
from flux_openai.sending.concurrency import MAX_CONCURRENCY

if TYPE_CHECKING:
    from flux_openai.models import Price
    from flux_openai.response.response import FluxImage, FluxImagesResponse

__all__ = ["make_images", "signals_handled"]

_SEEDS = 2**31 - 1000
"""Seeds are drawn below this number: the service documents 2^31 - 1 as the largest, and a split call counts them up."""


class _RunState:
    """The images, notices and errors of a run so far."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.responses: list[FluxImagesResponse] = []
        self.images: list[SavedImage] = []
        self.unsaved: list[FluxImage] = []
        self.notices: dict[str, None] = {}
        self.errors: list[FluxError] = []
        self.attempts = 0
        self.price: Price | None = None
        self.in_flight = False

    @property
    def missing(self) -> int:
        return sum(response.missing for response in self.responses)

    def notice(self, notices: Iterable[str]) -> None:
        """Print each notice once: the requests of one run repeat their notices."""
        for notice in map(as_printable, notices):
            if notice not in self.notices:
                self.notices[notice] = None
                self.console.message(f"notice: {notice}")

    def fail(self, error: FluxError) -> None:
        self.errors.append(error)
        self.console.failed(error)

    def report(self) -> Report:
        parts = [part for response in self.responses for part in response.parts]
        made = sum(len(part.data) for part in parts)
        return Report(
            images=tuple(self.images),
            request_ids=tuple(as_printable(part.request_id) for part in parts if part.request_id),
            sent=tuple(part.sent for part in parts),
            attempts=self.attempts,
            notices=tuple(self.notices),
            missing=self.missing,
            estimated_cost=self.price.for_images(made) if self.price is not None and made else None,
            expires_at=min((response.expires_at for response in self.responses), default=None),
            unsaved=tuple(image.url for image in self.unsaved if image.url is not None),
            error=self.errors[-1] if self.errors else None,
        )


def make_images(
    prompt: str | None,
    params: Mapping[str, object],
    *,
    editing: bool,
    service: ServiceOptions,
    output: OutputOptions,
    as_json: bool,
) -> int:
    """Make and save the images, and print a report, which has everything that was made, also after an error.

    Args:
        prompt: The prompt, "-" for stdin, or "@FILE"; None to take that of `--from`.
        params: The other parameters by name; those that are None count as left out.
        editing: Whether the parameters are those of `edit`.
        service: The service and its options.
        output: Where the images go, and what is written beside them.
        as_json: Whether stdout gets one JSON document instead of the paths.
    """
    console = Console(as_json=as_json)
    state = _RunState(console)
    try:
        with warnings.catch_warnings(), signals_handled(signal.default_int_handler):
            # Each warning is printed as a notice. A filter that turns warnings into errors would end the run half way.
            warnings.simplefilter("ignore", FluxWarning)
            checked = _checked(prompt, params, output, state, editing=editing)
            state.price = checked.model.price if output.price is None else price_of(output.price)
            if output.dry_run:
                console.planned(_requests(checked), path=checked.model.path, images=_count(checked), price=state.price)
                return console.exit_code(ExitCode.DONE)
            _make(checked, service, output, state)
        if state.missing and not state.errors:
            state.fail(MissingImagesError(f"images that did not come back usable: {state.missing}"))
    except FluxError as error:
        state.fail(error)
    except KeyboardInterrupt:
        state.fail(_interruption(state))
    report = state.report()
    console.finished(report)
    return console.exit_code(report.exit_code)


@contextmanager
def signals_handled(handler: Callable[[int, FrameType | None], object], *, ctrl_c: bool = False) -> Iterator[None]:
    """Let a handler have SIGTERM and SIGHUP, and with `ctrl_c` also SIGINT, until the block ends.

    By default SIGTERM and SIGHUP end the process at once, and images that came are lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return
    # SIGHUP: the terminal was closed. Windows has no such signal; whoever ignores it, as nohup does, goes on.
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    numbers += [signal.SIGINT] if ctrl_c else []
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _checked(
    prompt: str | None, params: Mapping[str, object], output: OutputOptions, state: _RunState, *, editing: bool
) -> CheckedParams:
    """The checked parameters of the run, with a seed. Raises ConfigurationError and InvalidParamsError."""
    given = {name: value for name, value in params.items() if value is not None}
    if prompt is not None:
        given["prompt"] = _prompt_text(prompt)
    source = None if output.source is None else read_metadata(output.source)
    if source is not None:
        if source.images and not editing:
            count = f"{len(source.images)} image{'s' if len(source.images) > 1 else ''}"
            rule = f"was made from {count}: use flux-openai edit --from {output.source} -i FILE"
            raise ConfigurationError(f"the image of {output.source!r} {rule}")
        given = {**source.arguments, **given}
    drawn = given.get("seed", -1) == -1
    if drawn:
        # Without a seed, or with -1, the service would draw one, and not say which: nobody could make the image again.
        given["seed"] = random.SystemRandom().randrange(_SEEDS)
    checked = validate(given, editing=editing, split=True)
    if drawn and names_a_file(output.out):
        state.console.message(f"seed: {given['seed']}")  # names of files in a folder have it
    state.notice(checked.notices)
    if source is not None and source.images != sources_of(checked.model.id, checked.values):
        state.notice([f"these are not the images that {output.source} names"])
    return checked


def _prompt_text(prompt: str) -> str:
    """The prompt itself, or the text on stdin ("-") or in a file ("@FILE"). Raises ConfigurationError."""
    if prompt.startswith("@@"):
        return prompt[1:]
    if prompt != "-" and not prompt.startswith("@"):
        return prompt
    try:
        if prompt == "-":
            return "" if sys.stdin is None else sys.stdin.read().strip()
        return place_of(prompt[1:]).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        place = "stdin" if prompt == "-" else repr(prompt[1:])
        hint = "" if prompt == "-" else " (a prompt that begins with @ is written with @@)"
        raise ConfigurationError(f"cannot read the prompt from {place}: {reason}{hint}") from error


def _count(checked: CheckedParams) -> int:
    return int(str(checked.values.get("n", 1)))


def _requests(checked: CheckedParams) -> list[dict[str, object]]:
    """The bodies of the requests of a run."""
    return [body_of(part.values, part.model) for part in split_params(checked)]


def _make(checked: CheckedParams, service: ServiceOptions, output: OutputOptions, state: _RunState) -> None:
    """Ask for the images, and save those that come. Raises FluxError and KeyboardInterrupt."""
    count = _count(checked)
    places = [_place(output.out, index, several=count > 1) for index in range(count)]
    if service.emulator:
        state.console.message(PATTERNS)
    progress = Progress(state.console, count)
    try:
        with progress.shown(), client_of(service, on_retry=progress.retrying) as client:
            prove_writable(target(places[0], stem="image", extension=".png").parent)
            _prove_free(places, metadata=output.metadata)
            for first, arguments in _calls(checked):
                _make_some(arguments, first, client, output, state, several=count > 1)
                if state.errors:
                    break
    finally:
        state.console.saved(state.images)  # here, because nothing may be written to stdout while progress is shown


def _calls(checked: CheckedParams) -> Iterator[tuple[int, dict[str, Any]]]:
    """The arguments of each call, and the index of its first image; a call is as many requests as run side by side.

    The images of a call are saved before the next one: what is not saved is lost if the process is killed.
    """
    parts = split_params(checked)
    for start in range(0, len(parts), MAX_CONCURRENCY):
        some = parts[start : start + MAX_CONCURRENCY]
        arguments: dict[str, Any] = {"model": checked.model.id, **some[0].values}
        if len(some) > 1:
            arguments["n"] = sum(int(str(part.values.get("n", 1))) for part in some)
        yield some[0].first, arguments


def _make_some(
    arguments: dict[str, Any], first: int, client: FluxOpenAI, output: OutputOptions, state: _RunState, *, several: bool
) -> None:
    """Make one call and save its images, also those that came before an error or an interruption."""
    state.in_flight = True
    try:
        response = client.images.generate(**arguments, split=True)
    except (FluxError, KeyboardInterrupt) as error:
        partial: FluxImagesResponse | None = getattr(error, "partial", None)
        if isinstance(error, FluxError):
            state.in_flight = False
            state.attempts += error.attempts
            if state.responses and isinstance(error, FluxAPIError) and error.billing == "none":
                # The billing is that of the whole run, not only of the call that failed.
                error.billing = "paid"
                error.add_to_message("the images that came are paid for")
        elif partial is not None:
            state.attempts += partial.attempts
        if partial is not None:
            _save(partial, first, output, state, several=several)
        raise
    state.in_flight = False
    state.attempts += response.attempts
    _save(response, first, output, state, several=several or len(response.data) > 1)


def _place(out: str, index: int, *, several: bool) -> str | os.PathLike[str]:
    """The path for one image, as `save` takes it: a file, which has a number if there are several, or a folder."""
    if names_a_file(out) and not place_of(out).is_dir():
        return numbered(out, index) if several else out
    # With a separator at its end: otherwise `save` would take a folder "fox.png" for a file.
    return os.path.join(out, "")  # noqa: PTH118  # a Path drops the separator


def _prove_free(places: Iterable[str | os.PathLike[str]], *, metadata: bool) -> None:
    """Find out that a file exists before its image is paid for. Raises ConfigurationError."""
    for place in filter(names_a_file, places):
        # The extension follows the bytes: -o fox.jpg may become fox.png.
        for extension in (*EXTENSIONS, *([SIDECAR] if metadata else [])):
            file = place_of(place).with_suffix(extension)
            if os.path.lexists(file):
                raise ConfigurationError(f"the file {str(file)!r} already exists; choose another name, or a folder")


def _save(
    response: "FluxImagesResponse", first: int, output: OutputOptions, state: _RunState, *, several: bool
) -> None:
    """Save the images of an answer; if one cannot be saved, the others still are.

    An interruption ends the downloads. Images that came as base64 are saved all the same: there is no link to them.
    """
    state.responses.append(response)
    state.unsaved += response.data
    state.notice(response.notices)
    interruption: KeyboardInterrupt | None = None
    for image in response.data:
        image._count_from(first)  # noqa: SLF001  # the names count the images of the run
        if interruption is not None and image.url is not None:
            continue
        try:
            _save_one(image, output, state, several=several)
        except KeyboardInterrupt as stop:
            interruption = stop
            if image.url is None and image in state.unsaved:
                _save_one(image, output, state, several=several)
    if interruption is not None:
        raise interruption


def _save_one(image: "FluxImage", output: OutputOptions, state: _RunState, *, several: bool) -> None:
    place = _place(output.out, image._index, several=several)  # noqa: SLF001  # images before it may be missing
    try:
        path = image.save(place, metadata=output.metadata)
    except FluxError as error:
        state.fail(error)
        if image.url is not None:
            return
        # There is no link to it: it would be lost.
        try:
            path = image.save(tempfile.mkdtemp(prefix="flux-openai-"), metadata=output.metadata)
        except (FluxError, OSError) as problem:
            state.console.message(f"it cannot be kept elsewhere either: {problem}")
            return
        state.console.message(f"it is kept in {path}")
    state.unsaved.remove(image)
    state.images.append(SavedImage.at(path))


def _interruption(state: _RunState) -> InterruptedRunError:
    if state.in_flight:
        error = InterruptedRunError(
            "interrupted: the requests that were under way may have been carried out and billed"
        )
        error.billing = "unknown"
    elif state.responses:
        error = InterruptedRunError("interrupted: the images that came are paid for")
        error.billing = "paid"
    else:
        error = InterruptedRunError("interrupted: nothing was sent")
    return error
