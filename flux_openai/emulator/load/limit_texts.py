"""Limits as one writes them on a command line."""

import re
from collections.abc import Iterable

from flux_openai.emulator.load.limits import Concurrency, Credits, FixedWindow, Limit, TokenBucket
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["parse_limit", "read_limits"]

_RATE = re.compile(r"(window:)?(\d{1,9})/(s|min|h)(?:,burst=(\d{1,9}))?", re.ASCII)
_CONCURRENCY = re.compile(r"concurrency=(\d{1,9})", re.ASCII)
_CREDITS = re.compile(r"credits=(\d{1,9})(?:,status=(\d{3}))?(?:,code=(\w{1,80}))?", re.ASCII)
_UNITS = {"s": 1, "min": 60, "h": 3600}
_RULE = "must be like 10/s, 60/min,burst=5, window:60/min, concurrency=8 or credits=100,status=402"


def read_limits(limits: Iterable[Limit | str]) -> list[Limit]:
    """The limits, those read that are given as text; a single text is one limit. Raises ConfigurationError."""
    given = [limits] if isinstance(limits, str) else limits
    if not isinstance(given, Iterable):
        raise ConfigurationError.of(InvalidParam(param="limits", value=limits, rule=_RULE, nearest=["10/s"]))
    return [limit if isinstance(limit, Limit) else parse_limit(str(limit)) for limit in given]


def parse_limit(text: str) -> Limit:
    """The limit in a text.

    "10/s", "60/min" and "9/h" are token buckets; all may come at once unless ",burst=5" says how many. "window:60/min"
    is a fixed window, "concurrency=8" what may be under way, and "credits=100" the images that are paid for, which may
    have ",status=402" and ",code=no_balance". Raises ConfigurationError.
    """
    plain = text.replace(" ", "")
    if (found := _RATE.fullmatch(plain)) and not (found[1] and found[4]):
        count, seconds = int(found[2]), _UNITS[found[3]]
        if found[1]:
            return FixedWindow(count=count, seconds=seconds)
        return TokenBucket(rate=count / seconds, burst=int(found[4] or count))
    if found := _CONCURRENCY.fullmatch(plain):
        return Concurrency(count=int(found[1]))
    if found := _CREDITS.fullmatch(plain):
        status, code = int(found[2] or 429), found[3] or "insufficient_quota"
        return Credits(images=int(found[1]), status=status, code=code)
    raise ConfigurationError.of(InvalidParam(param="limits", value=text, rule=_RULE, nearest=_nearest(plain)))


def _nearest(text: str) -> str:
    number = re.search(r"\d{1,9}", text, re.ASCII)
    count = max(1, int(number[0])) if number else 10
    shapes = {"conc": f"concurrency={count}", "cred": f"credits={count}", "wind": f"window:{count}/min"}
    return shapes.get(text[:4], f"{count}/min" if "m" in text else f"{count}/s")
