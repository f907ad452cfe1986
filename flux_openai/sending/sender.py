"""Sender: one checked call to its answer. It stands where the SDK's own method posts, so every watcher sees the call.

    images.generate(**params)                        client/images.py
      calls = build_calls("generate", params, …)     sending/call.py -> request/: every fault at once, or checked calls
      not FLUX?  -> super().generate(**params)       the SDK's own, untouched
      super().generate(model=, prompt=, n=, …)       the SDK builds its body as ever, and calls
        self._post(…)                                the seam: `Sender.post`
          for attempt in Retrying(…):                sending/retry_loop.py asks retry.py
            with capture(exchange):                  _http/capture.py: phase reached, body under a cap
              client.post(…, cast_to=FluxImagesResponse)
            outcome = AnswerReader(…)                sending/outcome.py -> response/parsing.py
      FluxImagesResponse, or raise

Async mirrors sync, and a test proves it.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import openai
import tenacity
from openai import RequestOptions

from flux_openai._http.capture import PATH, Exchange, capture
from flux_openai.errors import FluxWarning
from flux_openai.response.download import DownloadSettings
from flux_openai.response.response import CallInfo, FluxImagesResponse
from flux_openai.retry import log
from flux_openai.sending.call import Call
from flux_openai.sending.concurrency import arun_all, run_all
from flux_openai.sending.outcome import AnswerReader, Outcome
from flux_openai.sending.retry_loop import RetryState
from flux_openai.sending.settings import Settings
from flux_openai.sending.split import Part, combine, partial_on_interruption

__all__ = ["AsyncSender", "Sender"]


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
        _warn(calls[0].params.notices)
        if len(calls) > 1:
            return self._post_parts(calls, body, options)
        state = self._new_state()
        request = _Request(call=calls[0], body=body, options=options, state=state)
        return _result(tenacity.Retrying(**state.tenacity_arguments())(self._attempt, request), request)

    def _post_parts(
        self, calls: tuple[Call, ...], body: Mapping[str, object], options: Mapping[str, Any]
    ) -> FluxImagesResponse:
        parts = [Part(call=call, state=self._new_state()) for call in calls]
        with partial_on_interruption(parts):
            unexpected = run_all([partial(self._send_part, part, parts, body, options) for part in parts])
        response = combine(parts, unexpected)
        _warn(response.notices[len(calls[0].params.notices) :], paid=True)
        return response

    def _send_part(self, part: Part, parts: list[Part], body: Mapping[str, object], options: Mapping[str, Any]) -> None:
        if any(other.failed for other in parts):
            return
        try:
            request = _part_request(part, body, options)
            part.outcome = tenacity.Retrying(**part.state.tenacity_arguments())(self._attempt, request)
        finally:
            part.failed = part.answer is None

    def _attempt(self, request: "_Request") -> Outcome:
        exchange, reader = self._begin(request)
        with capture(exchange):
            try:
                result = self._client.post(
                    PATH,
                    cast_to=FluxImagesResponse,
                    body=request.body,
                    options=_attempt_options(request, reader),
                )
            except openai.APIError as failure:
                return reader.failed(failure)
        return reader.finished(result)

    def _begin(self, request: "_Request") -> tuple[Exchange, AnswerReader]:
        http = self._client._client  # noqa: SLF001  # the only way to the SDK's own HTTP client
        waiting = self._settings.retry.waiting
        downloads = DownloadSettings(origin=str(self._client.base_url), client=http, waiting=waiting)
        return _begin_attempt(request, downloads)

    def _new_state(self) -> RetryState:
        return RetryState(policy=self._settings.retry, quota=self._settings.quota)


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
        _warn(calls[0].params.notices)
        if len(calls) > 1:
            return await self._post_parts(calls, body, options)
        state = self._new_state()
        request = _Request(call=calls[0], body=body, options=options, state=state)
        return _result(await tenacity.AsyncRetrying(**state.tenacity_arguments())(self._attempt, request), request)

    async def _post_parts(
        self, calls: tuple[Call, ...], body: Mapping[str, object], options: Mapping[str, Any]
    ) -> FluxImagesResponse:
        parts = [Part(call=call, state=self._new_state()) for call in calls]
        with partial_on_interruption(parts):
            unexpected = await arun_all([partial(self._send_part, part, parts, body, options) for part in parts])
        response = combine(parts, unexpected)
        _warn(response.notices[len(calls[0].params.notices) :], paid=True)
        return response

    async def _send_part(
        self, part: Part, parts: list[Part], body: Mapping[str, object], options: Mapping[str, Any]
    ) -> None:
        if any(other.failed for other in parts):
            return
        try:
            request = _part_request(part, body, options)
            part.outcome = await tenacity.AsyncRetrying(**part.state.tenacity_arguments())(self._attempt, request)
        finally:
            part.failed = part.answer is None

    async def _attempt(self, request: "_Request") -> Outcome:
        exchange, reader = self._begin(request)
        with capture(exchange):
            try:
                result = await self._client.post(
                    PATH,
                    cast_to=FluxImagesResponse,
                    body=request.body,
                    options=_attempt_options(request, reader),
                )
            except openai.APIError as failure:
                return reader.failed(failure)
        return reader.finished(result)

    def _begin(self, request: "_Request") -> tuple[Exchange, AnswerReader]:
        http = self._client._client  # noqa: SLF001  # the only way to the SDK's own HTTP client
        waiting = self._settings.retry.waiting
        downloads = DownloadSettings(origin=str(self._client.base_url), aclient=http, waiting=waiting)
        return _begin_attempt(request, downloads)

    def _new_state(self) -> RetryState:
        return RetryState(policy=self._settings.retry, quota=self._settings.quota)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One request of a call, as the SDK built it, and the state of its attempts."""

    call: Call
    body: Mapping[str, object]
    options: Mapping[str, Any]
    state: RetryState


def _part_request(part: Part, body: Mapping[str, object], options: Mapping[str, Any]) -> _Request:
    """The request of one part of a split call: what the SDK built for the whole, with the part's own `n` and seed."""
    values = part.call.params.values
    extra = {**options["extra_json"], **({"seed": values["seed"]} if "seed" in values else {})}
    own = {**body, "n": part.call.images}
    return _Request(call=part.call, body=own, options={**options, "extra_json": extra}, state=part.state)


def _begin_attempt(request: _Request, downloads: DownloadSettings) -> tuple[Exchange, AnswerReader]:
    """The exchange of the next attempt, and the reader of its answer."""
    state, params = request.state, request.call.params
    if state.stopped:
        # An interruption came while a retry was waited for: nothing is sent, and nobody sees this error.
        raise RuntimeError("the call was interrupted")
    state.attempts += 1
    exchange = Exchange(key=request.call.key)
    sent = {**request.body, **request.options.get("extra_json", {})}
    info = CallInfo(sent=sent, attempts=state.attempts, notices=params.notices, first=params.first)
    return exchange, AnswerReader(exchange, info=info, downloads=downloads)


def _attempt_options(request: _Request, reader: AnswerReader) -> RequestOptions:
    """The SDK's request options for one attempt: no retries and no redirects of its own."""
    headers = {
        name: value for name, value in request.options.get("headers", {}).items() if name.lower() != "content-type"
    }
    options: dict[str, object] = {
        **request.options,
        "headers": {"X-Stainless-Retry-Count": str(request.state.attempts - 1), **headers},
        "max_retries": 0,
        "follow_redirects": False,
        # The SDK takes this option on every request but leaves it out of the type.
        "post_parser": reader,
    }
    return cast(RequestOptions, options)


def _result(outcome: Outcome, request: _Request) -> object:
    """What the caller of a single request gets. Raises the error of the outcome."""
    state = request.state
    if outcome.error is not None:
        error = outcome.error.with_unknown_billing() if state.maybe_billed else outcome.error
        try:
            raise error
        finally:
            # The traceback holds this frame: if it held the error too, both would live until a garbage collection.
            del error, outcome
    if outcome.response is not None:
        _warn(outcome.response.notices[len(request.call.params.notices) :], paid=True)
    if request.call.raw_response:
        vars(outcome.result)["retries_taken"] = state.attempts - 1
    return outcome.result


_LIBRARIES = (*openai.__path__, *tenacity.__path__, str(Path(__file__).parents[1]))


def _warn(notices: Iterable[str], *, paid: bool = False) -> None:
    """Issue notices as FluxWarnings at the line that called the SDK, however many frames of the SDK lie between."""
    for notice in notices:
        level, frame = 1, sys._getframe()  # noqa: SLF001  # `inspect.stack` reads the source of every frame
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
            level, frame = level + 1, frame.f_back
        try:
            warnings.warn(notice, FluxWarning, stacklevel=level)
        except FluxWarning:
            # Warnings may be turned into errors; an image that is paid for must not be lost to one.
            if not paid:
                raise
            log.warning("%s", notice)
