"""The loop of one call, as tenacity runs it: what `retries` decides is asked here, and remembered for the next step."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import tenacity

from flux_openai.retry import BILLING, Cause, RetryEvent, RetryPolicy, RetryQuota, log, next_wait

__all__ = ["Attempted", "Group", "Loop", "Run"]


class Attempted(Protocol):
    """What the loop looks at in the outcome of an attempt; no cause means success."""

    @property
    def cause(self) -> Cause | None:
        """Why it failed."""

    @property
    def retry_after(self) -> float | None:
        """Seconds the server asks to wait."""

    @property
    def status_code(self) -> int | None:
        """The HTTP status, if an answer came."""


class Loop(TypedDict):
    """The arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying`."""

    retry: Callable[[tenacity.RetryCallState], bool]
    wait: Callable[[tenacity.RetryCallState], float]
    before_sleep: Callable[[tenacity.RetryCallState], None]


@dataclass(kw_only=True)
class Group:
    """What the parts of one split call know of each other."""

    failed: bool = False
    """Whether one has failed for good: those that have not begun stay unsent."""
    abandoned: bool = False
    """Whether nobody waits any more: those under way are not tried again either."""


@dataclass(kw_only=True)
class Run:
    """The retries of one call. Made fresh for each: a tenacity object that two calls share mixes up their results."""

    policy: RetryPolicy
    quota: RetryQuota
    group: Group = field(default_factory=Group)
    random: Callable[[], float] = random.random
    attempts: int = 0
    doubtful: bool = False
    """Whether an attempt before the last may have been carried out and billed."""
    _paid: int = 0
    _wait: float = field(default=0.0)

    def loop(self) -> Loop:
        """The arguments for tenacity; attempts return their outcome, so that no exception is ever retried by type."""
        return Loop(retry=self._again, wait=self._pause, before_sleep=self._tell)

    def _again(self, state: tenacity.RetryCallState) -> bool:
        outcome = _outcome(state)
        if outcome.cause is None:
            self.quota.give_back(self._paid)
            return False
        if self.group.abandoned:
            return False
        wait = next_wait(
            outcome.cause,
            policy=self.policy,
            attempt=state.attempt_number,
            elapsed=state.seconds_since_start or 0.0,
            asked=outcome.retry_after,
            random=self.random,
        )
        price = None if wait is None else self.quota.take(outcome.cause)
        if wait is None or price is None:
            return False
        self._paid += price
        self._wait = wait
        self.doubtful = self.doubtful or BILLING[outcome.cause] != "none"
        return True

    def _pause(self, _: tenacity.RetryCallState) -> float:
        return self._wait if self.policy.waiting else 0.0

    def _tell(self, state: tenacity.RetryCallState) -> None:
        outcome = _outcome(state)
        if outcome.cause is None:
            return
        event = RetryEvent(
            attempt=state.attempt_number, wait=self._wait, reason=outcome.cause, status_code=outcome.status_code
        )
        log.info("attempt %d failed (%s), the next starts in %.2f s", event.attempt, event.reason, event.wait)
        if self.policy.on_retry is not None:
            self.policy.on_retry(event)


def _outcome(state: tenacity.RetryCallState) -> Attempted:
    if state.outcome is None:
        raise RuntimeError("tenacity asked about an attempt that has not ended")
    outcome: Attempted = state.outcome.result()
    return outcome
