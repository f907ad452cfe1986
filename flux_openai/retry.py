"""May this request be sent again, and after how long? Pure decisions on plain values; tenacity only runs the loop.

cause           never    unlikely (default)  allowed   billing
not_sent        retry    retry               retry     none      DNS, connect, TLS, pool, upload broken off
rate_limited    retry    retry               retry     none      429, unless the code says that the credit is gone
server_failed   raise    retry               retry     unknown   500, 502, 503, 409
unknown         raise    raise               retry     unknown   408, 504, 524, other 5xx, time-out, reset, truncated
refused         raise    raise               raise     none      other 4xx, 3xx, certificate errors
unusable        raise    raise               raise     unknown   a complete 200 that nobody can use

The billing of an unusable 200 is "paid" when it holds images, and "none" when the error in it is a refusal.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Literal, get_args

from flux_openai._http.capture import Phase
from flux_openai.errors import Billing, ConfigurationError, InvalidParam

__all__ = ["Cause", "Duplicates", "RetryEvent", "RetryPolicy", "RetryQuota"]

Duplicates = Literal["never", "unlikely", "allowed"]
"""How much risk of paying twice for one image a retry may take."""

Cause = Literal["not_sent", "rate_limited", "server_failed", "unknown", "refused", "unusable"]
"""Why an attempt failed, as far as it matters for the next one."""

BILLING: Mapping[Cause, Billing] = {
    "not_sent": "none",
    "rate_limited": "none",
    "server_failed": "unknown",
    "unknown": "unknown",
    "refused": "none",
    "unusable": "unknown",
}
_RETRIED: Mapping[Duplicates, frozenset[Cause]] = {
    "never": frozenset({"not_sent", "rate_limited"}),
    "unlikely": frozenset({"not_sent", "rate_limited", "server_failed"}),
    "allowed": frozenset({"not_sent", "rate_limited", "server_failed", "unknown"}),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RetryEvent:
    """What `on_retry` is told before a wait: the attempt that failed (1 is the first), the wait in seconds, the cause.

    `status_code` is None when no answer came. Neither the prompt nor the key is in it.
    """

    attempt: int
    wait: float
    reason: Cause
    status_code: int | None = None


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a call is sent again.

    `duplicates`: the risk of paying twice that a retry may take, "never", "unlikely" or "allowed".
    `max_attempts`: requests in all, 1 or more. `initial_wait` and `max_wait`: the wait before retry k is random between
    0 and min(max_wait, initial_wait * 2**(k-1)) seconds. `max_retry_after`: the longest Retry-After, in seconds, that
    is waited for; above it the error is raised at once. `max_elapsed`: seconds after which no further attempt starts.
    `on_retry`: called with a RetryEvent before each wait; what it raises ends the call. `waiting=False` removes the
    waits, for tests.
    Raises ConfigurationError.
    """

    duplicates: Duplicates = "unlikely"
    max_attempts: int = 4
    initial_wait: float = 0.5
    max_wait: float = 20.0
    max_retry_after: float = 60.0
    max_elapsed: float = 120.0
    on_retry: Callable[[RetryEvent], object] | None = field(default=None, repr=False)
    waiting: bool = True

    def __post_init__(self) -> None:
        """Refuse what no call could follow, all of it at once."""
        faults = [str(fault) for fault in _policy_faults(self)]
        if faults:
            raise ConfigurationError("RetryPolicy: " + "; ".join(faults))

    def with_max_retries(self, max_retries: int) -> "RetryPolicy":
        """The policy under the SDK's own word for it: N retries are N + 1 attempts."""
        if not _is_int(max_retries) or max_retries < 0:
            raise ConfigurationError.of(
                InvalidParam(param="max_retries", value=max_retries, rule="must be 0 or more", nearest=0)
            )
        return replace(self, max_attempts=max_retries + 1)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _policy_faults(policy: RetryPolicy) -> list[InvalidParam]:
    faults = []
    if policy.duplicates not in get_args(Duplicates):
        rule = f"must be one of {', '.join(map(repr, get_args(Duplicates)))}"
        faults.append(InvalidParam(param="duplicates", value=policy.duplicates, rule=rule, nearest="unlikely"))
    if not _is_int(policy.max_attempts) or policy.max_attempts < 1:
        faults.append(
            InvalidParam(param="max_attempts", value=policy.max_attempts, rule="must be an integer from 1", nearest=1)
        )
    for name in ("initial_wait", "max_wait", "max_retry_after", "max_elapsed"):
        value = getattr(policy, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            faults.append(
                InvalidParam(param=name, value=value, rule="must be a finite number of seconds from 0", nearest=0)
            )
    return faults


def cause_of_status(status: int, code: str | None = None) -> Cause:
    """The cause behind an error status; `code` is the body's `error.code`."""
    if status == 429:
        return "refused" if _is_quota_code(code) else "rate_limited"
    if status in (409, 500, 502, 503):
        return "server_failed"
    return "unknown" if status == 408 or status >= 500 else "refused"


# The service documents no codes; these are the words OpenAI and its look-alikes use when waiting does not help.
_QUOTA_CODE = re.compile(r"quota|balance|billing|credit|arrear", re.IGNORECASE)


def _is_quota_code(code: str | None) -> bool:
    return code is not None and _QUOTA_CODE.search(code) is not None


_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"})
_MAYBE_SENT = frozenset({"ReadError", "ReadTimeout", "RemoteProtocolError", "WriteError", "WriteTimeout"})
_NEVER_SENT = frozenset({"SSLCertVerificationError", "UnsupportedProtocol", "InvalidURL", "LocalProtocolError"})


def cause_of_failure(phase: Phase | None, names: frozenset[str]) -> Cause:
    """The cause behind an attempt without a whole answer.

    `phase` is how far the request was seen to get; `names` are the class names of the error and of everything that
    caused it. Where nobody watched (None: a transport without trace), only a clear name says that nothing was sent.
    """
    if phase in (None, "connecting", "sending") and names & _NEVER_SENT:
        return "refused"
    if phase in ("connecting", "sending") or (phase is None and _surely_not_sent(names)):
        return "not_sent"
    return "unknown"


def _surely_not_sent(names: frozenset[str]) -> bool:
    # The SDK's aiohttp transport calls a connection that broke after sending a ConnectTimeout; its cause tells better.
    broken = "ClientConnectionError" in names and not names & {"ClientConnectorError", "ConnectionTimeoutError"}
    return bool(names & _NOT_SENT) and not names & _MAYBE_SENT and not broken


def names_of(error: BaseException | None) -> frozenset[str]:
    """The class names of an error, of its bases and of everything it was raised from."""
    names: set[str] = set()
    while error is not None:
        names.update(cls.__name__ for cls in type(error).__mro__)
        # The HTTP libraries hide a cause by `from None`. A context that nobody hid may be an error the caller is just
        # handling, and says nothing about this request.
        error = error.__cause__ or (error.__context__ if error.__suppress_context__ else None)
    return frozenset(names)


_SECONDS = re.compile(r"[0-9]{1,400}(?:\.[0-9]{1,20})?(?:[eE]\+?[0-9]{1,4})?", re.ASCII)
_FOREVER = 1e9


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds to wait as the server asks in `retry-after-ms` or `Retry-After`; None when it does not, or not usably.

    A date counts from the answer's own `Date`, so that a wrong clock on this side does not matter; `now` stands in for
    a missing one.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    text = headers.get("retry-after")
    waits = (None if milliseconds is None else milliseconds / 1000, _seconds(text), _until(text, headers, now))
    return next((min(wait, _FOREVER) for wait in waits if wait is not None and wait > 0), None)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and _SECONDS.fullmatch(text.strip()) else None


def _until(text: str | None, headers: Mapping[str, str], now: datetime | None) -> float | None:
    then = _date(text)
    start = _date(headers.get("date")) or now or datetime.now(UTC)
    return None if then is None else (then - start).total_seconds()


def _date(text: str | None) -> datetime | None:
    try:
        date = None if text is None else parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date is not None and date.tzinfo is None else date


def next_wait(
    cause: Cause,
    *,
    policy: RetryPolicy,
    attempt: int,
    elapsed: float,
    asked: float | None,
    random: Callable[[], float],
) -> float | None:
    """Seconds to wait before the next attempt; None when there must be none.

    `attempt` is the number of the attempt that failed, `elapsed` the seconds since the first began, `asked` the
    server's Retry-After, `random` a source of numbers from 0 to 1.
    """
    if cause not in _RETRIED[policy.duplicates] or attempt >= policy.max_attempts:
        return None
    if asked is not None and asked > policy.max_retry_after:
        return None
    if asked is not None:
        wait = asked * (1 + 0.1 * random())
    else:
        # Beyond 2**63 the ceiling is long reached, and the power would overflow.
        wait = random() * min(policy.max_wait, policy.initial_wait * 2.0 ** min(attempt - 1, 63))
    return wait if elapsed + (wait if policy.waiting else 0) <= policy.max_elapsed else None


class RetryQuota:
    """A token bucket that one client and its copies share: when much fails, retries stop and first attempts go on.

    A retry takes 10 tokens, or 5 after a 429; a success gives back what its own retries took, and one more.
    """

    _CAPACITY = 100

    def __init__(self) -> None:
        self._tokens = self._CAPACITY
        self._lock = Lock()

    def take(self, cause: Cause) -> int | None:
        """Pay for one retry; the price, or None when the bucket does not hold it."""
        price = 5 if cause == "rate_limited" else 10
        with self._lock:
            if self._tokens < price:
                return None
            self._tokens -= price
        return price

    def give_back(self, tokens: int) -> None:
        """Reward a success with what its retries took and one more."""
        with self._lock:
            self._tokens = min(self._CAPACITY, self._tokens + tokens + 1)
