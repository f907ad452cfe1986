"""The SDK's own arguments, `timeout`, `extra_headers` and `extra_query`: wrong ones fail late there, or are sent."""

import math
import re
from collections.abc import Mapping

from openai import NotGiven, Omit

from flux_openai._http.redaction import Redacted
from flux_openai.errors import InvalidParam

__all__ = ["header_faults", "query_faults", "timeout_faults"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HALF_PAIR = re.compile(r"(?<!\\)(?:\\\\)*\\ud[89a-f]")
"""Half of a surrogate pair, in a repr."""

_VALUE = re.compile(r"|[\x21-\x7e]|[\x21-\x7e][\t\x20-\x7e]*[\x21-\x7e]")


def header_faults(headers: object, *, param: str = "extra_headers") -> list[InvalidParam]:
    """What is wrong with headers. Their values may be credentials, so they are in no fault."""
    if headers is None or isinstance(headers, NotGiven | Omit):
        return []
    if not isinstance(headers, Mapping):
        return [_not_a_mapping(headers, param)]
    faults = []
    for name, value in headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            rule = "a header's name must be ASCII letters, digits and hyphens"
            faults.append(InvalidParam(param=param, value=name, rule=rule))
        elif not isinstance(text, Omit) and (not isinstance(text, str) or not _VALUE.fullmatch(text)):
            rule = "a header's value must be ASCII text on one line, without spaces around it"
            faults.append(InvalidParam(param=f"{param}[{name!r}]", value=_kind(value), rule=rule))
    return faults


def query_faults(query: object, *, param: str = "extra_query") -> list[InvalidParam]:
    """What is wrong with the query. Its values may be credentials, so they are in no fault."""
    if query is None or isinstance(query, NotGiven | Omit):
        return []
    if not isinstance(query, Mapping):
        return [_not_a_mapping(query, param)]
    faults = []
    for name, value in query.items():
        if not isinstance(name, str):
            faults.append(InvalidParam(param=param, value=name, rule="a name in a query must be text"))
        elif _HALF_PAIR.search(repr((name, value))):
            rule = "has half of a surrogate pair, which is no character"
            faults.append(InvalidParam(param=f"{param}[{name!a}]", value=_kind(value), rule=rule))
    return faults


def timeout_faults(timeout: object) -> list[InvalidParam]:
    """What is wrong with a time-out: a number of seconds, an `openai.Timeout`, or None for no limit."""
    if isinstance(timeout, NotGiven | Omit):
        return []
    parts = timeout.as_dict().values() if hasattr(timeout, "as_dict") else [timeout]
    if all(part is None or _is_positive(part) for part in parts):
        return []
    rule = "must be a number of seconds above 0, an openai.Timeout of them, or None for no limit"
    return [InvalidParam(param="timeout", value=timeout, rule=rule)]


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _not_a_mapping(value: object, param: str) -> InvalidParam:
    return InvalidParam(param=param, value=_kind(value), rule="must be a mapping of names to values")


def _kind(value: object) -> Redacted:
    return Redacted(f"<{type(value).__name__}>")
