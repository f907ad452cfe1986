"""The queue of `Emulator.fail`: faults that are used one by one, before those of the script."""

import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

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
from flux_openai.emulator.faults.fault import Expected, Fault, FaultContext, FaultType, Target, closest, is_header_name
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["FaultQueue", "make_fault"]


class FaultQueue:
    """Faults for the next calls of each kind, first in, first out. The emulator holds its lock around it."""

    def __init__(self) -> None:
        self._waiting: Mapping[str, deque[tuple[int, Fault]]] = {target: deque() for target in get_args(Target)}

    def add(self, fault: Fault, *, times: int, on: Target) -> None:
        """Queue a fault for this many calls."""
        self._waiting[on].append((times, fault))

    def take(self, on: str) -> tuple[Fault, ...]:
        """Remove and return the fault for a call of this kind; an empty tuple if there is none."""
        waiting = self._waiting.get(on)
        if not waiting:
            return ()
        times, fault = waiting.popleft()
        if times > 1:
            waiting.appendleft((times - 1, fault))
        return (fault,)


def make_fault(
    *,
    times: int,
    status: int | None,
    headers: Mapping[str, str] | None,
    body: object,
    error: TransportFault | None,
    billed: bool | None,
    on: Target,
) -> Fault:
    """The fault for these arguments of `Emulator.fail`.

    Its type is not in the catalog, because a script could not express any headers and body.

    Raises:
        ConfigurationError: With everything that is wrong with the arguments.
    """
    invalid = _invalid_params(times=times, status=status, headers=headers, body=body, error=error, billed=billed, on=on)
    if invalid:
        raise ConfigurationError.of(*invalid)
    # Encoded now, so that the response does not change if the caller changes the body later.
    content = None if body is None else _encoded(body)
    own_headers = {name.lower(): value for name, value in (headers or {}).items()}

    def effect(context: FaultContext) -> Reply:
        if error is not None:
            return replace(context.reply, error=error) if error == "truncate" else broken(error)
        hosted = context.on == "download"
        if content is None:
            refusal = status_error(status or 0)
            reply = (xml_error if hosted else error_response)(refusal, request_id=context.request_id)
        else:
            headers = {"content-type": _content_type(content, hosted=hosted)}
            reply = Reply(status=status or 0, headers=headers, body=content)
        return replace(reply, headers={**reply.headers, **own_headers})

    # An error status means that no image was made; if the exchange breaks after sending, the images were made.
    usual = status is not None and 200 <= status < 300 if error is None else error not in NEVER_SENT
    expected = Expected(billed=usual if billed is None else billed, raises=None)
    return Fault(type=FaultType(name=error or f"status {status}", doc="", effect=effect, orders={"": expected}))


def _invalid_params(
    *, times: object, status: object, headers: object, body: object, error: object, billed: object, on: object
) -> list[InvalidParam]:
    """Everything that is wrong with the arguments."""
    invalid: list[InvalidParam] = []

    def check(valid: object, param: str, value: object, rule: str, nearest: object) -> None:
        if not valid:
            invalid.append(InvalidParam(param=param, value=value, rule=rule, nearest=nearest))

    targets, no_status = get_args(Target), status is None
    check(is_whole(times) and times >= 1, "times", times, "must be a whole number from 1", 1)
    check(status is not None or error is not None, "status", None, "give a status or an error", 500)
    check(status is None or error is None, "error", error, "give a status or an error, not both", f"{status=}")
    in_range = is_whole(status) and 200 <= status <= 599
    check(status is None or in_range, "status", status, "must be from 200 to 599", _nearest_status(status))
    one_of = f"must be one of {', '.join(TRANSPORT_FAULTS)}"
    check(error is None or error in TRANSPORT_FAULTS, "error", error, one_of, closest(error, TRANSPORT_FAULTS))
    check(on in targets, "on", on, f"must be one of {', '.join(targets)}", closest(on, targets))

    check(body is None or not no_status, "body", body, "needs a status to go with", "status=200")
    check(headers is None or not no_status, "headers", headers, "need a status to go with", "status=200")
    named = headers is None or isinstance(headers, Mapping)
    check(named, "headers", headers, "must be names and values", {"retry-after": "1"})
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        check(isinstance(value, str), f"headers[{name!r}]", value, "must be a string", str(value))
        check(is_header_name(name), "headers", name, "must have names of letters, digits and -", "x-name")
    try:
        _encoded(body)
    except (TypeError, ValueError) as problem:
        check(None, "body", body, f"cannot be written as JSON: {problem}", "a string or bytes")

    check(isinstance(billed, bool | None), "billed", billed, "must be True, False or None", bool(billed))
    if billed is True:
        rule = "what was never sent is never billed" if error in NEVER_SENT else "downloads are never billed"
        check(error not in NEVER_SENT and on != "download", "billed", billed, rule, nearest=False)
    return invalid


def _nearest_status(status: object) -> int:
    number = re.fullmatch(r"\s*(-?[0-9]{1,9})\s*", str(status), re.ASCII)
    return min(max(int(number[1]), 200), 599) if number else 599


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
