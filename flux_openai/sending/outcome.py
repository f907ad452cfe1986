"""How one attempt ended: the SDK's error or the answer on the wire -> a response or an error of ours, and its cause.

No failure of an attempt is raised here: the retry loop looks at the outcome, and only the outermost frame raises, where
no local holds a key or a link.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import openai
from pydantic_core import from_json

from flux_openai._http.capture import Exchange
from flux_openai._http.library import httpx
from flux_openai._http.redaction import identifier, printable, redact_body, redact_request, redact_response
from flux_openai.errors import (
    BadResponseError,
    Billing,
    FluxAPIError,
    FluxConnectionError,
    FluxError,
    FluxStatusError,
    FluxTimeoutError,
    status_error_class,
)
from flux_openai.response.parsing import UnusableBody, read_answer, text_of
from flux_openai.response.response import CallInfo, DownloadSettings, FluxImagesResponse
from flux_openai.retry import BILLING, Cause, cause_of_failure, cause_of_status, names_of, retry_after

__all__ = ["Outcome", "RawResponse", "conclude"]


class RawResponse(Protocol):
    """What the SDK returns to a caller who asked for the raw response, as far as it is touched here."""

    retries_taken: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one attempt came to: a response, or an error with its cause; `raw` is what the SDK itself returned."""

    raw: RawResponse | None = None
    response: FluxImagesResponse | None = None
    error: FluxAPIError | None = None
    cause: Cause | None = None
    retry_after: float | None = None
    status_code: int | None = None


def conclude(
    exchange: Exchange,
    failure: openai.APIError | None,
    *,
    receipt: CallInfo,
    downloads: DownloadSettings,
) -> Outcome:
    """Judge one attempt from what was seen on the wire; `failure` is what the SDK made of it, if it raised."""
    reply = exchange.response
    if reply is not None and not reply.is_success:
        return _refused(reply, exchange, receipt)
    if failure is not None:
        return _broken_off(failure, exchange, receipt)
    if reply is None:
        error = FluxError("the SDK answered past this client; the call may have been carried out and billed")
        error.billing = "unknown"
        raise error
    if exchange.flaw is not None:
        return _unusable(UnusableBody(reason=f"it {exchange.flaw}"), reply, exchange, receipt)
    receipt = replace(receipt, request_id=identifier(reply.headers.get("x-request-id")))
    answer = read_answer(reply.content, receipt=receipt, downloads=downloads, secrets=exchange.secrets)
    if isinstance(answer, UnusableBody):
        return _unusable(answer, reply, exchange, receipt)
    return Outcome(response=answer, status_code=reply.status_code)


def _refused(reply: httpx.Response, exchange: Exchange, receipt: CallInfo) -> Outcome:
    shown = redact_response(reply, exchange.secrets)
    body = _body_of(shown.content)
    cause = cause_of_status(reply.status_code, text_of(body, "code"))
    error = _status_error(shown, body, status=reply.status_code, cause=cause, receipt=receipt)
    return Outcome(error=error, cause=cause, retry_after=error.retry_after, status_code=reply.status_code)


def _status_error(
    shown: httpx.Response, body: object, *, status: int, cause: Cause, receipt: CallInfo, prefix: str = ""
) -> FluxStatusError:
    said = text_of(body, "message") or (body if isinstance(body, str) else "") or shown.reason_phrase
    message = f"Error code: {status} - {prefix}{printable(said, limit=300).rstrip('.')}{_REMARKS[BILLING[cause]]}"
    if 300 <= status < 400:
        message += "; a redirect is not followed: key and prompt would go elsewhere"
    error = status_error_class(status)(message, response=shown, body=body)
    error.status_code = status
    error.raw = shown.content
    error.retry_after = retry_after(shown.headers)
    return _marked(
        error, cause=cause, receipt=receipt, request_id=identifier(text_of(body, "param")) or error.request_id
    )


_REMARKS: Mapping[Billing, str] = {"none": "", "unknown": "; it may have been carried out and billed", "paid": ""}


_E = TypeVar("_E", bound=FluxAPIError)


def _marked(error: _E, *, cause: Cause, receipt: CallInfo, request_id: str | None) -> _E:
    error.billing = BILLING[cause]
    error.attempts = receipt.attempts
    error.request_id = identifier(request_id)
    return error


def _body_of(content: bytes) -> object:
    """The error object of a body, as the SDK shows it in `error.body`; the text when there is none."""
    try:
        body = from_json(content)
    except ValueError:
        return content.decode("utf-8", "replace")
    return body.get("error") or body if isinstance(body, dict) else body


def _broken_off(failure: openai.APIError, exchange: Exchange, receipt: CallInfo) -> Outcome:
    cause = cause_of_failure(exchange.phase, names_of(failure.__cause__))
    request = redact_request(failure.request)
    reason = type(failure.__cause__).__name__ if failure.__cause__ is not None else type(failure).__name__
    message = f"{failure.message.rstrip('.')} ({reason}, {_PHASES[cause]}){_REMARKS[BILLING[cause]]}"
    error: FluxConnectionError
    if isinstance(failure, openai.APITimeoutError):
        error = FluxTimeoutError(request=request)
        error.message, error.args = message, (message,)
    else:
        error = FluxConnectionError(message=message, request=request)
    partial = exchange.response
    error.raw = b"" if partial is None else redact_body(partial.content, exchange.secrets)
    request_id = None if partial is None else partial.headers.get("x-request-id")
    _marked(error, cause=cause, receipt=receipt, request_id=request_id)
    return Outcome(error=error, cause=cause)


_PHASES: Mapping[Cause, str] = {
    "not_sent": "before the request was sent",
    "refused": "and trying again will not help",
    "unknown": "after the request was sent",
}


def _unusable(answer: UnusableBody, reply: httpx.Response, exchange: Exchange, receipt: CallInfo) -> Outcome:
    shown = redact_response(reply, exchange.secrets)
    error: FluxAPIError
    if answer.error is not None:
        body = _body_of(shown.content)
        status = _status_of_code(text_of(body, "code"), text_of(body, "type"))
        prefix = "in a 200: " if status else "an error in a 200: "
        cause = cause_of_status(status, text_of(body, "code")) if status else "unusable"
        error = _status_error(
            shown, body, status=status or reply.status_code, cause=cause, receipt=receipt, prefix=prefix
        )
    else:
        message = f"the service answered {reply.status_code}, but the answer cannot be used: {answer.reason}"
        error = BadResponseError(response=shown, body=_body_of(shown.content), message=message)
        error.raw = shown.content
        _marked(error, cause="unusable", receipt=receipt, request_id=reply.headers.get("x-request-id"))
        error.billing = answer.billing
    # Whatever the error in it says, a 200 is not asked for again: the service counts it as done.
    return Outcome(error=error, cause="unusable", status_code=reply.status_code)


# The service documents no codes. The words are OpenAI's; the first that occurs in the code, else in the type, decides.
_STATUS_OF_WORD: Mapping[str, int] = {
    "rate_limit": 429,
    "too_many": 429,
    "quota": 429,
    "balance": 429,
    "billing": 429,
    "api_key": 401,
    "auth": 401,
    "permission": 403,
    "forbidden": 403,
    "not_found": 404,
    "policy": 400,
    "moderation": 400,
    "invalid": 400,
    "timeout": 504,
    "unavailable": 503,
    "overloaded": 503,
    "internal": 500,
    "server": 500,
}


def _status_of_code(*codes: str | None) -> int | None:
    """The HTTP status that an error's code, else its type, stands for; None when the words are unknown."""
    for code in codes:
        text = (code or "").lower()
        if re.fullmatch(r"[45][0-9]{2}", text, re.ASCII):
            return int(text)
        for word, status in _STATUS_OF_WORD.items():
            if word in text:
                return status
    return None
