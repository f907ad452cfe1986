"""The download of an image: URL -> bytes, guarded, capped, retried, and never with the API key.

    fetch(url, settings)
      first try, then tenacity.Retrying(…):     5 tries: a GET costs nothing, and never makes an image again
        target = check_url(url)                 _http/url_guard.py: scheme, host, port
        while target:
          own origin:  send with the SDK's HTTP client, but without its headers, cookies and authentication
          other host:  send with a bare client, which has only the certificates and the proxy of the SDK's HTTP client;
                       the addresses of the host and the connected peer are checked
          target = a redirect, checked like the first URL
      bytes of a whole image, or DownloadError, or UnsafeURLError

The URL is signed: everybody who reads it can fetch the image. So what the HTTP library logs is dropped, and no
traceback leads to a frame that holds the URL, since Sentry, rich and pytest print the locals of such frames: a failed
try raises a `_FetchError` without the URL, and `fetch` raises the public error outside of the handler that caught it.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from functools import partial
from typing import Self, TypeAlias, TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_none, wait_random_exponential

from flux_openai._http.interception import InProcessTransport
from flux_openai._http.library import httpx
from flux_openai._http.logs import filtered_logs
from flux_openai._http.reasons import causes_of, names_of
from flux_openai._http.streams import aread_until, awatch_new_stream, read_until, watch_new_stream
from flux_openai._http.url_guard import AllowedURL, PeerGuard, RefusedURLError, check_url, environment_proxy
from flux_openai.errors import DownloadError, UnsafeURLError
from flux_openai.formats import is_cut, is_other_image, sniff

__all__ = ["LINK_LIFE", "TIMEOUT", "DownloadSettings", "afetch", "fetch"]

TIMEOUT = 30.0
"""Time-out of one wait on the network, in seconds."""

_TRIES = 5
_JITTER = wait_random_exponential(multiplier=0.5, max=10)
_MAX_RETRY_AFTER = 60.0

LINK_LIFE = timedelta(days=7)
"""How long the URLs of an answer work by the service's contract."""

_FRESH = 3600.0
_NOT_YET = (202, 204, 403, 404, 425)
"""What a storage says about a file that it does not have yet; it may come while the URL is younger than `_FRESH`."""

# A few hundred bytes of gzip can unpack to gigabytes, and compression does not make images smaller: it is refused.
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "flux-openai"}


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """The settings of a download. The HTTP clients are not pickled; only URLs on `origin` need them.

    Attributes:
        origin: The API's base_url; only its scheme, host and port matter. URLs on it are fetched with the client's own
            HTTP client, and may use http and private hosts.
        client: The HTTP client of a sync SDK client.
        aclient: The HTTP client of an async SDK client.
        waiting: Whether there is a pause before another try.
        timeout: Seconds of one wait on the network.
        total_timeout: Seconds of the whole download.
        max_bytes: The size of the largest image that is read.
        received: When the URL came, or a little earlier, in seconds of `time.time`.
    """

    origin: str | None = None
    client: httpx.Client | None = field(default=None, repr=False)
    aclient: httpx.AsyncClient | None = field(default=None, repr=False)
    waiting: bool = True
    timeout: float = TIMEOUT
    total_timeout: float = 120.0
    max_bytes: int = 64 * 1024 * 1024
    received: float = field(default_factory=time.time, compare=False)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the clients: they hold sockets."""
        return {**vars(self), "client": None, "aclient": None}

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """A copy in the same process keeps the clients."""
        return self


_CLIENTS: tuple[type, ...] = (httpx.Client, httpx.AsyncClient)


def fetch(url: str, settings: DownloadSettings) -> bytes:
    """Download an image.

    Raises:
        DownloadError: The image cannot be read, after five tries if another try could help.
        UnsafeURLError: The URL, or one that it redirects to, must not be fetched.
    """
    download = _Download(url, settings)
    del url  # a traceback shows the locals of this frame
    try:
        with filtered_logs(_drop):
            try:
                return _attempt(download)
            except _FetchError as failure:
                if not download.goes_on_after(failure):
                    raise
            return _retrying(Retrying, download)(_attempt, download)
    except _FetchError as failure:
        error = download.public_error(failure)
    # Inside the handler, the error would get a context that leads to the frames that hold the URL.
    raise error


async def afetch(url: str, settings: DownloadSettings) -> bytes:
    """The same as `fetch`, over async clients."""
    download = _Download(url, settings)
    del url  # a traceback shows the locals of this frame
    try:
        with filtered_logs(_drop):
            try:
                return await _aattempt(download)
            except _FetchError as failure:
                if not download.goes_on_after(failure):
                    raise
            return await _retrying(AsyncRetrying, download)(_aattempt, download)
    except _FetchError as failure:
        error = download.public_error(failure)
    # Inside the handler, the error would get a context that leads to the frames that hold the URL.
    raise error


def _drop(_: logging.LogRecord) -> bool:
    """Keep no log record of a download: nearly all have the URL in them."""
    return False


@dataclass(eq=False)
class _FetchError(Exception):
    """Why a try brought no image. The reason quotes neither the URL nor the text of another error."""

    reason: str
    _: KW_ONLY
    retry: bool = False
    unsafe: bool = False
    status: int | None = None
    retry_after: float | None = None


def _attempt(download: "_Download") -> bytes:
    with _network_errors_described(), read_until(download.deadline):
        target = download.start()
        while True:
            with _get(target, download) as response:
                redirect = download.read_head(response.status_code, response.headers, target)
                if redirect is None:
                    data = bytearray()
                    # Never decompressed; only a mock transport has done so already.
                    for chunk in response.iter_bytes() if response.is_stream_consumed else response.iter_raw():
                        data += chunk
                        download.check_progress(len(data))
                    return download.image(bytes(data), response.status_code, response.headers)
            target = redirect


async def _aattempt(download: "_Download") -> bytes:
    with _network_errors_described(), aread_until(download.deadline):
        target = download.start()
        while True:
            async with _aget(target, download) as response:
                redirect = download.read_head(response.status_code, response.headers, target)
                if redirect is None:
                    data = bytearray()
                    # Never decompressed; only a mock transport has done so already.
                    async for chunk in response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw():
                        data += chunk
                        download.check_progress(len(data))
                    return download.image(bytes(data), response.status_code, response.headers)
            target = redirect


@contextmanager
def _get(target: AllowedURL, download: "_Download") -> Iterator[httpx.Response]:
    with _client_for(target, download.settings) as (client, extensions):
        request = download.request(target, client, extensions)
        with closing(client.send(request, auth=None, follow_redirects=False, stream=True)) as response:
            yield response


@asynccontextmanager
async def _aget(target: AllowedURL, download: "_Download") -> AsyncIterator[httpx.Response]:
    async with _aclient_for(target, download.settings) as (client, extensions):
        request = download.request(target, client, extensions)
        async with aclosing(await client.send(request, auth=None, follow_redirects=False, stream=True)) as response:
            yield response


_Extensions: TypeAlias = Mapping[str, Callable[..., object]]

_CLOSED = "the client that it came through is closed"


class _Borrowed(httpx.HTTPTransport):
    """The transport of a client that stays open. What a subclass adds to requests, such as a key, is left out."""

    def __init__(self, transport: httpx.HTTPTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.HTTPTransport.handle_request(self._transport, request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing."""


class _AsyncBorrowed(httpx.AsyncHTTPTransport):
    """The same as `_Borrowed`, for async clients."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await httpx.AsyncHTTPTransport.handle_async_request(self._transport, request)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close nothing."""


@contextmanager
def _client_for(target: AllowedURL, settings: DownloadSettings) -> Iterator[tuple[httpx.Client, _Extensions]]:
    client = settings.client
    if target.own and client is not None:
        if client.is_closed:
            raise _FetchError(_CLOSED)
        yield client, {"trace": watch_new_stream}
        return
    # There is no public way to the certificates and the proxy of a client. A transport of another kind may not call the
    # trace extension, and then nobody would check the peer.
    found = None
    if isinstance(client, httpx.Client) and not client.is_closed:
        found = client._transport_for_url(target.url)  # noqa: SLF001
    transport: httpx.BaseTransport
    if isinstance(found, httpx.HTTPTransport):
        transport = _Borrowed(found)
    elif target.own and isinstance(theirs := getattr(settings.aclient, "_transport", None), InProcessTransport):
        transport = theirs
    else:
        transport = httpx.HTTPTransport(proxy=environment_proxy(target.host))
    # An explicit transport: otherwise the client would read the proxy variables again, perhaps with another result.
    with httpx.Client(transport=transport) as bare:
        # An image of an async client that is read in sync code, by a notebook say, may be on the API's own host.
        yield bare, {"trace": watch_new_stream if target.own else PeerGuard(target.host).check_peer}


@asynccontextmanager
async def _aclient_for(
    target: AllowedURL, settings: DownloadSettings
) -> AsyncIterator[tuple[httpx.AsyncClient, _Extensions]]:
    client = settings.aclient
    if target.own:
        if client is None or client.is_closed:
            raise _FetchError(_CLOSED)
        yield client, {"trace": awatch_new_stream}
        return
    # There is no public way to the certificates and the proxy of a client. A transport of another kind may not call the
    # trace extension, and then nobody would check the peer.
    found = None
    if isinstance(client, httpx.AsyncClient) and not client.is_closed:
        found = client._transport_for_url(target.url)  # noqa: SLF001
    if isinstance(found, httpx.AsyncHTTPTransport):
        transport: httpx.AsyncHTTPTransport = _AsyncBorrowed(found)
    else:
        transport = httpx.AsyncHTTPTransport(proxy=environment_proxy(target.host))
    # An explicit transport: otherwise the client would read the proxy variables again, perhaps with another result.
    async with httpx.AsyncClient(transport=transport) as bare:
        yield bare, {"trace": PeerGuard(target.host).acheck_peer}


class _Download:
    """The state of one download and its decisions about every answer, for sync and async code. No I/O."""

    def __init__(self, url: str, settings: DownloadSettings) -> None:
        self._url = url  # this class is not a dataclass because a repr would show the URL
        self._place = ""
        self.settings = settings
        self.deadline = time.monotonic() + settings.total_timeout
        self.attempts = 0
        self._first_failure: _FetchError | None = None
        has_client = settings.client is not None or settings.aclient is not None
        self.own_origin = settings.origin if has_client else None

    def goes_on_after(self, failure: _FetchError) -> bool:
        """Whether there is another try after the first one failed. Only then is tenacity needed, and told of it."""
        self._first_failure = failure if failure.retry else None
        return failure.retry

    def start(self) -> AllowedURL:
        """The URL to begin a try with. Tenacity's first try is the one that was made before: it fails as that did."""
        if self._first_failure is not None:
            failure, self._first_failure = self._first_failure, None
            raise failure
        if self.attempts and time.monotonic() >= self.deadline:
            raise self._too_late()
        target = check_url(self._url, own_origin=self.own_origin, base=self.settings.origin)
        self._place = f" from {target.host}"
        self.attempts += 1
        return target

    def request(
        self, target: AllowedURL, client: httpx.Client | httpx.AsyncClient, extensions: _Extensions
    ) -> httpx.Request:
        """A GET that carries nothing of the client: `client.build_request` adds its headers, cookies and parameters."""
        seconds = min(self.settings.timeout, max(self.deadline - time.monotonic(), 0.001))
        options = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds), **extensions}
        if isinstance(client, _CLIENTS):
            return httpx.Request("GET", target.url, headers=_HEADERS, extensions=options)
        # It is of the other HTTP library, and needs a request of it.
        request_class: type[httpx.Request] = type(client.build_request("GET", str(target.url)))
        return request_class("GET", str(target.url), headers=_HEADERS, extensions=options)

    def read_head(self, status: int, headers: Mapping[str, str], target: AllowedURL) -> AllowedURL | None:
        """The URL that the answer redirects to; None if its body is to be read."""
        if status in (301, 302, 303, 307, 308) and "location" in headers:
            return check_url(headers["location"], own_origin=self.own_origin, redirected_from=target)
        if not 200 <= status < 300:
            raise self._refused(status, headers)
        self._check_size(_declared_size(headers) or 0)
        return None

    def _refused(self, status: int, headers: Mapping[str, str]) -> _FetchError:
        retry_after, age = _retry_after(headers.get("retry-after", "")), time.time() - self.settings.received
        passing = status in (408, 429) or status >= 500 or (status in _NOT_YET and age < _FRESH)
        reason = f"HTTP {status}"
        if status in (403, 404, 410):
            gone = "has expired or is gone" if age > LINK_LIFE.total_seconds() else f"came {_as_text(max(0, age))} ago"
            reason = f"{reason}: the link {gone}; links work for 7 days"
        retry = passing and (retry_after or 0) <= _MAX_RETRY_AFTER
        return _FetchError(reason, retry=retry, status=status, retry_after=retry_after)

    def check_progress(self, size: int) -> None:
        """Stop at a body that is too large or takes too long; `size` bytes of it have come."""
        self._check_size(size)
        if time.monotonic() > self.deadline:
            raise self._too_late()

    def _too_late(self) -> _FetchError:
        return _FetchError(f"it took longer than {self.settings.total_timeout:g} s")

    def _check_size(self, size: int) -> None:
        if size > self.settings.max_bytes:
            raise _FetchError(f"it is larger than {self.settings.max_bytes} bytes")

    def image(self, data: bytes, status: int, headers: Mapping[str, str]) -> bytes:
        """The whole body, if it is complete and an image, whatever the status and the headers say about it."""
        declared = _declared_size(headers)
        if declared is not None and len(data) < declared:
            raise _FetchError(f"it broke off after {len(data)} of {declared} bytes", retry=True)
        if sniff(data) is None and not is_other_image(data):
            if status not in (200, 203):
                raise self._refused(status, headers)
            codings = {name.strip().lower() for name in headers.get("content-encoding", "").split(",")}
            if codings - {"", "identity", "aws-chunked"}:
                raise _FetchError("it came compressed, although the request does not accept that")
            raise _FetchError(f"the {len(data)} bytes that came are not an image")
        if is_cut(data) or (status == 206 and _is_part(headers.get("content-range", ""))):
            raise _FetchError(f"only the beginning of it came, {len(data)} bytes", retry=True)
        return data

    def public_error(self, failure: _FetchError) -> DownloadError:
        """The error for the caller."""
        error_class = UnsafeURLError if failure.unsafe else DownloadError
        error = error_class(f"cannot download the image{self._place}: {failure.reason}")
        error.attempts, error.status_code, error.retry_after = self.attempts, failure.status, failure.retry_after
        return error


def _retry_after(value: str) -> float | None:
    # A date is ignored: it would be compared with this machine's clock, which may be wrong.
    match = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip())
    return (float(match[0]) or None) if match else None


def _declared_size(headers: Mapping[str, str]) -> int | None:
    value = headers.get("content-length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) and "transfer-encoding" not in headers else None


def _as_text(seconds: float) -> str:
    for name, unit in (("days", 86_400), ("hours", 3600)):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds // 60:.0f} minutes"


def _is_part(content_range: str) -> bool:
    match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", content_range.strip())
    return match is not None and (int(match[1]) > 0 or int(match[2]) + 1 < int(match[3]))


_AnyRetrying = TypeVar("_AnyRetrying", Retrying, AsyncRetrying)


def _retrying(kind: type[_AnyRetrying], download: _Download) -> _AnyRetrying:
    left = max(0.0, download.deadline - time.monotonic())
    return kind(
        retry=retry_if_exception(lambda error: isinstance(error, _FetchError) and error.retry),
        stop=stop_after_attempt(_TRIES) | stop_before_delay(left),
        wait=_wait if download.settings.waiting else wait_none(),
        reraise=True,
    )


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, _FetchError) else None
    return _JITTER(state) if asked is None else asked


@contextmanager
def _network_errors_described() -> Iterator[None]:
    try:
        yield
    except _FetchError:
        raise
    except Exception as error:  # noqa: BLE001  # transports, hooks and event loops raise errors of any class
        raise _described(error) from None


_BAD_SETTINGS = partial(_FetchError, "the proxy or certificate settings of this machine cannot be used")
_BAD_URL = partial(_FetchError, "it redirects to something that is not a usable URL", unsafe=True)
_BROKEN = partial(_FetchError, "the connection failed or broke off", retry=True)

# By class name, since the client may be of the other HTTP library; the first row that matches counts.
_MEANINGS: tuple[tuple[str, Callable[[], _FetchError]], ...] = (
    ("InvalidURL", _BAD_URL),
    ("UnsupportedProtocol", _BAD_URL),
    ("SSLCertVerificationError", partial(_FetchError, "the certificate of its host is not valid")),
    ("TimeoutException", partial(_FetchError, "it timed out", retry=True)),
    ("TimeoutError", partial(_FetchError, "it timed out", retry=True)),
    ("gaierror", partial(_FetchError, "the name of its host cannot be resolved", retry=True)),
    ("FileNotFoundError", _BAD_SETTINGS),
    ("ImportError", _BAD_SETTINGS),
    ("TransportError", _BROKEN),
    ("OSError", _BROKEN),
    ("ClientError", _BROKEN),  # of aiohttp
    ("RuntimeError", _BROKEN),  # "Event loop is closed": an idle connection of an earlier `asyncio.run`
    ("ValueError", _BAD_SETTINGS),
)


def _described(error: BaseException) -> _FetchError:
    refused = next((cause for cause in causes_of(error) if isinstance(cause, RefusedURLError)), None)
    if refused is not None:
        return _FetchError(str(refused), unsafe=True)
    names = names_of(error)
    make = next((make for name, make in _MEANINGS if name in names), None)
    return _FetchError(f"it cannot be read ({type(error).__name__})") if make is None else make()
