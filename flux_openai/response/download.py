"""The link of an image to its bytes: no key on the wire, no private address, no trace of the signed link.

The API's own origin is asked over the SDK's own client, with a request that carries nothing of that client; any other
host is asked over a bare one. Reading is free, so it is tried again; making an image is not, and nothing here does it.

Errors are returned, not raised: a frame that has the signed link among its locals must not get into a traceback.
`fetch` and `afetch` walk the same way; what is decided on it is decided in functions on plain values.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_result, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_none, wait_random_exponential

from flux_openai._http.library import httpx
from flux_openai._http.url_guard import Route, acheck_peer, check_peer, environment_proxy, judge, refusal
from flux_openai.errors import DownloadError, UnsafeURLError
from flux_openai.response.transfers import (
    Body,
    Failure,
    Step,
    Trip,
    declared_size,
    expected_errors,
    meaning,
    unsafe,
    verdict,
)

__all__ = ["SIZE_LIMIT", "TIMEOUT", "afetch", "fetch"]

SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes of the largest image that is read."""

TIMEOUT = 30.0
"""Seconds of one wait on the network, at most."""

_TRIES = 5
_JITTER = wait_random_exponential(multiplier=0.5, max=10)

# A few hundred bytes of gzip can unpack to gigabytes, and images gain nothing from it: compression is refused.
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "flux-openai"}


def fetch(
    url: str,
    *,
    own_origin: str | None,
    own_client: httpx.Client | None,
    timeout: float = TIMEOUT,
    wall: float = 120.0,
    limit: int = SIZE_LIMIT,
    waiting: bool = True,
) -> bytes | DownloadError:
    """The image behind a link, or why there is none.

    `own_origin` is the API's base_url, and `own_client` the client that reaches it. `timeout` holds for one wait on the
    network, `wall` for the whole download, both in seconds; `waiting=False` leaves no time between two tries.
    """
    trip = _plan(url, own_origin=None if own_client is None else own_origin, timeout=timeout, wall=wall, limit=limit)
    retrying = _retrying(Retrying, wall=wall, waiting=waiting)
    with _muted():
        outcome: bytes | Failure = retrying(_attempt, trip, own_client)
    return _result(outcome, trip=trip, tries=retrying.statistics["attempt_number"])


async def afetch(
    url: str,
    *,
    own_origin: str | None,
    own_client: httpx.AsyncClient | None,
    timeout: float = TIMEOUT,
    wall: float = 120.0,
    limit: int = SIZE_LIMIT,
    waiting: bool = True,
) -> bytes | DownloadError:
    """The image behind a link, or why there is none.

    `own_origin` is the API's base_url, and `own_client` the client that reaches it. `timeout` holds for one wait on the
    network, `wall` for the whole download, both in seconds; `waiting=False` leaves no time between two tries.
    """
    trip = _plan(url, own_origin=None if own_client is None else own_origin, timeout=timeout, wall=wall, limit=limit)
    retrying = _retrying(AsyncRetrying, wall=wall, waiting=waiting)
    with _muted():
        outcome: bytes | Failure = await retrying(_aattempt, trip, own_client)
    return _result(outcome, trip=trip, tries=retrying.statistics["attempt_number"])


def _attempt(trip: Trip, own_client: httpx.Client | None) -> bytes | Failure:
    step: Step = trip.start
    while isinstance(step, Route):
        step = _visit(step, trip, own_client)
    return step


async def _aattempt(trip: Trip, own_client: httpx.AsyncClient | None) -> bytes | Failure:
    step: Step = trip.start
    while isinstance(step, Route):
        step = await _avisit(step, trip, own_client)
    return step


def _visit(route: Route, trip: Trip, own_client: httpx.Client | None) -> Step:
    try:
        if route.own and own_client is not None:
            return _CLOSED if own_client.is_closed else _ask(own_client, route, trip, _UNTRACED)
        return _ask_stranger(route, trip)
    except expected_errors() as error:
        return meaning(error)


async def _avisit(route: Route, trip: Trip, own_client: httpx.AsyncClient | None) -> Step:
    try:
        if route.own and own_client is not None:
            return _CLOSED if own_client.is_closed else await _aask(own_client, route, trip, _UNTRACED)
        return await _aask_stranger(route, trip)
    except expected_errors() as error:
        return meaning(error)


def _ask_stranger(route: Route, trip: Trip) -> Step:
    proxy = environment_proxy(route.host)
    found = [] if proxy else socket.getaddrinfo(route.host, 443, type=socket.SOCK_STREAM)
    if reason := refusal(found):
        return unsafe(reason)
    # A transport of our own, or the client would read the environment again, perhaps to another end than the checks.
    with httpx.Client(transport=httpx.HTTPTransport(proxy=proxy)) as client:
        return _ask(client, route, trip, _UNTRACED if proxy else {"trace": check_peer})


async def _aask_stranger(route: Route, trip: Trip) -> Step:
    proxy = environment_proxy(route.host)
    found = [] if proxy else await anyio.getaddrinfo(route.host, 443, type=socket.SOCK_STREAM)
    if reason := refusal(found):
        return unsafe(reason)
    # A transport of our own, or the client would read the environment again, perhaps to another end than the checks.
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(proxy=proxy)) as client:
        return await _aask(client, route, trip, _UNTRACED if proxy else {"trace": acheck_peer})


def _ask(client: httpx.Client, route: Route, trip: Trip, extensions: Mapping[str, Callable[..., object]]) -> Step:
    request = _bare_request(client, route, trip, extensions)
    with closing(client.send(request, auth=None, follow_redirects=False, stream=True)) as response:
        step = verdict(response.status_code, response.headers, route=route, trip=trip)
        if step is not None:
            return step
        body = Body(trip=trip, declared=declared_size(response.headers))
        for chunk in response.iter_bytes():
            if failure := body.add(chunk):
                return failure
        return body.end()


async def _aask(
    client: httpx.AsyncClient, route: Route, trip: Trip, extensions: Mapping[str, Callable[..., object]]
) -> Step:
    request = _bare_request(client, route, trip, extensions)
    async with aclosing(await client.send(request, auth=None, follow_redirects=False, stream=True)) as response:
        step = verdict(response.status_code, response.headers, route=route, trip=trip)
        if step is not None:
            return step
        body = Body(trip=trip, declared=declared_size(response.headers))
        async for chunk in response.aiter_bytes():
            if failure := body.add(chunk):
                return failure
        return body.end()


def _plan(url: str, *, own_origin: str | None, timeout: float, wall: float, limit: int) -> Trip:
    start = judge(url, own_origin=own_origin)
    return Trip(
        start=start if isinstance(start, Route) else unsafe(start),
        own_origin=own_origin,
        timeout=timeout,
        wall=wall,
        deadline=time.monotonic() + wall,
        limit=limit,
    )


def _bare_request(
    client: httpx.Client | httpx.AsyncClient, route: Route, trip: Trip, extensions: Mapping[str, Callable[..., object]]
) -> httpx.Request:
    # Built by class and not by the client, which would add its headers, cookies and parameters; and by the client's
    # own class, since the client may be of the other HTTP library.
    request_class = type(client.build_request("GET", str(route.url)))
    seconds = min(trip.timeout, max(trip.deadline - time.monotonic(), 0.001))
    timeout = httpx.Timeout(seconds).as_dict()
    return request_class("GET", str(route.url), headers=_HEADERS, extensions={"timeout": timeout, **extensions})


_UNTRACED: Mapping[str, Callable[..., object]] = {}
_CLOSED = Failure(reason="the client that reaches it is closed")


def _result(outcome: bytes | Failure, *, trip: Trip, tries: int) -> bytes | DownloadError:
    if isinstance(outcome, bytes):
        return outcome
    place = f" from {trip.start.host}" if isinstance(trip.start, Route) else ""
    error = (UnsafeURLError if outcome.unsafe else DownloadError)(f"cannot download the image{place}: {outcome.reason}")
    error.attempts = tries if isinstance(trip.start, Route) else 0
    error.status_code, error.retry_after = outcome.status, outcome.retry_after
    return error


AnyRetrying = TypeVar("AnyRetrying", Retrying, AsyncRetrying)


def _retrying(kind: type[AnyRetrying], *, wall: float, waiting: bool) -> AnyRetrying:
    return kind(
        retry=retry_if_result(_may_try_again),
        stop=stop_after_attempt(_TRIES) | stop_before_delay(wall),
        wait=_pause if waiting else wait_none(),
        retry_error_callback=_outcome,
    )


def _may_try_again(outcome: bytes | Failure) -> bool:
    return isinstance(outcome, Failure) and outcome.again


def _outcome(state: RetryCallState) -> bytes | Failure:
    outcome: bytes | Failure = _CLOSED if state.outcome is None else state.outcome.result()
    return outcome


def _pause(state: RetryCallState) -> float:
    outcome = _outcome(state)
    asked = outcome.retry_after if isinstance(outcome, Failure) else None
    return _JITTER(state) if asked is None else asked


_muted_here: ContextVar[bool] = ContextVar("flux_openai_muted", default=False)


class _Mute(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        del record
        return not _muted_here.get()


_MUTE = _Mute()
_LOGGERS = (
    *("httpx", "httpx2", "hpack.hpack", "hpack.table"),
    *(
        f"{core}.{part}"
        for core in ("httpcore", "httpcore2")
        for part in ("connection", "http11", "http2", "proxy", "socks")
    ),
)


@contextmanager
def _muted() -> Iterator[None]:
    # They log whole links at INFO, cookies and redirects at DEBUG. Set each time anew: `dictConfig` may drop filters.
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_MUTE)
    token = _muted_here.set(True)
    try:
        yield
    finally:
        _muted_here.reset(token)
