"""The retry loop of one call: the decisions of `retry.py` as arguments of tenacity."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import tenacity

from flux_openai.retry import BILLING, RetryEvent, RetryPolicy, RetryQuota, log, next_wait
from flux_openai.sending.outcome import Outcome

__all__ = ["RetryState", "TenacityArguments"]


class TenacityArguments(TypedDict):
    """The arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying`."""

    retry: Callable[[tenacity.RetryCallState], bool]
    wait: Callable[[tenacity.RetryCallState], float]
    before_sleep: Callable[[tenacity.RetryCallState], None]


@dataclass(kw_only=True)
class RetryState:
    """The attempts of one call.

    It is made fresh for each call, as is the tenacity object: one that two calls share mixes up their results.

    `attempts` counts the requests so far. `maybe_billed` says whether an attempt before the last one may have been
    carried out and billed. `stopped` forbids further retries.
    """

    policy: RetryPolicy
    quota: RetryQuota
    attempts: int = 0
    maybe_billed: bool = False
    stopped: bool = False
    _tokens: int = 0
    _wait: float = 0.0

    def tenacity_arguments(self) -> TenacityArguments:
        """The arguments for tenacity. An attempt returns its outcome, so no exception is ever retried by its type."""
        return TenacityArguments(retry=self._should_retry, wait=self._next_wait, before_sleep=self._before_sleep)

    def _should_retry(self, state: tenacity.RetryCallState) -> bool:
        outcome = _outcome(state)
        if outcome.cause is None:
            self.quota.give_back(self._tokens)
            return False
        wait = next_wait(
            outcome.cause,
            policy=self.policy,
            attempt=state.attempt_number,
            elapsed=state.seconds_since_start or 0.0,
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

    def _next_wait(self, _: tenacity.RetryCallState) -> float:
        return self._wait if self.policy.waiting else 0.0

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
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
