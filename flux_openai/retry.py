"""Retry decisions: whether a request may be sent again, and after how long. Pure functions; tenacity runs the loop.

cause           never    unlikely (default)  allowed   billing
not_sent        retry    retry               retry     none      DNS, connect, TLS, pool, upload broken off
rate_limited    retry    retry               retry     none      429
server_failed   raise    retry               retry     unknown   500, 502, 503, 409
unknown         raise    raise               retry     unknown   408, 504, 524, other 5xx, time-out, reset, truncated
refused         raise    raise               raise     none      other 4xx, 3xx, certificate errors, a proxy's 407
unusable        raise    raise               raise     unknown   a complete 200 that cannot be used

A 429, a 409 or a 5xx whose code is a refusal (no credit left, content refused, key not valid) is "refused" too, but not
408, 504 and 524: whatever their code says, the work may have been done. `errors.DOCUMENTED_CODES` has the service's
codes; for others, words in the code decide, and else in the type.

The billing of an unusable 200 is "paid" if it holds images, and "none" if it holds an error that means "refused".
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import TYPE_CHECKING, Literal, get_args

from flux_openai._http.reasons import PROXY_LOGIN
from flux_openai.errors import DOCUMENTED_CODES, Billing, ConfigurationError, InvalidParam, listed

if TYPE_CHECKING:
    from flux_openai._http.capture import Phase

__all__ = ["Cause", "Duplicates", "RetryEvent", "RetryPolicy", "RetryQuota"]

Duplicates = Literal["never", "unlikely", "allowed"]
"""How much risk of paying twice for one image a retry may take: the columns of the table above."""

Cause = Literal["not_sent", "rate_limited", "server_failed", "unknown", "refused", "unusable"]
"""Why an attempt failed: the rows of the table above."""

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

log = logging.getLogger("flux_openai")


@dataclass(frozen=True, kw_only=True)
class RetryEvent:
    """The argument of `RetryPolicy.on_retry`. It contains neither the prompt nor the key, so it can be logged.

    Attributes:
        attempt: The number of the attempt that failed, from 1.
        wait: Seconds until the next attempt.
        reason: The cause of the failure.
        status_code: The HTTP status; None if no answer came.
    """

    attempt: int
    wait: float
    reason: Cause
    status_code: int | None = None


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When and how often a call is sent again.

    Args:
        duplicates: How much risk of paying twice for one image a retry may take: "never", "unlikely" or "allowed", the
            columns in the table of this module.
        max_attempts: The number of requests, the first included; 1 or more.
        initial_wait: Seconds. The wait before retry k is random between 0 and min(max_wait, initial_wait * 2**(k-1)).
        max_wait: Seconds; the upper bound of such a wait.
        max_retry_after: Seconds; a longer Retry-After is not waited for, and the error is raised at once.
        max_elapsed: Seconds since the first attempt began, after which no further attempt starts.
        on_retry: A function that is called with a RetryEvent before each wait. An exception in it ends the call.
        waiting: False removes all waits, for tests.

    Raises:
        ConfigurationError: A value is out of range.

    Example:
        FluxOpenAI(retry=RetryPolicy(duplicates="never", max_attempts=6, on_retry=print))
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
        """Check the values; one error lists all that are invalid."""
        faults = tuple(_policy_faults(self))
        if faults:
            error = ConfigurationError("RetryPolicy: " + "; ".join(map(str, faults)))
            error.faults = faults
            raise error

    def with_max_retries(self, max_retries: int) -> "RetryPolicy":
        """The policy with the SDK's `max_retries`: N retries are N + 1 attempts.

        Raises:
            ConfigurationError: `max_retries` is not an integer from 0.
        """
        if not _is_int(max_retries) or max_retries < 0:
            nearest = 0 if _is_int(max_retries) else None
            raise ConfigurationError.of(
                InvalidParam(param="max_retries", value=max_retries, rule="must be an integer from 0", nearest=nearest)
            )
        return replace(self, max_attempts=max_retries + 1)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _policy_faults(policy: RetryPolicy) -> list[InvalidParam]:
    faults = []
    if policy.duplicates not in get_args(Duplicates):
        rule = f"must be one of {listed(get_args(Duplicates))}"
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


_TIMED_OUT = frozenset({408, 504, 524})


def cause_of_status(status: int, code: str | None = None, kind: str | None = None) -> Cause:
    """The cause behind an error status; `code` and `kind` are the `code` and `type` of the error object."""
    if status not in _TIMED_OUT and (status in (409, 429) or status >= 500) and _is_refusal(status, code, kind):
        return "refused"
    if status == 429:
        return "rate_limited"
    if status in (409, 500, 502, 503):
        return "server_failed"
    return "unknown" if status == 408 or status >= 500 else "refused"


def _is_refusal(status: int, code: str | None, kind: str | None) -> bool:
    if is_about_credit(code) or is_about_credit(kind):
        return True
    stated = status_of_code(code)
    if stated is None:
        stated = status_of_code(kind)
        if status in (409, 429) and stated not in (401, 403):
            return False  # some services call every 4xx an "invalid_request_error"
    return stated is not None and cause_of_status(stated) == "refused"


# Other OpenAI-compatible services use these words if no credit is left.
_CREDIT = r"quota|balance|billing|credit|arrear|payment|funds|overdue"


def is_about_credit(code: str | None) -> bool:
    return code is not None and re.search(_CREDIT, _plain(code)) is not None


def _plain(code: str) -> str:
    """A code without what differs between spellings: `RateLimit-Exceeded` and `rate_limit_exceeded` are the same."""
    return re.sub(r"[\W_]+", "", code.lower())


# The words of other services' codes, not compiled before they are needed: every import of the client would wait for it.
# The order matters: a word that leaves open whether the work was done comes before those of a refusal, so that
# `invalid_upstream_response` or `moderation_timeout` is not taken for a free refusal.
_STATUS_OF_WORDS: tuple[tuple[str, int], ...] = (
    (r"ratelimit|toomany|throttl", 429),
    (r"time(d)?out|deadline", 504),
    (r"unavailable|overload", 503),
    (r"internal|server|upstream|(bad|empty|invalid)(response|result|output)", 500),
    (_CREDIT, 429),
    (r"apikey|auth|credential", 401),
    (r"permission|forbidden|accessdenied|notallowed", 403),
    (r"notfound", 404),
    (r"policy|moderat|sensitive|contentfilter|inspection|prohibited|nsfw|safety", 400),
    (r"invalid|unsupported|toolong", 400),
)


_CODE_LIMIT = 100


def status_of_code(*codes: str | None) -> int | None:
    """The HTTP status that an error's code means, else its type; None if neither is known."""
    for code in codes:
        if code is None or len(code) > _CODE_LIMIT or "/" in code:
            continue  # a link or a sentence, whose words can mean anything
        if code in DOCUMENTED_CODES:
            return DOCUMENTED_CODES[code].status
        if re.fullmatch(r"[45][0-9]{2}", code.strip(), re.ASCII):
            return int(code)
        for words, status in _STATUS_OF_WORDS:
            if re.search(words, _plain(code)):
                return status
    return None


_NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "ConnectionRefusedError", "PoolTimeout", "ProxyError", "gaierror"}
)
_MAYBE_SENT = frozenset({"ReadError", "ReadTimeout", "RemoteProtocolError", "WriteError", "WriteTimeout"})
_NEVER_SENT = frozenset(
    {"SSLCertVerificationError", "UnsupportedProtocol", "InvalidURL", "LocalProtocolError", PROXY_LOGIN}
)


def cause_of_failure(phase: "Phase | None", names: frozenset[str]) -> Cause:
    """The cause behind an attempt without a complete answer.

    Args:
        phase: How far the request got. None if the transport has no `trace` extension: then only an unambiguous class
            name proves that nothing was sent.
        names: The class names of the error and of everything that caused it, from `reasons.names_of`.
    """
    if phase in (None, "connecting", "sending") and names & _NEVER_SENT:
        return "refused"
    if phase in ("connecting", "sending") or (phase is None and _surely_not_sent(names)):
        return "not_sent"
    return "unknown"


def _surely_not_sent(names: frozenset[str]) -> bool:
    # The SDK's aiohttp transport raises ConnectTimeout even for a connection that broke after sending: `broken`.
    broken = "ClientConnectionError" in names and not names & {"ClientConnectorError", "ConnectionTimeoutError"}
    return bool(names & _NOT_SENT) and not names & _MAYBE_SENT and not broken


_SECONDS = re.compile(r"[0-9]{1,400}(?:\.[0-9]{1,20})?(?:[eE]\+?[0-9]{1,4})?", re.ASCII)
_FOREVER = 1e9


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """The server's `retry-after-ms` or `Retry-After` in seconds; None if it is missing, malformed or not in the future.

    A date is compared with the answer's own `Date` header, so that a wrong local clock does not matter; `now` is used
    if that header is missing.
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
    """Seconds to wait before the next attempt; None if there must be no further attempt.

    Args:
        cause: Why the last attempt failed.
        policy: The retry policy.
        attempt: The number of the attempt that failed, from 1.
        elapsed: Seconds since the first attempt began.
        asked: The server's Retry-After in seconds, if it sent one.
        random: A source of numbers from 0 to 1, for the jitter.
    """
    if cause not in _RETRIED[policy.duplicates] or attempt >= policy.max_attempts:
        return None
    if asked is not None and asked > policy.max_retry_after:
        return None
    if asked is not None:
        wait = asked * (1 + 0.1 * random())
    else:
        # A larger exponent would overflow; `max_wait` is the smaller of the two long before.
        wait = random() * min(policy.max_wait, policy.initial_wait * 2.0 ** min(attempt - 1, 63))
    return wait if elapsed + (wait if policy.waiting else 0) <= policy.max_elapsed else None


class RetryQuota:
    """A token bucket against retry storms, shared by a client and its copies. Only retries need tokens.

    It starts with 100. A retry takes 10 tokens, or 5 after a 429; a call that succeeds returns the tokens of its own
    retries and one more.
    """

    _CAPACITY = 100

    def __init__(self) -> None:
        self._tokens = self._CAPACITY
        self._lock = Lock()

    def take(self, cause: Cause) -> int | None:
        """Take the tokens for one retry and return how many; None if the bucket has too few."""
        price = 5 if cause == "rate_limited" else 10
        with self._lock:
            if self._tokens < price:
                return None
            self._tokens -= price
        return price

    def give_back(self, tokens: int) -> None:
        """Return the tokens that a successful call's retries took, and one more."""
        with self._lock:
            self._tokens = min(self._CAPACITY, self._tokens + tokens + 1)
