"""Split calls: the state of the parts, and their combined answer, or an error with the images of the other parts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flux_openai.errors import Billing, FluxAPIError, FluxError
from flux_openai.response.response import FluxImagesResponse
from flux_openai.sending.call import Call
from flux_openai.sending.outcome import Outcome
from flux_openai.sending.retry_loop import RetryState

__all__ = ["PARTIAL_REMARK", "Part", "combine", "partial_on_interruption"]

PARTIAL_REMARK = "the images of the other parts are in .partial, and .rest asks for those that are missing"
"""What the message of an error ends in that has images of other parts."""


@dataclass(kw_only=True)
class Part:
    """One request of a split call.

    Attributes:
        call: The request.
        state: Its attempts.
        outcome: How it ended; None until then.
    """

    call: Call
    state: RetryState
    outcome: Outcome | None = None

    @property
    def answer(self) -> FluxImagesResponse | None:
        """The answer, if the part succeeded; it may be one that a subclass of the client had in a cache."""
        if self.outcome is None or self.outcome.error is not None:
            return None
        result = self.outcome.response or self.state.result
        return result if isinstance(result, FluxImagesResponse) else None

    @property
    def error(self) -> FluxError | None:
        """The error, if the part failed; its `billing` is "unknown" if an earlier attempt may have been billed."""
        error = None if self.outcome is None else self.outcome.error
        return error.with_unknown_billing() if error is not None and self.state.maybe_billed else error


@contextmanager
def partial_on_interruption(parts: Sequence[Part]) -> Iterator[None]:
    """On an interruption (Ctrl-C, cancellation), stop further requests and attach `.partial` and `.rest` to it."""
    try:
        yield
    except BaseException as interruption:
        for part in parts:
            part.state.stopped = True
        _attach_partial(interruption, parts, billing="unknown")
        raise


def combine(parts: Sequence[Part], unexpected: Sequence[BaseException | None]) -> FluxImagesResponse:
    """Combine the answers of a split call into one.

    Args:
        parts: The parts; each has ended or was never sent.
        unexpected: For each part the exception that is not an API error, if there was one.

    Raises:
        BaseException: The most serious error, with `.partial` and `.rest`: an unexpected exception first, then an error
            of a request that may have been billed, then any other.
    """
    answers = [part.answer for part in parts if part.answer is not None]
    if len(answers) == len(parts):
        return _merged(parts, answers)
    foreign = [error for error in unexpected if error is not None]
    errors = [part.error for part in parts if part.error is not None]
    maybe_billed = [error for error in errors if error.billing == "unknown"]
    other = FluxError("a part of the call was answered by the client's own class, with another type of response")
    worst = [*foreign, *maybe_billed, *errors, other][0]
    _attach_partial(worst, parts, billing=_billing(parts, [*foreign, *errors]))
    try:
        raise worst
    finally:
        # The traceback holds this frame: if it held the errors too, the images would live until a garbage collection.
        del worst, foreign, errors, maybe_billed, answers, parts, unexpected


def _billing(parts: Sequence[Part], errors: Sequence[BaseException]) -> Billing:
    bills = {error.billing if isinstance(error, FluxError) else "unknown" for error in errors}
    bills |= {"paid" for part in parts if part.answer is not None}
    bills |= {"unknown" for part in parts if part.answer is None and part.state.maybe_billed}
    return "unknown" if "unknown" in bills else "paid" if "paid" in bills else "none"


def _merged(parts: Sequence[Part], answers: Sequence[FluxImagesResponse]) -> FluxImagesResponse:
    asked = sum(part.call.images for part in parts)
    missing = max(0, asked - sum(len(answer.data) for answer in answers))
    return FluxImagesResponse.merged(answers, sent={**parts[0].call.body, "n": asked}, missing=missing)


def _attach_partial(error: BaseException, parts: Sequence[Part], *, billing: Billing) -> None:
    """Attach the images that came as `.partial`, and the arguments to request the others as `.rest`."""
    answers = [part.answer for part in parts if part.answer is not None]
    attributes: dict[str, Any] = {
        "partial": _merged(parts, answers) if answers else None,
        # Without parts that were paid for but cannot be used: they would be paid for twice.
        "rest": tuple(
            part.call.resend_arguments
            for part in parts
            if part.answer is None and not (part.error is not None and part.error.billing == "paid")
        ),
    }
    if isinstance(error, FluxError):
        attributes |= {"billing": billing, "attempts": sum(part.state.attempts for part in parts)}
    if answers and isinstance(error, FluxAPIError):
        error.add_to_message(PARTIAL_REMARK)
    elif answers:
        error.add_note(PARTIAL_REMARK)
    vars(error).update(attributes)
