"""The outcome of one attempt: a response or an error, made from the captured exchange and the SDK's error.

An error is returned, not raised: the retry loop has to look at it, and the sender raises it from a frame whose locals
hold no key and no link, because tools such as Sentry record the locals of a traceback.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import openai
from pydantic_core import from_json

from flux_openai._http.capture import Exchange
from flux_openai._http.library import httpx
from flux_openai._http.reasons import names_of, reason_of
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
from flux_openai.response.download import DownloadSettings
from flux_openai.response.error_object import ErrorDetails, error_details, request_id_of
from flux_openai.response.parsing import UnusableBody, read_answer
from flux_openai.response.response import CallInfo, FluxImagesResponse
from flux_openai.retry import BILLING, Cause, cause_of_status, retry_after, status_of_code
from flux_openai.sending.call import Call
from flux_openai.sending.failures import cause_of, kept_cause, refusal_of, root_of

__all__ = ["AnswerReader", "Outcome"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one attempt ended: with a response, or with an error and its cause; neither, if nothing was sent.

    Attributes:
        response: The response.
        notices: Those of its notices that are about the answer, and not about the request.
        error: The error.
        cause: Its cause, by which the retry policy decides.
        retry_after: The server's Retry-After in seconds.
        status_code: The HTTP status; None if no answer came.
    """

    response: FluxImagesResponse | None = None
    notices: tuple[str, ...] = ()
    error: FluxError | None = None
    cause: Cause | None = None
    retry_after: float | None = None
    status_code: int | None = None


@dataclass(kw_only=True, eq=False)
class AnswerReader:
    """The reader of one attempt's answer.

    The SDK calls it as `post_parser`; then `outcome` is set, or `bypassed`, if the request was not captured. If the SDK
    returned without calling it, the sender calls `read`; if the SDK raised, `failed`.

    Attributes:
        exchange: The exchange of the attempt.
        call: The call.
        sent: The JSON body as the SDK built it.
        attempts: How many requests were sent, with this one.
        downloads: Makes the settings for downloads of the images, given the time-out.
        outcome: The outcome of an answer that was read.
        bypassed: Whether the SDK returned a result without an answer.
    """

    exchange: Exchange
    call: Call
    sent: Mapping[str, object]
    attempts: int
    downloads: Callable[..., DownloadSettings]
    outcome: Outcome | None = None
    bypassed: bool = False

    def __call__(self, parsed: object) -> object:
        """What the SDK's `parse()` returns: our response, unless the caller asked for another type.

        The error of an unusable answer is raised here, so that tracers around `client.post` see the call fail.
        """
        if not isinstance(parsed, FluxImagesResponse):
            return parsed
        if self.exchange.response is None:
            # `read` raises the error of this: here, its traceback would show the SDK's frames, which hold the key.
            self.bypassed = True
            return parsed
        outcome = self.outcome or self.read()
        if outcome.error is not None:
            raise outcome.error
        return outcome.response

    def read(self) -> Outcome:
        """The outcome of an attempt for which the SDK returned a result."""
        exchange, response = self.exchange, self.exchange.response
        if self.bypassed:
            error = FluxError("the SDK answered past this client; the call may have been carried out and billed")
            error.billing, error.attempts = "unknown", self.attempts
            raise error
        if response is None:
            return Outcome()  # nothing was sent: a subclass of the client may answer from a cache, say
        info, longest, timeout = self._info(), DownloadSettings.timeout, exchange.read_timeout
        # A time-out that the caller set for the call limits the downloads of its images too.
        downloads = self.downloads(timeout=longest if timeout is None else min(timeout, longest))
        try:
            if exchange.body_error is not None:
                raise UnusableBody(f"it {exchange.body_error}")  # noqa: TRY301  # the handler below makes the error
            answer = read_answer(exchange.body, info=info, downloads=downloads, secrets=exchange.secrets)
        except UnusableBody as problem:
            self.outcome = _unusable(problem, response, exchange, info)
        else:
            notices = answer.notices[len(self.call.notices) :]
            if notices:
                _make_parsable(response, answer)
            self.outcome = Outcome(response=answer, notices=notices, status_code=response.status_code)
        return self.outcome

    def failed(self, failure: Exception, *, hooked: bool) -> Outcome:
        """The outcome of an attempt for which `client.post` raised this exception.

        `hooked` says whether the HTTP client has hooks for responses.
        """
        exchange, info, root = self.exchange, self._info(), root_of(failure)
        response = exchange.response
        if self.outcome is not None and self.outcome.error is not None:
            # `__call__` raised it, through frames of the SDK whose locals hold the request with the key.
            failure.__traceback__ = None
            return self.outcome
        if isinstance(failure, FluxError):
            # The key or the base_url is no longer valid, or the SDK answered past this client.
            failure.attempts = failure.attempts or info.attempts - 1
            return Outcome(error=failure.with_traceback(None), cause="unusable")
        if self.outcome is not None:
            outcome = _discarded(self.outcome, root, info)
        elif response is not None and not response.is_success:
            return _refused(response, exchange, info)
        elif (refused := refusal_of(failure, exchange)) is not None:
            outcome = _refused(refused, exchange, info)
        else:
            outcome = _broken_off(failure, exchange, info, cause=cause_of(failure, exchange, hooked=hooked))
        if outcome.error is not None:
            outcome.error.__cause__ = kept_cause(root, exchange.secrets)
        exchange.request = None  # it refers to the exchange
        return outcome

    def _info(self) -> CallInfo:
        call, exchange = self.call, self.exchange
        return CallInfo(
            model=call.model.id,
            params=call.params,
            sent=self.sent,
            price=call.price,
            attempts=self.attempts,
            request_id=exchange.request_id,
            notices=(*call.notices, *exchange.notices),
            first=call.first,
        )


def _make_parsable(response: httpx.Response, answer: FluxImagesResponse) -> None:
    """Let the SDK's `parse()` of a raw response take a body that is not valid JSON: it calls `response.json()`."""
    try:
        response.json()
    except (ValueError, RecursionError):
        response.json = answer.to_dict  # type: ignore[method-assign, assignment]  # of this one object; it is called bare


def _refused(response: httpx.Response, exchange: Exchange, info: CallInfo) -> Outcome:
    """The outcome of an answer with an error status."""
    redacted = redact_response(response, exchange.secrets)
    body = _parsed(redacted.content)
    details, status = _cleaned(error_details(body), exchange.secrets), response.status_code
    cause = cause_of_status(status, details.code, details.type)
    error = _status_error(redacted, body, details, status=status, cause=cause, exchange=exchange, info=info)
    return Outcome(error=error, cause=cause, retry_after=error.retry_after, status_code=status)


def _cleaned(details: ErrorDetails, secrets: Iterable[str]) -> ErrorDetails:
    """The details as they can be printed: without keys, queries of links and invisible characters."""
    texts = {name: text and printable(text, secrets, limit=300) for name, text in vars(details).items()}
    return ErrorDetails(**texts)


def _status_error(
    redacted: httpx.Response,
    body: object,
    details: ErrorDetails,
    *,
    status: int,
    cause: Cause,
    exchange: Exchange,
    info: CallInfo,
    prefix: str = "",
) -> FluxStatusError:
    text = (details.message or printable(redacted.reason_phrase, exchange.secrets, limit=300)).rstrip(".")
    message = f"Error code: {status} - {prefix}{text}{_REMARKS[BILLING[cause]]}"
    if status == 401 and exchange.key_source is not None:
        message += f"; the key came from {exchange.key_source()}"
    if 300 <= status < 400:
        message += "; a redirect is not followed: key and prompt would go elsewhere"
    error = status_error_class(status)(message, response=redacted, body=_error_object(body))
    error.status_code = status
    error.code, error.type = error.code or details.code, error.type or details.type
    error.raw = redacted.content
    error.retry_after = retry_after(redacted.headers)
    request_id = request_id_of(details, header=error.request_id, sent=info.sent)
    return _annotated(error, cause=cause, info=info, request_id=request_id)


_REMARKS: Mapping[Billing, str] = {"none": "", "unknown": "; it may have been carried out and billed", "paid": ""}

_E = TypeVar("_E", bound=FluxError)


def _annotated(error: _E, *, cause: Cause, info: CallInfo, request_id: str | None) -> _E:
    error.billing = BILLING[cause]
    error.attempts = info.attempts
    error.request_id = identifier(request_id)
    return error


def _parsed(content: bytes) -> object:
    """The body as JSON; as text if it is not JSON."""
    try:
        return from_json(content)
    except ValueError:
        text = content.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        # Less strict: it takes half a surrogate pair, and NaN.
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _error_object(body: object) -> object:
    """The error object of a body, as in the SDK's `error.body`."""
    return body.get("error") or body if isinstance(body, dict) else body


def _broken_off(failure: Exception, exchange: Exchange, info: CallInfo, *, cause: Cause) -> Outcome:
    """The outcome of an attempt without a complete answer."""
    root = root_of(failure)
    request = failure.request if isinstance(failure, openai.APIError) else exchange.request
    late = not names_of(root).isdisjoint(("APITimeoutError", "TimeoutError", "TimeoutException"))
    what, where = "the request could not be made", ""
    if request is not None:
        what = "Request timed out" if late else "Connection error"
        where = f": {request.url.netloc.decode('ascii', 'replace')}"
        if exchange.peer is not None and exchange.peer != request.url.raw_host.decode("ascii", "replace"):
            where += f", through the proxy {exchange.peer}"
    reason = reason_of(root, exchange.secrets)
    phase = _PHASES[cause] if exchange.status is None else "after an answer came"
    details = f"{where}: {reason}" if reason else where
    message = f"{what}{details} ({type(root).__name__}, {phase}){_REMARKS[BILLING[cause]]}"
    error: FluxError
    if request is None:
        error = FluxError(message)
    elif late:
        error = FluxTimeoutError(request=redact_request(request))
        error.message, error.args = message, (message,)
    else:
        error = FluxConnectionError(message=message, request=redact_request(request))
    if isinstance(error, FluxAPIError) and exchange.body:
        error.raw = redact_body(exchange.body, exchange.secrets)
    return Outcome(error=_annotated(error, cause=cause, info=info, request_id=exchange.request_id), cause=cause)


def _discarded(outcome: Outcome, root: Exception, info: CallInfo) -> Outcome:
    """The outcome of an attempt that was answered, after which code of the user's raised an exception."""
    error = FluxError(f"the images came, but then {type(root).__name__} was raised; they are in .partial")
    error.billing, error.attempts, error.partial = "paid", info.attempts, outcome.response
    return replace(outcome, response=None, error=error, cause="unusable")


_PHASES: Mapping[Cause, str] = {
    "not_sent": "before the request was sent",
    "refused": "and trying again will not help",
    "unknown": "after the request was sent",
    "unusable": "after the request was sent",
}


def _unusable(problem: UnusableBody, response: httpx.Response, exchange: Exchange, info: CallInfo) -> Outcome:
    """The outcome of a complete 200 that cannot be used, or that has an error in it."""
    # The SDK was given a response with a placeholder body.
    whole = type(response)(
        response.status_code, headers=response.headers, content=exchange.body, request=response.request
    )
    redacted = redact_response(whole, exchange.secrets)
    status = response.status_code
    error: FluxAPIError
    if problem.error is not None:
        body = _parsed(redact_body(json.dumps(problem.error).encode(), exchange.secrets))
        details = _cleaned(error_details(problem.error), exchange.secrets)
        stated = status_of_code(details.code, details.type)
        prefix = "in a 200: " if stated else "an error in a 200: "
        cause = cause_of_status(stated, details.code, details.type) if stated else "unusable"
        error = _status_error(
            redacted, body, details, status=stated or status, cause=cause, exchange=exchange, info=info, prefix=prefix
        )
    else:
        kept = " (kept in error.read_body())" if exchange.body.strip() else ""
        message = f"the service answered {status}, but the answer{kept} cannot be used: {problem.reason}"
        error = BadResponseError(response=redacted, body=_error_object(_parsed(redacted.content)), message=message)
        error.keep_body(exchange.body)
        error.raw = redacted.content
        error = _annotated(error, cause="unusable", info=info, request_id=exchange.request_id)
        error.billing = problem.billing
    # The error has the body now. The HTTP library of openai 2 may hold the exchange until a garbage collection.
    exchange.body = b""
    # A 200 is never retried, whatever error it contains: the service counts the request as carried out.
    return Outcome(error=error, cause="unusable", status_code=status)
