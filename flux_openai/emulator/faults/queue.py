"""Planned trouble: what shall go wrong with the next calls, in the order in which it was asked for."""

import difflib
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard, get_args

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.api.responses import (
    NEVER_SENT,
    TRANSPORT_FAULTS,
    Reply,
    TransportFault,
    broken,
    error_response,
    status_error,
    xml_error,
)
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["FaultQueue", "Plan", "Target", "closest", "is_header_name", "make_plan", "planned_reply"]

Target = Literal["generate", "download"]
"""The two kinds of call that can be made to fail."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes wrong with one call: a `status` with its headers and body, or an `error`, and a status of 0."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    error: TransportFault | None
    billed: bool


def is_header_name(name: object) -> TypeGuard[str]:
    """Whether HTTP allows it for the name of a header."""
    return isinstance(name, str) and re.fullmatch(r"[\w!#$%&'*+.^`|~-]{1,200}", name, re.ASCII) is not None


def make_plan(
    *,
    times: int,
    status: int | None,
    headers: Mapping[str, str] | None,
    body: object,
    error: TransportFault | None,
    billed: bool | None,
    on: Target,
) -> Plan:
    """The checked plan; raises ConfigurationError with everything that is wrong with it."""
    wrong = [
        *_wrong_choice(times=times, status=status, error=error, on=on),
        *_wrong_answer(status=status, headers=headers, body=body),
        *_wrong_billing(billed, error=error, on=on),
    ]
    if wrong:
        raise ConfigurationError("\n".join(map(str, wrong)))
    # Where an error status comes back, no work was done; an exchange that breaks after sending hides work that was.
    usual = status is not None and 200 <= status < 300 if error is None else error not in NEVER_SENT
    return Plan(
        status=status or 0,
        headers={name.lower(): value for name, value in (headers or {}).items()},
        body=None if body is None else _encoded(body),
        error=error,
        billed=usual if billed is None else billed,
    )


def closest(value: object, choices: Iterable[str]) -> str:
    """The choice most like the value."""
    return difflib.get_close_matches(str(value), list(choices), n=1, cutoff=0)[0]


def _wrong_choice(*, times: object, status: object, error: object, on: object) -> Iterator[InvalidParam]:
    if not is_whole(times) or times < 1:
        yield InvalidParam(param="times", value=times, rule="must be a whole number from 1", nearest=1)
    if status is None and error is None:
        yield InvalidParam(param="status", value=None, rule="give a status or an error", nearest=500)
    if status is not None and error is not None:
        yield InvalidParam(param="error", value=error, rule="give a status or an error, not both", nearest=f"{status=}")
    if status is not None and not (is_whole(status) and 200 <= status <= 599):
        yield InvalidParam(
            param="status", value=status, rule="must be from 200 to 599", nearest=_nearest_status(status)
        )
    for param, value, choices in (("error", error, TRANSPORT_FAULTS), ("on", on, get_args(Target))):
        if value not in choices and not (param == "error" and value is None):
            nearest = closest(value, choices)
            yield InvalidParam(param=param, value=value, rule=f"must be one of {', '.join(choices)}", nearest=nearest)


def _nearest_status(status: object) -> int:
    number = re.fullmatch(r"\s*(-?[0-9]{1,9})\s*", str(status), re.ASCII)
    return min(max(int(number[1]), 200), 599) if number else 599


def _wrong_answer(*, status: int | None, headers: object, body: object) -> Iterator[InvalidParam]:
    if status is None and body is not None:
        yield InvalidParam(param="body", value=body, rule="needs a status to go with", nearest="status=200")
    if status is None and headers is not None:
        yield InvalidParam(param="headers", value=headers, rule="need a status to go with", nearest="status=200")
    if not isinstance(headers, Mapping | None):
        yield InvalidParam(
            param="headers", value=headers, rule="must be names and values", nearest={"retry-after": "1"}
        )
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        if not isinstance(value, str):
            yield InvalidParam(param=f"headers[{name!r}]", value=value, rule="must be a string", nearest=str(value))
        if not is_header_name(name):
            yield InvalidParam(
                param="headers", value=name, rule="must have names of letters, digits and -", nearest="x-name"
            )
    try:
        _encoded(body)
    except (TypeError, ValueError) as error:
        yield InvalidParam(
            param="body", value=body, rule=f"cannot be written as JSON: {error}", nearest="a string or bytes"
        )


def _wrong_billing(billed: object, *, error: object, on: object) -> Iterator[InvalidParam]:
    if billed is not None and not isinstance(billed, bool):
        yield InvalidParam(param="billed", value=billed, rule="must be True, False or None", nearest=bool(billed))
    elif billed and error in NEVER_SENT:
        yield InvalidParam(param="billed", value=billed, rule="what was never sent is never billed", nearest=False)
    elif billed and on == "download":
        yield InvalidParam(param="billed", value=billed, rule="downloads are never billed", nearest=False)


def _encoded(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _content_type(body: bytes, *, hosted: bool) -> str:
    start = body.lstrip()[:1]
    if start == b"<":
        return "text/html"
    if start in (b"{", b"["):
        return "application/json"
    return "image/png" if hosted else "text/plain"


def planned_reply(plan: Plan, *, hosted: bool, request_id: str) -> Reply:
    """The reply in place of the ordinary one; `hosted` says whether the call was for a hosted picture."""
    if plan.error is not None:
        return broken(plan.error)
    if plan.body is None:
        blank = xml_error if hosted else error_response
        reply = blank(status_error(plan.status), request_id=request_id)
    else:
        content_type = _content_type(plan.body, hosted=hosted)
        reply = Reply(status=plan.status, headers={"content-type": content_type}, body=plan.body)
    return replace(reply, headers={**reply.headers, **plan.headers})


class FaultQueue:
    """Plans for one kind of call. Not thread safe by itself: the emulator holds its lock around it."""

    def __init__(self) -> None:
        self._plans: deque[tuple[int, Plan]] = deque()

    def add(self, plan: Plan, *, times: int) -> None:
        """Line up a plan for that many calls."""
        self._plans.append((times, plan))

    def take(self) -> Plan | None:
        """The plan for the call that is being made, or None if it shall go well."""
        if not self._plans:
            return None
        left, plan = self._plans.popleft()
        if left > 1:
            self._plans.appendleft((left - 1, plan))
        return plan
