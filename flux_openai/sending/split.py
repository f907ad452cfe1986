"""What the parts of a call came to: one answer, or the error of a part that carries what the others brought."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from flux_openai.errors import Billing, FluxAPIError, FluxError
from flux_openai.response.response import FluxImagesResponse
from flux_openai.sending.call import Call
from flux_openai.sending.outcome import Outcome
from flux_openai.sending.retry_loop import Run

__all__ = ["Part", "settled", "shared_fate"]


@dataclass(kw_only=True)
class Part:
    """One request's share of a call and what it came to; None while it is not begun or under way."""

    call: Call
    run: Run
    outcome: Outcome | None = None

    @property
    def wanted(self) -> bool:
        """Whether it shall begin: when another part has failed for good, nothing more is sent."""
        return not self.run.group.failed

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """While it is carried out; if it brings nothing, for whatever reason, the others get to know."""
        try:
            yield
        finally:
            if self.answer is None:
                self.run.group.failed = True

    @property
    def answer(self) -> FluxImagesResponse | None:
        """What it brought."""
        return None if self.outcome is None else self.outcome.response

    @property
    def error(self) -> FluxAPIError | None:
        """Why it brought nothing."""
        error = None if self.outcome is None else self.outcome.error
        return error.after_doubt() if error is not None and self.run.doubtful else error

    @property
    def lost(self) -> bool:
        """Whether it was paid for and came to nothing all the same."""
        return self.error is not None and self.error.billing == "paid"

    @property
    def raw(self) -> FluxImagesResponse | None:
        """The SDK's own raw response, if the caller asked for it."""
        if self.outcome is None or self.outcome.raw is None:
            return None
        self.outcome.raw.retries_taken = self.run.attempts - 1
        return cast(FluxImagesResponse, self.outcome.raw)


def settled(parts: Sequence[Part], foreign: Sequence[BaseException | None]) -> FluxImagesResponse | BaseException:
    """The answer to the whole call, or the exception to raise; `foreign` has what no part could make an outcome of."""
    answers = [part.answer for part in parts if part.answer is not None]
    if len(answers) == len(parts):
        return answers[0] if len(parts) == 1 else _merged(parts, answers)
    unexpected = [error for error in foreign if error is not None]
    errors = [part.error for part in parts if part.error is not None]
    # The one that makes most difference: what nobody expected, then what may have been billed.
    doubtful = [error for error in errors if error.billing == "unknown"]
    worst = [*unexpected, *doubtful, *errors][0]
    if len(parts) > 1:
        _tell(worst, parts, billing=_billing(parts, [*unexpected, *errors]))
    return worst


def _billing(parts: Sequence[Part], errors: Sequence[BaseException]) -> Billing:
    bills = {error.billing if isinstance(error, FluxError) else "unknown" for error in errors}
    bills |= {"paid" for part in parts if part.answer is not None}
    bills |= {"unknown" for part in parts if part.answer is None and part.run.doubtful}
    return "unknown" if "unknown" in bills else "paid" if "paid" in bills else "none"


def _merged(parts: Sequence[Part], answers: Sequence[FluxImagesResponse]) -> FluxImagesResponse:
    asked = sum(part.call.images for part in parts)
    missing = max(0, asked - sum(len(answer.data) for answer in answers))
    return FluxImagesResponse.merged(answers, sent={**parts[0].call.sent, "n": asked}, missing=missing)


def _tell(error: BaseException, parts: Sequence[Part], *, billing: Billing) -> None:
    """Let an exception carry what is paid for, and how to ask for the rest without paying for that again."""
    answers = [part.answer for part in parts if part.answer is not None]
    told: dict[str, Any] = {
        "partial": _merged(parts, answers) if answers else None,
        # What was paid for and cannot be used is not asked for again: that would be another order.
        "rest": tuple(part.call.again for part in parts if part.answer is None and not part.lost),
    }
    if isinstance(error, FluxError):
        told |= {"billing": billing, "attempts": sum(part.run.attempts for part in parts)}
    remark = "the images of the other parts are in .partial, and .rest asks for those that are missing"
    if answers and isinstance(error, FluxAPIError):
        error.add(remark)
    elif answers:
        error.add_note(remark)
    vars(error).update(told)


@contextmanager
def shared_fate(parts: Sequence[Part]) -> Iterator[None]:
    """While the parts are under way: who interrupts them gets what has come until then, and nothing is sent again."""
    try:
        yield
    except BaseException as interruption:
        parts[0].run.group.failed = parts[0].run.group.abandoned = True
        if len(parts) > 1:
            _tell(interruption, parts, billing="unknown")
        raise
