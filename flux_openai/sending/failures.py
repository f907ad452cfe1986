"""Failures: what the exception of an attempt says about its request, and the exception itself without secrets.

Anything can be raised out of `client.post`: by the HTTP library, by a transport or an event hook of the user's, by a
function that returns the key. Where it came from decides whether the request may have been carried out: the exchange
knows how far the request got, and the traceback knows whether the transport was entered at all.
"""

import traceback
from collections.abc import Iterable

import openai

from flux_openai._http.capture import Exchange
from flux_openai._http.library import httpx
from flux_openai._http.reasons import LIBRARIES, causes_of, names_of, package_of
from flux_openai._http.redaction import redact_headers, redact_request, scrub
from flux_openai.retry import BILLING, Cause, cause_of_failure, cause_of_status

__all__ = ["cause_of", "kept_cause", "refusal_of", "root_of"]


def root_of(failure: Exception) -> Exception:
    """The exception behind the SDK's own, which wraps some of them; else the exception itself."""
    behind = failure.__cause__
    return behind if isinstance(failure, openai.APIError) and isinstance(behind, Exception) else failure


def cause_of(failure: Exception, exchange: Exchange, *, hooked: bool) -> Cause:
    """The cause behind an attempt without a complete answer.

    Args:
        failure: What `client.post` raised.
        exchange: The exchange of the attempt.
        hooked: Whether the HTTP client has hooks for responses: they run after the request was carried out.
    """
    if exchange.response is not None:
        return "unknown"
    phase, names, frames = exchange.phase, names_of(root_of(failure)), _frames(failure)
    functions = {function for _, function in frames}
    if functions & _TRANSPORT:
        if phase is None and any(package.startswith("httpcore") for package, _ in frames):
            # A transport with the `trace` extension reports the first step of a request before it sends anything.
            phase = "connecting"
        return cause_of_failure(phase, names)
    sending = ("httpx", "send") in frames or ("httpx2", "send") in frames
    preparing = ("openai", "request") in frames and "_send_request" not in functions
    if phase in ("sent", "answering"):
        # A hook for responses raised. It is not asked again: its exception is about the answer, not about the network.
        status = exchange.status or 200
        return "refused" if status >= 300 and BILLING[cause_of_status(status)] == "none" else "unusable"
    if preparing or (sending and not hooked and phase is None):
        # The HTTP client is closed, or a hook for requests or a function of the user's raised: nothing was sent, and
        # the same happens again.
        return "refused"
    return cause_of_failure(phase, names)


_TRANSPORT = frozenset({"_send_single_request", "handle_async_request", "handle_request"})
"""The functions in which the HTTP library enters a transport. The first has a frame also where a transport has none,
because it is not written in Python."""


def _frames(error: BaseException) -> set[tuple[str, str]]:
    """The package and the function of every frame that the exception, or one that led to it, came through."""
    return {
        (str(frame.f_globals.get("__name__", "")).partition(".")[0], frame.f_code.co_name)
        for part in causes_of(error)
        for frame, _ in traceback.walk_tb(part.__traceback__)
    }


def refusal_of(failure: Exception, exchange: Exchange) -> httpx.Response | None:
    """The answer that a hook refused, with `raise_for_status` or an error of the SDK, redacted; None if none did."""
    root = root_of(failure)
    response = getattr(root, "response", None)
    if response is None or not (isinstance(root, openai.APIStatusError) or type(root).__name__ == "HTTPStatusError"):
        return None
    request = exchange.request or httpx.Request("POST", "")
    try:
        content = response.content
    except RuntimeError:  # the hook has not read it, and now the connection is closed
        content = b""
    headers = redact_headers(response.headers, exchange.secrets)
    refused: httpx.Response = type(response)(response.status_code, headers=headers, content=content, request=request)
    return refused


_HTTP_LIBRARIES = frozenset({"httpx", "httpx2"})
_DROPPED = LIBRARIES - _HTTP_LIBRARIES
"""The packages whose exceptions are not kept: they hold requests in forms of their own, and ours says what they say."""


def kept_cause(error: BaseException, secrets: Iterable[str]) -> BaseException | None:
    """The exception as the `__cause__` of ours, without secrets; None if it is not kept.

    It has no frames, because their locals hold the request and the key; a note says where it was raised. The same is
    done to the exceptions that led to it.
    """
    secrets, chain = tuple(secrets), [*causes_of(error)]
    lines = traceback.format_tb(error.__traceback__, limit=-1)
    if lines:
        error.add_note(f"Raised at:\n{lines[0].rstrip()}")
    for part in chain:
        part.__traceback__ = None
        if not part.__suppress_context__ or _is_dropped(part.__context__):
            part.__context__ = None
        if _is_dropped(part.__cause__):
            part.__cause__ = None
        part.args = tuple(scrub(arg, secrets) if isinstance(arg, str) else arg for arg in part.args)
        attributes = vars(part)
        for name, value in attributes.items():
            kind = type(value).__name__ if package_of(value) in _HTTP_LIBRARIES else ""
            if kind == "Request":
                attributes[name] = redact_request(value)
            elif kind == "Response":
                attributes[name] = type(value)(value.status_code, headers=redact_headers(value.headers, secrets))
    return None if _is_dropped(error) else error


def _is_dropped(error: BaseException | None) -> bool:
    return package_of(error) in _DROPPED
