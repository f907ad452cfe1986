"""What the HTTP libraries and the SDK log: redacted during a request for images, dropped during a download.

At INFO they log whole URLs, at DEBUG headers, cookies, redirects and the options of a request.
"""

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from flux_openai._http.context import Bound
from flux_openai._http.redaction import scrub, scrub_relative_links

__all__ = ["LOGGERS", "filtered_logs", "redact_record"]

LOGGERS = (
    *("httpx", "httpx2", "hpack.hpack", "hpack.table", "openai._base_client"),
    *(
        f"{core}.{part}"
        for core in ("httpcore", "httpcore2")
        for part in ("connection", "http11", "http2", "proxy", "socks")
    ),
)
"""The names of the loggers; a filter works for the very logger that it was added to, and not for those below it."""

_LOGGERS = tuple(map(logging.getLogger, LOGGERS))
_KEEP: ContextVar[Callable[[logging.LogRecord], bool] | None] = ContextVar("flux_openai_keep_record", default=None)


def _filter(record: logging.LogRecord) -> bool:
    keep = _KEEP.get()
    return keep is None or keep(record)


def filtered_logs(
    keep: Callable[[logging.LogRecord], bool], *more: tuple[ContextVar[Any], object]
) -> AbstractContextManager[None]:
    """Pass the records of this thread or task through `keep` inside the block; it may change them, or drop them.

    `more` are other context variables that have a value in the same block.
    """
    for logger in _LOGGERS:
        if _filter not in logger.filters:
            logger.addFilter(_filter)  # anew if `logging.config.dictConfig` has removed it
    return Bound((_KEEP, keep), *more)


_HEADER = re.compile(
    r"""(?P<name>b?(?P<quote>['"])(?!idempotency-key)[\w-]{0,64}(?:cookie|key|token|secret|auth|passw|credential)"""
    r"""[\w-]{0,64}(?P=quote)[:,] b?)(?P<other>['"])(?:(?!(?P=other))[^\\]|\\.)*(?P=other)""",
    re.IGNORECASE,
)
"""A name that probably stands for a credential, and its value: in the repr of a dict, or of pairs of bytes."""


def redact_record(record: logging.LogRecord, secrets: Iterable[str]) -> bool:
    """Scrub what a library logs about a request: addresses, headers, and the reason phrase of the answer.

    Returns True, because the record is kept.
    """
    if isinstance(record.args, dict):
        record.args = ("[redacted]",)  # the options of the request, which openai 2 logs with all headers and the prompt
    text = scrub_relative_links(scrub(record.getMessage(), secrets), by="[redacted]")
    record.msg, record.args = _HEADER.sub(r"\g<name>\g<other>[redacted]\g<other>", text), None
    # openai 2 adds the exception, and with it the frames that hold the request. The error that is raised says it all.
    record.exc_info = None
    return True
