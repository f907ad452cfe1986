"""The faults of one call and of one download, and what each comes to; `test_matrix.py` plays them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux_openai.errors import Billing
    from flux_openai.retry import Cause, Duplicates

ATTEMPTS = 3
"""Of the policy that all rows are played under."""

Setting = tuple["Duplicates", int | None]
"""A setting of `duplicates`, and the attempts that fail; None for all that there are."""

SETTINGS: dict[Cause | None, tuple[Setting, ...]] = {
    # First the one that tells most: where it is retried, `on_retry` hears the cause; else the one that retries most.
    None: (("allowed", None),),
    "refused": (("allowed", None),),
    "unusable": (("allowed", None),),
    "unknown": (("allowed", None), ("never", None), ("unlikely", None), ("allowed", 1)),
    "server_failed": (("unlikely", None), ("never", None), ("unlikely", 1), ("allowed", None)),
    "rate_limited": (("never", None), ("never", 1)),
    "not_sent": (("never", None), ("never", 1)),
}
RETRIED: dict[Cause | None, tuple[Duplicates, ...]] = {
    "not_sent": ("never", "unlikely", "allowed"),
    "rate_limited": ("never", "unlikely", "allowed"),
    "server_failed": ("unlikely", "allowed"),
    "unknown": ("allowed",),
}
SDK = {
    "BadResponseError": "APIResponseValidationError",
    "FluxConnectionError": "APIConnectionError",
    "FluxTimeoutError": "APITimeoutError",
    "FluxStatusError": "APIStatusError",
    "FluxInternalServerError": "InternalServerError",
    "FluxRateLimitError": "RateLimitError",
}
"""The SDK's class behind each of ours that is not called as ours without "Flux"."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault of every attempt, as a script has it: why it fails (None: it does not), the error, and the true bill.

    `read` is the client's read time-out, and `short_body` bounds the time for a whole body, where the fault needs it.
    `at_once` rows ask for too long a wait to be retried. `slow` rows take seconds. `on_a_port=False` is for what a
    server on a port cannot do: test_not_sent.py and test_unknown_outcomes.py show what is the same there.
    """

    fault: str
    cause: Cause | None = None
    raises: str | None = None
    billing: Billing | None = None
    billed: bool = False
    at_once: bool = False
    read: float = 60
    short_body: bool = False
    slow: bool = False
    on_a_port: bool = True

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings under which the row is worth playing, the one that tells most first."""
        return SETTINGS[self.cause][: 1 if self.at_once else None]

    def failing(self, setting: Setting) -> int:
        """How many attempts fail under this setting."""
        duplicates, faulty = setting
        retried = duplicates in RETRIED.get(self.cause, ()) and not self.at_once
        return faulty or (ATTEMPTS if retried else 1)


def refused(fault: str, raises: str = "FluxStatusError") -> Row:
    return Row(fault=fault, cause="refused", raises=raises, billing="none")


def limited(fault: str, *, at_once: bool = False) -> Row:
    return Row(fault=fault, cause="rate_limited", raises="FluxRateLimitError", billing="none", at_once=at_once)


def not_sent(fault: str, raises: str = "FluxConnectionError") -> Row:
    return Row(fault=fault, cause="not_sent", raises=raises, billing="none", on_a_port=False)


def failed(fault: str, raises: str = "FluxInternalServerError", *, billed: bool = False, at_once: bool = False) -> Row:
    return Row(fault=fault, cause="server_failed", raises=raises, billing="unknown", billed=billed, at_once=at_once)


def lost(fault: str, raises: str = "FluxConnectionError", *, billed: bool = True, read: float = 60) -> Row:
    return Row(fault=fault, cause="unknown", raises=raises, billing="unknown", billed=billed, read=read)


def late(fault: str, *, billed: bool = True) -> Row:
    return lost(fault, "FluxTimeoutError", billed=billed, read=0.1)


def useless(fault: str, billing: Billing = "unknown") -> Row:
    return Row(fault=fault, cause="unusable", raises="BadResponseError", billing=billing, billed=True)


def odd(fault: str) -> Row:
    return Row(fault=fault, billed=True)


REFUSALS = {
    **dict.fromkeys(("rate_limit_exceeded", "insufficient_quota", "429"), "FluxRateLimitError"),
    **dict.fromkeys(("content_policy_violation", "invalid_value"), "FluxBadRequestError"),
    "invalid_api_key": "FluxAuthenticationError",
    "permission_denied": "FluxPermissionDeniedError",
    "model_not_found": "FluxNotFoundError",
}
CONTENT = (
    *("param_error", "invalid_messages", "sensitive_check_error", "websearch_error", "model_error", "tokens_too_long"),
)
REFUSED_BY_CODE = ((500, "sensitive_check_error"), (502, "auth_error"), (503, "content_policy_violation"))
FAILURES = ("internal_server_error", "upstream_timeout", "503", "strange")
NOON = 'header(date, "Sun, 22 Nov 2026 12:00:00 GMT")'
SECONDS = ("0", "-7", "NaN", "inf", "abc", "120, 5", "1e", "0x10", "7s", "Sun, 99 Nov 2026 12:00:30 GMT")
ASKED = (
    *(f'header(retry-after, "{text}")' for text in SECONDS),
    *(f'header(retry-after-ms, "{text}")' for text in ("1500", "-1", "soon")),
    *(f'header(retry-after, "Sun, 22 Nov 2026 {time} GMT"), {NOON}' for time in ("12:00:30", "12:00:00", "11:59:00")),
)
ASKED_TOO_LONG = (
    *(f'header(retry-after, "{text}")' for text in ("121", "1e400", "9" * 300)),
    'header(retry-after-ms, "1e400")',
    f'header(retry-after, "Fri, 31 Dec 9999 23:59:59 GMT"), {NOON}',
)
BEFORE = (
    *(not_sent(f"connect({how})") for how in ("dns", "refused", "tls", "proxy")),
    not_sent("connect(timeout)", "FluxTimeoutError"),
    not_sent("connect(pool)", "FluxTimeoutError"),
    not_sent("upload(reset)"),
    not_sent("upload(timeout)", "FluxTimeoutError"),
    replace(refused("connect(certificate)", "FluxConnectionError"), on_a_port=False),
    lost("reset(before_bill)", billed=False),
)
UNANSWERED = (
    *map(lost, ("reset(after_bill)", "garbage", "garbage(status)", "garbage(header)", "garbage(chunk)")),
    *map(lost, ("truncate", "truncate(1%)", "truncate(99%)", "gzip, truncate")),
    *map(late, ("timeout", "slow(3600s)")),
    late("timeout(billed=false)", billed=False),
    replace(odd("long_header(300000)"), on_a_port=False),
    *map(odd, ("hints(3)", "hints(1000)", "drip(50ms)")),
    replace(useless("drip(3s)"), short_body=True),
    *(refused(f"redirect({status})") for status in (300, 301, 302, 303, 304, 307, 308)),
    refused('redirect(307, to="/v1/elsewhere")'),
)
STATUSES = (
    refused("status(400)", "FluxBadRequestError"),
    refused("moderation", "FluxBadRequestError"),
    refused('status(400), header("x-should-retry", "true")', "FluxBadRequestError"),
    refused("status(401)", "FluxAuthenticationError"),
    refused("status(403)", "FluxPermissionDeniedError"),
    refused("status(404)", "FluxNotFoundError"),
    refused("status(422)", "FluxUnprocessableEntityError"),
    *(refused(f"status({status})") for status in (402, 405, 407, 413, 421, 425, 431, 451, 499)),
    *(refused(code, "FluxBadRequestError") for code in CONTENT),
    refused("auth_error", "FluxAuthenticationError"),
    refused("forbidden", "FluxPermissionDeniedError"),
    limited("rate_limit"),
    *map(failed, ("internal_error", "model_server_error")),
    lost("request_timeout", "FluxStatusError", billed=False),
    lost("gateway_timeout_error", "FluxInternalServerError", billed=False),
    *(refused(f"status({status}, code={code})", "FluxInternalServerError") for status, code in REFUSED_BY_CODE),
    refused("status(511)", "FluxInternalServerError"),  # its code is network_authentication_required
    lost("status(504, code=auth_error)", "FluxInternalServerError", billed=False),
    lost("status(408)", "FluxStatusError", billed=False),
    *(failed(fault, "FluxConflictError") for fault in ("status(409)", "status(409, retry_after=1s)")),
    *map(limited, ("status(429)", "status(429, retry_after=500ms)", "status(429, retry_after=60s)")),
    *(limited(f"status(429), {header}") for header in ASKED),
    limited('status(429), header("x-should-retry", "false")'),
    *(limited(f"status(429), {header}", at_once=True) for header in ASKED_TOO_LONG),
    limited("status(429, retry_after=61s)", at_once=True),
    *(refused(fault, "FluxRateLimitError") for fault in ("quota", "status(429, code=InsufficientBalance)")),
    refused("status(429, code=forbidden)", "FluxRateLimitError"),
    failed("status(500, billed=true)", billed=True),
    *map(failed, ("status(500)", "status(502)", "status(503)", "status(503, retry_after=1s)")),
    *(failed(f"status(503), {header}", at_once=True) for header in ASKED_TOO_LONG[:1]),
    failed("status(503, retry_after=61s)", at_once=True),
    *(
        lost(f"status({status})", "FluxInternalServerError", billed=False)
        for status in (501, 504, 505, 507, 520, 524, 529, 599)
    ),
    lost('status(504, billed=true), header("x-should-retry", "true")', "FluxInternalServerError"),
    *map(failed, ("html(502)", "long_message(100000)", "status(500), empty_body", "status(500), bad_json")),
    *(
        failed(f"status(502), {fault}")
        for fault in ('body("in plain words")', 'body("[[]]")', 'header(x-city, "Münster")')
    ),
)
UNUSABLE = (
    *map(useless, ("html", "empty_body", "null", "no_data", "empty_data", "success(204)")),
    *map(useless, ("deep_json", "gzip, bom", "gzip, gzip, gzip")),
    *map(useless, ('body("5")', 'body("{\\"data\\": {}}")')),
    *map(useless, ('body("{\\"images\\": []}")', 'body("data: {\\"data\\": [{\\"url\\": \\"x\\"}]}")')),
    useless("oversize"),
    *(replace(useless(fault), slow=True) for fault in ("oversize(80), gzip", "oversize(80), gzip, gzip")),
    *(useless(fault, "paid") for fault in ("missing(both)", "null_items", "bad_base64")),
    *(refused(f"error_in_200({code}, billed=false)", raises) for code, raises in REFUSALS.items()),
    *(replace(lost(f"error_in_200({code})", "FluxInternalServerError"), cause="unusable") for code in FAILURES),
)
ODD = (
    *map(odd, ("error_beside_images", "partial(1)", "extra_pictures", "missing(url)", "missing(b64_json)")),
    *map(odd, ("base64(plain)", "base64(url_safe)", "base64(unpadded)", "base64(wrapped)", "wrong_type", "not_png")),
    *map(odd, ("extra_field", "usage_null", "string_created", "bom", "gzip", "gzip, gzip", "content_type")),
    *map(odd, ("bad_json", "json_list", "utf16", "nan", "bad_gzip", "content_encoding")),
    odd('body("{\\"data\\": [{\\"url\\": \\"\\ud800\\"}]}")'),
    *map(odd, ("long_header", "slow(0)", "success(201)", "success(206)", 'header(x-city, "Münster")')),
)
ROWS = (*BEFORE, *UNANSWERED, *STATUSES, *UNUSABLE, *ODD)


@dataclass(frozen=True, kw_only=True)
class LinkRow:
    """One fault of every download: what is raised, and after how many tries and requests; None where it is read."""

    fault: str
    raises: str | None
    tries: int
    gets: int


def unread(fault: str, tries: int = 1) -> LinkRow:
    return LinkRow(fault=fault, raises="DownloadError", tries=tries, gets=tries)


def unsafe(fault: str, gets: int = 1) -> LinkRow:
    return LinkRow(fault=fault, raises="UnsafeURLError", tries=1, gets=gets)


def read(fault: str) -> LinkRow:
    return LinkRow(fault=fault, raises=None, tries=1, gets=1)


FOREIGN = ("http://10.0.0.1/1.png", "https://169.254.169.254/x", "https://me:you@127.0.0.1/1.png", "ftp://x/1.png")
FREE = 5
"""A download costs nothing, so that it is tried so often where that may help."""

LINKS = (
    *map(unread, ("url(410)", "status(400)", "status(401)")),
    *map(unread, ("url(html)", "url(empty)", "url(wrong_type)", 'body("<svg/>")', "oversize", "gzip")),
    unread("status(429, retry_after=61s)"),
    unread("status(429, retry_after=1s)", FREE),
    *(
        unread(fault, FREE)
        for fault in (
            "url(403)",
            "url(404)",
            "url(429)",
            "url(500)",
            "url(503)",
            "status(408)",
            "status(502)",
            "status(504)",
        )
    ),
    *(unread(fault, FREE) for fault in ("timeout", "slow(3600s)", "reset", "connect", "garbage", "garbage(chunk)")),
    *(unread(fault, FREE) for fault in ("truncate", "truncate(1%)", "truncate(99%)")),
    unsafe("url(redirect)"),
    unsafe("url(loop)", 4),
    *(unsafe(f'redirect(302, to="{to}")') for to in FOREIGN),
    *map(read, ("hints(3)", "drip(20ms)", "slow(0)", 'header(content-type, "text/html")')),
)
