"""Send, retry, return; nothing is decided here. Async mirrors sync, and a test proves it."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import openai
import tenacity

from flux_openai._http.capture import PATH, Exchange, watching
from flux_openai._http.library import httpx
from flux_openai.errors import FluxWarning
from flux_openai.request.arguments import CallArguments
from flux_openai.response.download import TIMEOUT
from flux_openai.response.response import CallInfo, DownloadSettings, FluxImagesResponse
from flux_openai.retry import log
from flux_openai.sending.call import Call, acalls_of, calls_of, parsed_as
from flux_openai.sending.concurrency import atogether, together
from flux_openai.sending.outcome import Outcome, RawResponse, conclude
from flux_openai.sending.retry_loop import Group, Run
from flux_openai.sending.settings import Settings
from flux_openai.sending.split import Part, settled, shared_fate

__all__ = ["AsyncSender", "Sender"]


class Sender:
    """Sends the orders of a FluxOpenAI client."""

    def __init__(self, client: openai.OpenAI, settings: Settings) -> None:
        """Made by the client's resource."""
        self._client = client
        self._settings = settings

    def send(self, order: CallArguments) -> FluxImagesResponse:
        """Check the order, send its calls, and return the one answer. Raises as `images.generate` does."""
        parts = _begun(calls_of(order, self._settings), self._settings)
        with shared_fate(parts):
            foreign = together([partial(self._carry_out, part) for part in parts])
        return _finished(parts, foreign)

    def _carry_out(self, part: Part) -> None:
        if part.wanted:
            with part.under_way():
                part.outcome = tenacity.Retrying(**part.run.loop())(self._attempt, part.call, part.run)

    def _attempt(self, call: Call, run: Run) -> Outcome:
        exchange, failure, result = _exchange(call, run), None, None
        outcome: Outcome = Outcome()
        with watching(exchange):
            try:
                result = self._client.post(
                    PATH,
                    body=call.body,
                    cast_to=FluxImagesResponse if call.raw else httpx.Response,
                    options=call.options(attempt=run.attempts, parser=parsed_as(lambda: outcome.response)),
                )
            except openai.APIError as error:
                failure = error
        http = self._client._client  # noqa: SLF001  # the only way to the SDK's own HTTP client
        downloads = DownloadSettings(
            origin=str(self._client.base_url), client=http, waiting=run.policy.waiting, timeout=_patience(exchange)
        )
        outcome = conclude(exchange, failure, receipt=_receipt(call, run), downloads=downloads)
        failure = None  # its traceback holds this frame, and with it the request and the whole call
        return replace(outcome, raw=cast(RawResponse | None, result) if call.raw else None)


class AsyncSender:
    """Sends the orders of an AsyncFluxOpenAI client."""

    def __init__(self, client: openai.AsyncOpenAI, settings: Settings) -> None:
        """Made by the client's resource."""
        self._client = client
        self._settings = settings

    async def send(self, order: CallArguments) -> FluxImagesResponse:
        """Check the order, send its calls, and return the one answer. Raises as `images.generate` does."""
        parts = _begun(await acalls_of(order, self._settings), self._settings)
        with shared_fate(parts):
            foreign = await atogether([partial(self._carry_out, part) for part in parts])
        return _finished(parts, foreign)

    async def _carry_out(self, part: Part) -> None:
        if part.wanted:
            with part.under_way():
                part.outcome = await tenacity.AsyncRetrying(**part.run.loop())(self._attempt, part.call, part.run)

    async def _attempt(self, call: Call, run: Run) -> Outcome:
        exchange, failure, result = _exchange(call, run), None, None
        outcome: Outcome = Outcome()
        with watching(exchange):
            try:
                result = await self._client.post(
                    PATH,
                    body=call.body,
                    cast_to=FluxImagesResponse if call.raw else httpx.Response,
                    options=call.options(attempt=run.attempts, parser=parsed_as(lambda: outcome.response)),
                )
            except openai.APIError as error:
                failure = error
        http = self._client._client  # noqa: SLF001  # the only way to the SDK's own HTTP client
        downloads = DownloadSettings(
            origin=str(self._client.base_url), aclient=http, waiting=run.policy.waiting, timeout=_patience(exchange)
        )
        outcome = conclude(exchange, failure, receipt=_receipt(call, run), downloads=downloads)
        failure = None  # its traceback holds this frame, and with it the request and the whole call
        return replace(outcome, raw=cast(RawResponse | None, result) if call.raw else None)


def _begun(calls: Sequence[Call], settings: Settings) -> list[Part]:
    for notice in calls[0].params.notices:
        warnings.warn(notice, FluxWarning, stacklevel=4)
    group = Group()
    return [Part(call=call, run=Run(policy=settings.retry, quota=settings.quota, group=group)) for call in calls]


def _exchange(call: Call, run: Run) -> Exchange:
    if run.group.abandoned:
        # An interruption may come while a retry is waited for: then nothing is sent, and nobody sees this.
        raise RuntimeError("the call was interrupted")
    run.attempts += 1
    return Exchange(key=call.key)


def _patience(exchange: Exchange) -> float:
    # A download is given no longer for one wait than the call that it comes from.
    return min(TIMEOUT, exchange.read_timeout or TIMEOUT)


def _receipt(call: Call, run: Run) -> CallInfo:
    return CallInfo(sent=call.sent, attempts=run.attempts, notices=call.params.notices, first=call.params.first)


def _finished(parts: list[Part], foreign: list[BaseException | None]) -> FluxImagesResponse:
    response = settled(parts, foreign)
    if isinstance(response, BaseException):
        try:
            raise response
        finally:
            # Its traceback holds these frames: if they held it too, the images would stay until a garbage collection.
            parts.clear()
            foreign.clear()
            del response
    for notice in response.notices[len(parts[0].call.params.notices) :]:
        _remark(notice)
    return parts[0].raw or response


def _remark(notice: str) -> None:
    try:
        warnings.warn(notice, FluxWarning, stacklevel=5)
    except FluxWarning:
        # Warnings may be turned into errors; an image that is paid for must not be lost to one.
        log.warning("%s", notice)
