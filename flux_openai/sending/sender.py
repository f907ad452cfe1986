"""The sender: sends checked calls and returns their answer. It replaces the `_post` that the SDK's own method calls.

    images.generate(**params)                         client/images.py
      not FLUX?  -> super().generate(**params)        the SDK's own, untouched
      calls = build_calls("generate", params, …)      sending/call.py -> request/: every fault at once, or checked calls
      super().generate(model=, prompt=, n=, …)        the SDK builds its body as ever, and calls
        self._post(…)                                 the seam: `Sender.post`
          for attempt in Retrying(…):                 sending/retry_loop.py asks retry.py
            with capture(exchange):                   _http/capture.py: phase reached, body under a cap
              client.post(…, cast_to=FluxImagesResponse, post_parser=reader)
            outcome = reader.read()                   sending/outcome.py -> response/parsing.py
                      or reader.failed(exception)     sending/failures.py: may it have been carried out?
      FluxImagesResponse, or raise

The SDK's `Images.generate` is called on the way, so tracers and test suites that patch it work. The code of AsyncSender
mirrors that of Sender; a test compares the two.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, cast

import openai
import tenacity
from openai import RequestOptions
from openai._legacy_response import LegacyAPIResponse
from openai._response import BaseAPIResponse

from flux_openai._http.capture import Exchange, capture
from flux_openai._http.interception import network_of
from flux_openai.errors import FluxWarning
from flux_openai.models import GENERATIONS
from flux_openai.response.download import DownloadSettings
from flux_openai.response.parsing import is_answer
from flux_openai.response.response import FluxImagesResponse
from flux_openai.retry import log
from flux_openai.sending.call import Call
from flux_openai.sending.concurrency import arun_all, run_all
from flux_openai.sending.outcome import AnswerReader, Outcome
from flux_openai.sending.retry_loop import RetryState
from flux_openai.sending.settings import Settings
from flux_openai.sending.split import Part, combine, partial_on_interruption

__all__ = ["QUIET", "AsyncSender", "Sender"]

QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)
"""Whether no warnings are issued, because the caller reports `response.notices` itself."""


class Sender:
    """The sender of a FluxOpenAI client's FLUX calls."""

    def __init__(self, client: openai.OpenAI, settings: Settings) -> None:
        """Made by the images resource."""
        self._client = client
        self._settings = settings

    def post(
        self,
        calls: tuple[Call, ...],
        _path: str,
        *,
        body: Mapping[str, object],
        options: Mapping[str, Any],
        **_sdk: object,
    ) -> object:
        """Send checked calls under the retry policy. Bound to `calls`, it is the `_post` of an images resource.

        `body` and `options` are what the SDK's method built; it goes out as JSON, also where `edit` would send a form.
        Returns a FluxImagesResponse, or the raw response that was asked for. Raises as `images.generate` does.
        """
        if calls[0].notices:
            _warn(calls[0].notices)
        if len(calls) > 1:
            return self._post_parts(calls, body, options)
        state = RetryState(policy=self._settings.retry, quota=self._settings.quota)
        request = _Request(call=calls[0], body=_sent(calls[0], body), options=options, state=state)
        return _result(self._send(request), request)

    def _post_parts(
        self, calls: tuple[Call, ...], body: Mapping[str, object], options: Mapping[str, Any]
    ) -> FluxImagesResponse:
        settings = self._settings
        parts = [Part(call=call, state=RetryState(policy=settings.retry, quota=settings.quota)) for call in calls]
        failed = Event()
        with partial_on_interruption(parts):
            unexpected = run_all([partial(self._send_part, part, failed, body, options) for part in parts])
        try:
            response = combine(parts, unexpected)
        finally:
            # The traceback of an error holds this frame: if the parts held the error, their images would live until a
            # garbage collection.
            parts.clear()
            unexpected.clear()
        _warn(response.notices[len(calls[0].notices) :], paid=True)
        return response

    def _send_part(self, part: Part, failed: Event, body: Mapping[str, object], options: Mapping[str, Any]) -> None:
        """Send a part, unless another one has `failed`, that is, ended without images."""
        if failed.is_set():
            return
        try:
            request = _part_request(part, body, options)
            part.outcome = self._send(request)
        finally:
            if part.answer is None:
                failed.set()

    def _send(self, request: "_Request") -> Outcome:
        outcome, state = self._attempt(request), request.state
        if not state.is_done(outcome):
            outcome = tenacity.Retrying(**_tenacity_arguments(state))(self._attempt, request)
        _log_end(outcome, request)
        return outcome

    def _attempt(self, request: "_Request") -> Outcome:
        if (outcome := request.state.begun()) is not None:
            return outcome
        http, origin = network_of(self._client)
        downloads = partial(DownloadSettings, origin=origin, client=http, waiting=request.state.policy.waiting)
        exchange, reader, options = _begin_attempt(request, downloads, self._client._custom_headers)  # noqa: SLF001
        with capture(exchange):
            try:
                result = self._client.post(
                    exchange.path, cast_to=FluxImagesResponse, body=request.body, options=options
                )
                request.state.result = result
                return reader.outcome or reader.read()
            except Exception as failure:  # noqa: BLE001  # transports, hooks and key functions can raise anything
                return reader.failed(failure, hooked=bool(http.event_hooks["response"]))


class AsyncSender:
    """The sender of an AsyncFluxOpenAI client's FLUX calls."""

    def __init__(self, client: openai.AsyncOpenAI, settings: Settings) -> None:
        """Made by the images resource."""
        self._client = client
        self._settings = settings

    async def post(
        self,
        calls: tuple[Call, ...],
        _path: str,
        *,
        body: Mapping[str, object],
        options: Mapping[str, Any],
        **_sdk: object,
    ) -> object:
        """Send checked calls under the retry policy. Bound to `calls`, it is the `_post` of an images resource.

        `body` and `options` are what the SDK's method built; it goes out as JSON, also where `edit` would send a form.
        Returns a FluxImagesResponse, or the raw response that was asked for. Raises as `images.generate` does.
        """
        if calls[0].notices:
            _warn(calls[0].notices)
        if len(calls) > 1:
            return await self._post_parts(calls, body, options)
        state = RetryState(policy=self._settings.retry, quota=self._settings.quota)
        request = _Request(call=calls[0], body=_sent(calls[0], body), options=options, state=state)
        return _result(await self._send(request), request)

    async def _post_parts(
        self, calls: tuple[Call, ...], body: Mapping[str, object], options: Mapping[str, Any]
    ) -> FluxImagesResponse:
        settings = self._settings
        parts = [Part(call=call, state=RetryState(policy=settings.retry, quota=settings.quota)) for call in calls]
        failed = Event()
        with partial_on_interruption(parts):
            unexpected = await arun_all([partial(self._send_part, part, failed, body, options) for part in parts])
        try:
            response = combine(parts, unexpected)
        finally:
            # The traceback of an error holds this frame: if the parts held the error, their images would live until a
            # garbage collection.
            parts.clear()
            unexpected.clear()
        _warn(response.notices[len(calls[0].notices) :], paid=True)
        return response

    async def _send_part(
        self, part: Part, failed: Event, body: Mapping[str, object], options: Mapping[str, Any]
    ) -> None:
        """Send a part, unless another one has `failed`, that is, ended without images."""
        if failed.is_set():
            return
        try:
            request = _part_request(part, body, options)
            part.outcome = await self._send(request)
        finally:
            if part.answer is None:
                failed.set()

    async def _send(self, request: "_Request") -> Outcome:
        outcome, state = await self._attempt(request), request.state
        if not state.is_done(outcome):
            outcome = await tenacity.AsyncRetrying(**_tenacity_arguments(state))(self._attempt, request)
        _log_end(outcome, request)
        return outcome

    async def _attempt(self, request: "_Request") -> Outcome:
        if (outcome := request.state.begun()) is not None:
            return outcome
        http, origin = network_of(self._client)
        downloads = partial(DownloadSettings, origin=origin, aclient=http, waiting=request.state.policy.waiting)
        exchange, reader, options = _begin_attempt(request, downloads, self._client._custom_headers)  # noqa: SLF001
        with capture(exchange):
            try:
                result = await self._client.post(
                    exchange.path, cast_to=FluxImagesResponse, body=request.body, options=options
                )
                request.state.result = result
                return reader.outcome or reader.read()
            except Exception as failure:  # noqa: BLE001  # transports, hooks and key functions can raise anything
                return reader.failed(failure, hooked=bool(http.event_hooks["response"]))


@dataclass(kw_only=True)
class _Request:
    """One request of a call, as the SDK built it, and the state of its attempts."""

    call: Call
    body: Mapping[str, object]
    options: Mapping[str, Any]
    state: RetryState


def _part_request(part: Part, body: Mapping[str, object], options: Mapping[str, Any]) -> _Request:
    """The request of one part of a split call: what the SDK built for the whole, with the part's own `n` and seed."""
    own = part.call.params
    extra = {**options["extra_json"], **({"seed": own["seed"]} if "seed" in own else {})}
    body = _sent(part.call, {**body, "n": own["n"]})
    return _Request(call=part.call, body=body, options={**options, "extra_json": extra}, state=part.state)


def _sent(call: Call, body: Mapping[str, object]) -> Mapping[str, object]:
    """What the SDK built, without the parameters that the model does not get, such as a `model` that the path names."""
    if call.model.path == GENERATIONS:
        return body
    unsent = {"model", *call.params} - call.body.keys()
    return {name: value for name, value in body.items() if name not in unsent}


def _tenacity_arguments(state: RetryState) -> dict[str, Any]:
    """The retry decisions as tenacity calls them. An attempt returns its outcome, so none is retried by its type."""
    return {"retry": state.should_retry, "wait": state.next_wait, "before_sleep": state.before_sleep}


_BODY_HEADERS = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding"})
"""The headers that describe the body. Only the SDK and the HTTP library know it, so they alone set these."""


def _begin_attempt(
    request: _Request, downloads: Callable[..., DownloadSettings], client_headers: Mapping[str, str]
) -> tuple[Exchange, AnswerReader, RequestOptions]:
    """The exchange of the next attempt, the reader of its answer, and the SDK's options: no retries, no redirects.

    `client_headers` are the `default_headers` of the client.
    """
    state, call, options = request.state, request.call, request.options
    if state.stopped:
        # The call was interrupted during the wait before a retry. Nobody sees this error; it ends a background thread.
        raise RuntimeError("the call was interrupted")
    if state.attempts == 0:
        state.started = time.monotonic()
    state.attempts += 1
    exchange = Exchange(key=call.key, path=call.model.path, is_answer=is_answer)
    sent = {**request.body, **options.get("extra_json", {})}
    reader = AnswerReader(exchange=exchange, call=call, sent=sent, attempts=state.attempts, downloads=downloads)
    # The SDK sends a count of 0 by itself.
    retries = {"X-Stainless-Retry-Count": str(state.attempts - 1)} if state.attempts > 1 else {}
    headers = {**retries, **options.get("headers", {})}
    # The SDK's `edit` sets multipart/form-data; the caller may have set any of these, for other calls perhaps.
    for name in [name for name in headers if name.lower() in _BODY_HEADERS]:
        del headers[name]
    if own := [name for name in client_headers if name.lower() in _BODY_HEADERS]:
        headers |= {**dict.fromkeys(own, openai.omit), "Content-Type": "application/json"}
    attempt: dict[str, object] = {**options, "headers": headers, "max_retries": 0, "follow_redirects": False}
    attempt["idempotency_key"] = call.key  # or the SDK would draw another one
    # The SDK accepts `post_parser` here, although the type RequestOptions lacks it.
    return exchange, reader, cast(RequestOptions, {**attempt, "post_parser": reader})


def _log_end(outcome: Outcome, request: _Request) -> None:
    """Log the end of a request with all its attempts on one line; the prompt is not in it."""
    if not log.isEnabledFor(logging.INFO):
        return
    # A filter or handler of the user's may raise anything, and the images are paid for.
    with suppress(Exception):
        _log_line(outcome, request)


def _log_line(outcome: Outcome, request: _Request) -> None:
    state, model, seconds = request.state, request.call.model.id, time.monotonic() - request.state.started
    error, response = outcome.error, outcome.response
    images = 0 if response is None else len(response.data)
    request_id = error.request_id if error is not None else None if response is None else response.request_id
    ended = f"images: {images}" if error is None else f"{type(error).__name__}, billing: {error.billing}"
    message = "%s: %s, attempts: %d, seconds: %.1f, request id: %s"
    # The command line counts the images of the requests that have ended.
    log.info(message, model, ended, state.attempts, seconds, request_id, extra={"images": images})


_RAW_RESPONSES = (LegacyAPIResponse, BaseAPIResponse)


def _result(outcome: Outcome, request: _Request) -> object:
    """The result of a call that was not split. Raises the error of the outcome."""
    state = request.state
    if outcome.error is not None:
        error = outcome.error.with_unknown_billing() if state.maybe_billed else outcome.error
        try:
            raise error
        finally:
            # The traceback holds this frame: if it held the error too, both would live until a garbage collection.
            del error, outcome
    if outcome.notices:
        _warn(outcome.notices, paid=True)
    if isinstance(state.result, _RAW_RESPONSES):
        state.result.retries_taken = state.attempts - 1
    return state.result


_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (*openai.__path__, *tenacity.__path__, Path(__file__).parents[1]))


def _warn(notices: Iterable[str], *, paid: bool = False) -> None:
    """Issue notices as FluxWarnings that name the caller's line, whatever the number of SDK frames in between."""
    if QUIET.get():
        return
    for notice in notices:
        level, frame = 1, sys._getframe()  # noqa: SLF001  # `inspect.stack` reads the source of every frame
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
            level, frame = level + 1, frame.f_back
        try:
            warnings.warn(notice, FluxWarning, stacklevel=level)
        except FluxWarning:
            # A filter turns warnings into errors. If this one were raised, the image that was paid for would be lost.
            if not paid:
                raise
            log.warning("%s", notice)
