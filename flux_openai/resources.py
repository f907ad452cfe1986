"""`client.images`: send, retry, return; nothing is decided here. Async mirrors sync, and a test proves it."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import openai
import tenacity
from openai.resources.images import AsyncImages, Images

from flux_openai.answers import Outcome, RawResponse, conclude
from flux_openai.attempts import Run
from flux_openai.errors import FluxWarning
from flux_openai.images import Downloads, FluxImagesResponse, Receipt
from flux_openai.models import AspectRatio, ResponseFormat
from flux_openai.request import Call, Extras, parsed_as, prepare
from flux_openai.retries import log
from flux_openai.sdk import httpx
from flux_openai.settings import Settings, check
from flux_openai.wire import PATH, Exchange, watching

__all__ = ["AsyncFluxImages", "FluxImages"]


class FluxImages(Images):
    """The images resource of a FluxOpenAI client."""

    def __init__(self, client: openai.OpenAI, settings: Settings) -> None:
        """Made by the client, as the SDK makes its resources."""
        super().__init__(client)
        self._settings = settings

    def generate(  # type: ignore[override]  # the SDK's overloads change with every release; this takes all they take
        self,
        *,
        prompt: str | None | openai.Omit = openai.omit,
        model: str | None | openai.Omit = openai.omit,
        n: int | None | openai.Omit = openai.omit,
        aspect_ratio: AspectRatio | None | openai.Omit = openai.omit,
        seed: int | None | openai.Omit = openai.omit,
        steps: int | None | openai.Omit = openai.omit,
        guidance_scale: float | None | openai.Omit = openai.omit,
        negative_prompt: str | None | openai.Omit = openai.omit,
        response_format: ResponseFormat | None | openai.Omit = openai.omit,
        size: str | None | openai.Omit = openai.omit,
        extra_headers: Mapping[str, str | openai.Omit] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        **options: object,
    ) -> FluxImagesResponse:
        """Make images from a prompt; the one call this package is about.

        `model`: FLUX.1 Kontext [max] when left out; the name of a model that is not FLUX passes the call on to the SDK
        unchanged. `n`: 1 to 4 images. `aspect_ratio`: one of nine, "21:9" to "9:21"; or OpenAI's `size`, which stands
        for the nearest one within 3 %. `seed`: -1 draws a new one. `steps`: 1 to 50. `guidance_scale`: 1 to 10.
        `response_format`: "url" (a link that lives 7 days) or "b64_json". What is left out is not sent. Other options
        of OpenAI's follow the client's `unsupported=`. The rules are those of the model's own page; see `models.py`.

        Raises InvalidParamsError before anything is sent, and errors that are also the SDK's own afterwards.
        """
        named = {
            "prompt": prompt,
            "model": model,
            "n": n,
            "aspect_ratio": aspect_ratio,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "response_format": response_format,
            "size": size,
            **options,
        }
        extras = Extras(headers=extra_headers or {}, query=extra_query or {}, timeout=timeout)
        check(self._client)
        call = _prepared(self._settings, named, extra_body, extras)
        if call is None:
            return cast(FluxImagesResponse, super().generate(**_passed_on(named, extra_body, extras)))
        run = _begun(self._settings, call)
        outcome: Outcome = tenacity.Retrying(**run.loop())(self._attempt, call, run)
        return _finished(outcome, call, run)

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
        downloads = Downloads(origin=str(self._client.base_url), client=http, waiting=run.policy.waiting)
        outcome = conclude(exchange, failure, receipt=_receipt(call, run), downloads=downloads)
        return replace(outcome, raw=cast(RawResponse | None, result) if call.raw else None)


class AsyncFluxImages(AsyncImages):
    """The images resource of an AsyncFluxOpenAI client."""

    def __init__(self, client: openai.AsyncOpenAI, settings: Settings) -> None:
        """Made by the client, as the SDK makes its resources."""
        super().__init__(client)
        self._settings = settings

    async def generate(  # type: ignore[override]  # the SDK's overloads change with every release; this takes all they take
        self,
        *,
        prompt: str | None | openai.Omit = openai.omit,
        model: str | None | openai.Omit = openai.omit,
        n: int | None | openai.Omit = openai.omit,
        aspect_ratio: AspectRatio | None | openai.Omit = openai.omit,
        seed: int | None | openai.Omit = openai.omit,
        steps: int | None | openai.Omit = openai.omit,
        guidance_scale: float | None | openai.Omit = openai.omit,
        negative_prompt: str | None | openai.Omit = openai.omit,
        response_format: ResponseFormat | None | openai.Omit = openai.omit,
        size: str | None | openai.Omit = openai.omit,
        extra_headers: Mapping[str, str | openai.Omit] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        **options: object,
    ) -> FluxImagesResponse:
        """Make images from a prompt; the one call this package is about.

        `model`: FLUX.1 Kontext [max] when left out; the name of a model that is not FLUX passes the call on to the SDK
        unchanged. `n`: 1 to 4 images. `aspect_ratio`: one of nine, "21:9" to "9:21"; or OpenAI's `size`, which stands
        for the nearest one within 3 %. `seed`: -1 draws a new one. `steps`: 1 to 50. `guidance_scale`: 1 to 10.
        `response_format`: "url" (a link that lives 7 days) or "b64_json". What is left out is not sent. Other options
        of OpenAI's follow the client's `unsupported=`. The rules are those of the model's own page; see `models.py`.

        Raises InvalidParamsError before anything is sent, and errors that are also the SDK's own afterwards.
        """
        named = {
            "prompt": prompt,
            "model": model,
            "n": n,
            "aspect_ratio": aspect_ratio,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "response_format": response_format,
            "size": size,
            **options,
        }
        extras = Extras(headers=extra_headers or {}, query=extra_query or {}, timeout=timeout)
        check(self._client)
        call = _prepared(self._settings, named, extra_body, extras)
        if call is None:
            return cast(FluxImagesResponse, await super().generate(**_passed_on(named, extra_body, extras)))
        run = _begun(self._settings, call)
        outcome: Outcome = await tenacity.AsyncRetrying(**run.loop())(self._attempt, call, run)
        return _finished(outcome, call, run)

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
        downloads = Downloads(origin=str(self._client.base_url), aclient=http, waiting=run.policy.waiting)
        outcome = conclude(exchange, failure, receipt=_receipt(call, run), downloads=downloads)
        return replace(outcome, raw=cast(RawResponse | None, result) if call.raw else None)


def _prepared(settings: Settings, named: Mapping[str, object], extra_body: object, extras: Extras) -> Call | None:
    return prepare(
        named, extra_body=extra_body, extras=extras, defaults=settings.defaults, unsupported=settings.unsupported
    )


def _passed_on(named: Mapping[str, object], extra_body: object, extras: Extras) -> dict[str, Any]:
    """The arguments for the SDK's own method, as they came."""
    escapes = {"extra_headers": extras.headers, "extra_query": extras.query, "extra_body": extra_body}
    return {
        **{name: value for name, value in named.items() if not isinstance(value, openai.Omit)},
        **{name: value or None for name, value in escapes.items()},
        "timeout": extras.timeout,
    }


def _begun(settings: Settings, call: Call) -> Run:
    for notice in call.params.notices:
        warnings.warn(notice, FluxWarning, stacklevel=3)
    return Run(policy=settings.retry, quota=settings.quota)


def _exchange(call: Call, run: Run) -> Exchange:
    run.attempts += 1
    return Exchange(key=call.key)


def _receipt(call: Call, run: Run) -> Receipt:
    return Receipt(sent=call.sent, attempts=run.attempts, notices=call.params.notices)


def _finished(outcome: Outcome, call: Call, run: Run) -> FluxImagesResponse:
    if outcome.error is not None:
        raise outcome.error.after_doubt() if run.doubtful else outcome.error
    response = cast(FluxImagesResponse, outcome.response)
    for notice in response.notices[len(call.params.notices) :]:
        _remark(notice)
    if outcome.raw is None:
        return response
    outcome.raw.retries_taken = run.attempts - 1
    return cast(FluxImagesResponse, outcome.raw)


def _remark(notice: str) -> None:
    try:
        warnings.warn(notice, FluxWarning, stacklevel=4)
    except FluxWarning:
        # Warnings may be turned into errors; an image that is paid for must not be lost to one.
        log.warning("%s", notice)
