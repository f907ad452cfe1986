"""Verdicts: what becomes of a row after a failed attempt. A pure function; the decisions of one call are in `retry.py`.

    failure                                          the row         the run
    not sent (DNS, connect, TLS, upload)             is put back     waits and probes; stops if it lasts
    429, not a quota code                            is put back     slows down; no attempt is counted
    401, 402, 403, a quota code                      is put back     stops: every row would be refused
    500, 502, 503, 409: the service failed           is put back     until the policy's `max_attempts`, then held
    408, 504, time-out, reset, truncated: unknown    is held         stops after several in a row
    a complete 200 without usable images             held or failed, by its billing
    other refusals                                   fails           goes on

With `duplicates="allowed"` an unknown outcome is put back as a failure of the service is, and with
`on_unknown="retry"` once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flux_openai.batch.ledger import OnUnknown
from flux_openai.errors import ConfigurationError, FluxConnectionError, FluxError, FluxStatusError, InvalidParamsError
from flux_openai.retry import BILLING, Cause, RetryPolicy, cause_of_status, is_about_credit, next_wait, status_of_code

__all__ = ["Verdict", "verdict_on"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a row after a failed attempt.

    Attributes:
        row: "again" puts it back, "held" keeps it for a decision of the user, "failed" ends it.
        cause: Why the attempt failed, as in `retry.py`.
        wait: Seconds before the row is sent again.
        stops: Whether the run stops, because every other row would be refused too.
    """

    row: Literal["again", "held", "failed"]
    cause: Cause
    wait: float = 0.0
    stops: bool = False


def verdict_on(
    error: FluxError,
    *,
    policy: RetryPolicy,
    on_unknown: OnUnknown,
    attempts: int,
    asked_before: bool,
    random: Callable[[], float],
) -> Verdict:
    """The verdict on a row whose call raised this error.

    Args:
        error: The error of a call without retries of its own.
        policy: The retry policy of the client.
        on_unknown: What happens if the request may have been carried out.
        attempts: How many attempts the row has had, without those that a limit refused.
        asked_before: Whether the row was sent again after an unknown outcome before.
        random: A source of numbers from 0 to 1, for the jitter.
    """
    cause = _cause_of(error)
    if cause in ("not_sent", "rate_limited"):
        return Verdict(row="again", cause=cause)
    if cause == "refused":
        stops = _concerns_every_row(error)
        return Verdict(row="again" if stops else "failed", cause=cause, stops=stops)
    if cause == "unusable":
        return Verdict(row="held" if error.billing == "unknown" else "failed", cause=cause)
    wait = next_wait(cause, policy=policy, attempt=attempts, elapsed=0, asked=error.retry_after, random=random)
    if wait is None and cause == "unknown" and on_unknown == "retry" and not asked_before:
        wait = random() * policy.initial_wait
    return Verdict(row="held", cause=cause) if wait is None else Verdict(row="again", cause=cause, wait=wait)


def _cause_of(error: FluxError) -> Cause:
    if isinstance(error, FluxStatusError):
        cause = cause_of_status(error.status_code, error.code, error.type)
        # The service counts a 200 as carried out, whatever error is in it, unless that says that nothing was made.
        in_success = error.response.is_success
        return "unusable" if in_success and BILLING[cause] != "none" else cause
    if isinstance(error, FluxConnectionError):
        return "not_sent" if error.billing == "none" else "unknown"
    return "refused" if error.billing == "none" else "unusable"


def _concerns_every_row(error: FluxError) -> bool:
    """Whether a refusal is about the key, the account or the client, and not about the row."""
    if not isinstance(error, FluxStatusError):
        # The client is set up wrongly, or its key cannot be had. Faults of a row's parameters are its own.
        return isinstance(error, ConfigurationError) or not isinstance(error, InvalidParamsError)
    status, code, kind = error.status_code, error.code, error.type
    if is_about_credit(code) or is_about_credit(kind):
        return True
    stated = status_of_code(code)
    if status in (402, 403):
        return stated != 400  # some services refuse a prompt with a 403
    return status == 401 or (stated or status_of_code(kind)) in (401, 403)
