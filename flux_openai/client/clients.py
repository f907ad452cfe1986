"""The clients: subclasses of the SDK's own, with another images resource. Async mirrors sync.

Two hooks of the SDK are overridden: `_prepare_options` checks key and base_url before each request, and `_send_request`
captures FLUX requests and their answers (see `_http/capture.py`), and in a test leaves requests to an emulator (see
`_http/interception.py`). What only a request needs is imported with the first: the capture, and the images resource, as
the SDK imports its resources. It needs the types of the SDK's answers, which take as long as the client.
"""

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self, Unpack

import openai
from openai._models import FinalRequestOptions

from flux_openai._http.fork import own_connections_after_fork
from flux_openai._http.interception import readdressed
from flux_openai._http.library import httpx
from flux_openai.client.setup import (
    AsyncClientOptions,
    AsyncCopyOptions,
    ClientOptions,
    CopyOptions,
    check_client,
    copy_options,
    drop_openai_env,
    key_source,
    sdk_options,
)
from flux_openai.client.signature import with_signature
from flux_openai.client.tracebacks import hide_locals
from flux_openai.sending.settings import Settings

if TYPE_CHECKING:
    from flux_openai.client.images import AsyncFluxImages, FluxImages

__all__ = ["AsyncClient", "AsyncFluxOpenAI", "AsyncOpenAI", "Client", "FluxOpenAI", "OpenAI"]


class FluxOpenAI(openai.OpenAI):
    """An `openai.OpenAI` whose `images.generate` and `images.edit` support FLUX models; everything else is the SDK's.

    Args:
        api_key: The key, or a function that returns it. Default: the variable MODELVERSE_API_KEY.
        base_url: The address of the service. Default: MODELVERSE_BASE_URL, else https://api.umodelverse.ai/v1.
        retry: A RetryPolicy; `max_retries=N` is the short form for N retries.
        unsupported: What happens to options that the model does not take: "error" (default) refuses them, "warn" leaves
            them out with a FluxWarning, "drop" leaves them out, "send" sends them unchecked.
        split: Whether a call for more than 4 images is split into several requests. Default: False.
        defaults: Parameters for every call whose model takes them, unless the call has its own.
        allow_http: Whether the base_url may be plain http beyond loopback, where the key can be read on the way. Only
            for networks that you trust, such as one of containers. Default: False.
        options: The SDK's other options, without `workload_identity`, `provider` and `data_residency`. Key, address and
            headers are never taken from OPENAI_* variables.

    Raises:
        ConfigurationError: The key, the base_url or one of these options is invalid.
        InvalidParamsError: `defaults` has an invalid parameter.

    Example:
        FluxOpenAI(retry=RetryPolicy(duplicates="never")).images.generate(prompt="a red fox")

    """

    _settings: Settings
    _checked: tuple[httpx.URL, str] | None = None

    @hide_locals
    @with_signature(ClientOptions)
    def __init__(self, **options: Unpack[ClientOptions]) -> None:
        """Set up the client; nothing is sent."""
        self._settings = Settings().changed(options)
        super().__init__(**sdk_options(options, allow_http=self._settings.allow_http))
        drop_openai_env(self, options)
        own_connections_after_fork(self._client)

    @cached_property
    def images(self) -> "FluxImages":
        """The images resource, with FLUX."""
        from flux_openai.client.images import FluxImages

        return FluxImages(self, self._settings)

    @hide_locals
    @with_signature(CopyOptions)
    def copy(self, **options: Unpack[CopyOptions]) -> Self:
        """A copy with other options; it shares the HTTP client and the retry quota. Raises ConfigurationError."""
        settings = self._settings.changed(options)
        client = super().copy(**copy_options(options, allow_http=settings.allow_http))
        client._settings = settings  # noqa: SLF001  # a client of this very class
        return client

    with_options = copy  # type: ignore[mutable-override]  # the SDK's own alias for copy, which has to follow it

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        prepared = super()._prepare_options(options)
        # Compared by identity: two URLs are compared as texts, which are put together for it.
        if self._checked is None or self._checked[0] is not self.base_url or self._checked[1] != self.api_key:
            check_client(self, allow_http=self._settings.allow_http)
            self._checked = (self.base_url, self.api_key)
        return prepared

    def _send_request(
        self,
        request: httpx.Request,
        *,
        stream: bool,
        **arguments: Any,  # noqa: ANN401  # the SDK's, passed on unread
    ) -> httpx.Response:
        from flux_openai._http import capture

        exchange = capture.captured(request)
        if exchange is None:
            return self._transmit(request, stream=stream, **arguments)
        exchange.attach(request)
        exchange.key_source = partial(key_source, self, request, given=self._settings.key_source)
        return capture.read_capped(self._transmit(request, stream=True, **arguments), exchange)

    def _transmit(
        self,
        request: httpx.Request,
        **arguments: Any,  # noqa: ANN401  # the SDK's, passed on unread
    ) -> httpx.Response:
        intercepted = readdressed(self, request)
        if intercepted is None:
            return super()._send_request(request, **arguments)
        return intercepted[0].send(intercepted[1], **arguments)


class AsyncFluxOpenAI(openai.AsyncOpenAI):
    """An `openai.AsyncOpenAI` whose `images.generate` and `images.edit` support FLUX; everything else is the SDK's.

    The arguments and errors are those of `FluxOpenAI`; `api_key` may be an async function.
    """

    _settings: Settings
    _checked: tuple[httpx.URL, str] | None = None

    @hide_locals
    @with_signature(AsyncClientOptions)
    def __init__(self, **options: Unpack[AsyncClientOptions]) -> None:
        """Set up the client; nothing is sent."""
        self._settings = Settings().changed(options)
        super().__init__(**sdk_options(options, allow_http=self._settings.allow_http))
        drop_openai_env(self, options)
        own_connections_after_fork(self._client)

    @cached_property
    def images(self) -> "AsyncFluxImages":
        """The images resource, with FLUX."""
        from flux_openai.client.images import AsyncFluxImages

        return AsyncFluxImages(self, self._settings)

    @hide_locals
    @with_signature(AsyncCopyOptions)
    def copy(self, **options: Unpack[AsyncCopyOptions]) -> Self:
        """A copy with other options; it shares the HTTP client and the retry quota. Raises ConfigurationError."""
        settings = self._settings.changed(options)
        client = super().copy(**copy_options(options, allow_http=settings.allow_http))
        client._settings = settings  # noqa: SLF001  # a client of this very class
        return client

    with_options = copy  # type: ignore[mutable-override]  # the SDK's own alias for copy, which has to follow it

    async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        prepared = await super()._prepare_options(options)
        # Compared by identity: two URLs are compared as texts, which are put together for it.
        if self._checked is None or self._checked[0] is not self.base_url or self._checked[1] != self.api_key:
            check_client(self, allow_http=self._settings.allow_http)
            self._checked = (self.base_url, self.api_key)
        return prepared

    async def _send_request(
        self,
        request: httpx.Request,
        *,
        stream: bool,
        **arguments: Any,  # noqa: ANN401  # the SDK's, passed on unread
    ) -> httpx.Response:
        from flux_openai._http import capture

        exchange = capture.captured(request)
        if exchange is None:
            return await self._transmit(request, stream=stream, **arguments)
        exchange.attach_async(request)
        exchange.key_source = partial(key_source, self, request, given=self._settings.key_source)
        return await capture.aread_capped(await self._transmit(request, stream=True, **arguments), exchange)

    async def _transmit(
        self,
        request: httpx.Request,
        **arguments: Any,  # noqa: ANN401  # the SDK's, passed on unread
    ) -> httpx.Response:
        intercepted = readdressed(self, request)
        if intercepted is None:
            return await super()._send_request(request, **arguments)
        return await intercepted[0].send(intercepted[1], **arguments)


OpenAI = FluxOpenAI
Client = FluxOpenAI
AsyncOpenAI = AsyncFluxOpenAI
AsyncClient = AsyncFluxOpenAI
