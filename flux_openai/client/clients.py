"""The clients: the SDK's own, with our images resource and our eyes on what it sends. Async mirrors sync."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, Self, cast

import openai

from flux_openai._http.capture import areceive, current_exchange, receive
from flux_openai._http.library import httpx
from flux_openai.client.images import AsyncFluxImages, FluxImages
from flux_openai.client.setup import check, checked_base_url, checked_key, default_timeout, shield, without_locals
from flux_openai.request.arguments import given
from flux_openai.request.unsupported import Unsupported
from flux_openai.retry import RetryPolicy
from flux_openai.sending.settings import Settings

__all__ = ["AsyncFluxOpenAI", "FluxOpenAI"]


class FluxOpenAI(openai.OpenAI):
    """An `openai.OpenAI` whose `images.generate` and `images.edit` speak FLUX; all else about it is the SDK's.

    `api_key`: or MODELVERSE_API_KEY. `base_url`: or MODELVERSE_BASE_URL, or https://api.umodelverse.ai/v1. `retry`: a
    RetryPolicy; `max_retries=N` is the short form for N retries. `unsupported`: what becomes of options that FLUX does
    not take, "error", "warn", "drop" or "send". `split`: more images than one request makes are made in several.
    `defaults`: parameters for every call that can use them and does not give them. All else as in the SDK. OPENAI_*
    variables are not used. Raises ConfigurationError, and InvalidParamsError for the defaults.
    """

    _settings: Settings

    @without_locals
    def __init__(
        self,
        *,
        api_key: str | Callable[[], str] | None = None,
        base_url: str | httpx.URL | None = None,
        retry: RetryPolicy | None = None,
        unsupported: Unsupported = "error",
        split: bool = False,
        defaults: Mapping[str, object] | None = None,
        max_retries: int | openai.NotGiven = openai.NOT_GIVEN,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        organization: str | None = None,
        project: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: httpx.Client | None = None,
        **options: Any,  # noqa: ANN401  # the SDK's further options, which differ between its versions
    ) -> None:
        """Set up the client; nothing is sent."""
        retries = None if isinstance(max_retries, openai.NotGiven) else max_retries
        self._settings = Settings.of(
            retry=retry, unsupported=unsupported, split=split, defaults=defaults, max_retries=retries
        )
        super().__init__(
            api_key=checked_key(api_key),
            base_url=checked_base_url(base_url),
            max_retries=openai.DEFAULT_MAX_RETRIES if retries is None else retries,
            timeout=default_timeout(http_client) if isinstance(timeout, openai.NotGiven) else timeout,
            organization=organization,
            project=project,
            default_headers=default_headers,
            http_client=http_client,
            **options,
        )
        shield(
            self,
            organization=organization,
            project=project,
            admin_api_key=options.get("admin_api_key"),
            webhook_secret=options.get("webhook_secret"),
            headers=default_headers,
        )

    @cached_property
    def images(self) -> FluxImages:
        """The images resource, with FLUX."""
        return FluxImages(self, self._settings)

    @without_locals
    def copy(
        self,
        *,
        retry: RetryPolicy | None = None,
        unsupported: Unsupported | None = None,
        split: bool | None = None,
        defaults: Mapping[str, object] | None = None,
        **options: Any,  # noqa: ANN401  # the SDK's own options, which differ between its versions
    ) -> Self:
        """A copy with other options; it shares the HTTP client and the retry quota. Raises ConfigurationError."""
        retries = given(options).get("max_retries")
        settings = self._settings.changed(
            retry=retry,
            unsupported=unsupported,
            split=split,
            defaults=defaults,
            max_retries=cast("int | None", retries),
        )
        client = super().copy(**options)
        client._settings = settings  # noqa: SLF001  # a client of this very class
        return client

    with_options = copy  # type: ignore[mutable-override]  # the SDK's own alias for copy, which has to follow it

    def _refresh_api_key(self) -> str:
        key = super()._refresh_api_key()
        check(self)
        return key or self.api_key

    def _send_request(
        self,
        request: httpx.Request,
        *,
        stream: bool,
        **arguments: Any,  # noqa: ANN401  # the SDK's, passed on unread
    ) -> httpx.Response:
        exchange = current_exchange(request)
        if exchange is None:
            return super()._send_request(request, stream=stream, **arguments)
        exchange.watch(request)
        return receive(super()._send_request(request, stream=True, **arguments), exchange)


class AsyncFluxOpenAI(openai.AsyncOpenAI):
    """An `openai.AsyncOpenAI` whose `images.generate` and `images.edit` speak FLUX; all else about it is the SDK's.

    `api_key`: or MODELVERSE_API_KEY. `base_url`: or MODELVERSE_BASE_URL, or https://api.umodelverse.ai/v1. `retry`: a
    RetryPolicy; `max_retries=N` is the short form for N retries. `unsupported`: what becomes of options that FLUX does
    not take, "error", "warn", "drop" or "send". `split`: more images than one request makes are made in several.
    `defaults`: parameters for every call that can use them and does not give them. All else as in the SDK. OPENAI_*
    variables are not used. Raises ConfigurationError, and InvalidParamsError for the defaults.
    """

    _settings: Settings

    @without_locals
    def __init__(
        self,
        *,
        api_key: str | Callable[[], Awaitable[str]] | None = None,
        base_url: str | httpx.URL | None = None,
        retry: RetryPolicy | None = None,
        unsupported: Unsupported = "error",
        split: bool = False,
        defaults: Mapping[str, object] | None = None,
        max_retries: int | openai.NotGiven = openai.NOT_GIVEN,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        organization: str | None = None,
        project: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: httpx.AsyncClient | None = None,
        **options: Any,  # noqa: ANN401  # the SDK's further options, which differ between its versions
    ) -> None:
        """Set up the client; nothing is sent."""
        retries = None if isinstance(max_retries, openai.NotGiven) else max_retries
        self._settings = Settings.of(
            retry=retry, unsupported=unsupported, split=split, defaults=defaults, max_retries=retries
        )
        super().__init__(
            api_key=checked_key(api_key),
            base_url=checked_base_url(base_url),
            max_retries=openai.DEFAULT_MAX_RETRIES if retries is None else retries,
            timeout=default_timeout(http_client) if isinstance(timeout, openai.NotGiven) else timeout,
            organization=organization,
            project=project,
            default_headers=default_headers,
            http_client=http_client,
            **options,
        )
        shield(
            self,
            organization=organization,
            project=project,
            admin_api_key=options.get("admin_api_key"),
            webhook_secret=options.get("webhook_secret"),
            headers=default_headers,
        )

    @cached_property
    def images(self) -> AsyncFluxImages:
        """The images resource, with FLUX."""
        return AsyncFluxImages(self, self._settings)

    @without_locals
    def copy(
        self,
        *,
        retry: RetryPolicy | None = None,
        unsupported: Unsupported | None = None,
        split: bool | None = None,
        defaults: Mapping[str, object] | None = None,
        **options: Any,  # noqa: ANN401  # the SDK's own options, which differ between its versions
    ) -> Self:
        """A copy with other options; it shares the HTTP client and the retry quota. Raises ConfigurationError."""
        retries = given(options).get("max_retries")
        settings = self._settings.changed(
            retry=retry,
            unsupported=unsupported,
            split=split,
            defaults=defaults,
            max_retries=cast("int | None", retries),
        )
        client = super().copy(**options)
        client._settings = settings  # noqa: SLF001  # a client of this very class
        return client

    with_options = copy  # type: ignore[mutable-override]  # the SDK's own alias for copy, which has to follow it

    async def _refresh_api_key(self) -> str:
        key = await super()._refresh_api_key()
        check(self)
        return key or self.api_key

    async def _send_request(
        self,
        request: httpx.Request,
        *,
        stream: bool,
        **arguments: Any,  # noqa: ANN401  # the SDK's, passed on unread
    ) -> httpx.Response:
        exchange = current_exchange(request)
        if exchange is None:
            return await super()._send_request(request, stream=stream, **arguments)
        exchange.watch_async(request)
        return await areceive(await super()._send_request(request, stream=True, **arguments), exchange)
