"""The retry loop of one call: adapts the decisions of `retry.py` to tenacity's callbacks."""

import random
import time
from dataclasses import dataclass, field

import tenacity

from flux_openai.retry import BILLING, RetryEvent, RetryPolicy, RetryQuota, log, next_wait
from flux_openai.sending.outcome import Outcome

__all__ = ["RetryState"]


@dataclass(kw_only=True)
class RetryState:
    """The attempts of one call.

    It is made anew for each call, and so is the tenacity object: if calls shared one, their results would be mixed up.

    Attributes:
        policy: The retry policy.
        quota: The retry quota of the client.
        attempts: The number of requests so far.
        result: What the SDK returned for the last one.
        maybe_billed: Whether an attempt before the last may have been carried out and billed.
        started: When the first attempt began, by `time.monotonic`.
        stopped: Whether further retries are forbidden, because the call was interrupted.
    """

    policy: RetryPolicy
    quota: RetryQuota
    attempts: int = 0
    result: object = None
    maybe_billed: bool = False
    stopped: bool = False
    started: float = field(default_factory=time.monotonic)
    _first: Outcome | None = None
    _tokens: int = 0
    _wait: float = 0.0

    def is_done(self, first: Outcome) -> bool:
        """Whether the first attempt succeeded. If it failed, tenacity's loop begins with it; see `begun`.

        Setting the loop up takes longer than all else that this package does for a call.
        """
        if first.cause is None:
            self.quota.give_back(self._tokens)
            return True
        self._first = first
        return False

    def begun(self) -> Outcome | None:
        """The outcome of the first attempt, once, when tenacity's loop begins; None for later attempts."""
        first, self._first = self._first, None
        return first

    def should_retry(self, state: tenacity.RetryCallState) -> bool:
        """Decide whether tenacity makes another attempt, and set the wait before it."""
        outcome = _outcome(state)
        if outcome.cause is None:
            self.quota.give_back(self._tokens)
            return False
        wait = next_wait(
            outcome.cause,
            policy=self.policy,
            attempt=state.attempt_number,
            elapsed=time.monotonic() - self.started,
            asked=outcome.retry_after,
            random=random.random,
        )
        if self.stopped or wait is None:
            return False
        tokens = self.quota.take(outcome.cause)
        if tokens is None:
            return False
        self._tokens += tokens
        self._wait = wait
        self.maybe_billed = self.maybe_billed or BILLING[outcome.cause] != "none"
        return True

    def next_wait(self, _: tenacity.RetryCallState) -> float:
        """Seconds that tenacity waits before the next attempt."""
        return self._wait if self.policy.waiting else 0.0

    def before_sleep(self, state: tenacity.RetryCallState) -> None:
        """Log the retry and call `on_retry`, before tenacity waits."""
        outcome, attempt = _outcome(state), state.attempt_number
        if outcome.cause is None:
            return
        log.info("attempt %d failed (%s), the next starts in %.2f s", attempt, outcome.cause, self._wait)
        if self.policy.on_retry is not None:
            event = RetryEvent(attempt=attempt, wait=self._wait, reason=outcome.cause, status_code=outcome.status_code)
            self.policy.on_retry(event)


def _outcome(state: tenacity.RetryCallState) -> Outcome:
    if state.outcome is None:
        raise RuntimeError("tenacity asked about an attempt that has not ended")
    outcome: Outcome = state.outcome.result()
    return outcome
