"""The reason of a failed exchange in a few words, from the errors of the HTTP library and of the operating system.

The SDK says "Connection error." for all of them, and the HTTP libraries wrap the error that knows the reason.
"""

import os
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping

from flux_openai._http.redaction import printable

__all__ = ["causes_of", "reason_of"]


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything it was raised from, the last first."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))  # a hook of the user's may raise an error from itself
        yield error
        group = error.exceptions if isinstance(error, BaseExceptionGroup) else (None,)
        # The HTTP libraries raise `from None`, and the cause is then the suppressed context. A context that is not
        # suppressed may be an error that the caller is handling, which has nothing to do with this request.
        error = error.__cause__ or (error.__context__ if error.__suppress_context__ else None) or group[0]


_TIMEOUTS: Mapping[str, str] = {
    "ConnectTimeout": "no connection within the connect time-out",
    "ReadTimeout": "nothing came within the read time-out",
    "WriteTimeout": "the upload stood still for the write time-out",
    "PoolTimeout": "no connection of the pool was free within the pool time-out",
}
_HARMLESS_TEXTS = frozenset({"ConnectError", "ReadError", "WriteError", "RemoteProtocolError", "UnsupportedProtocol"})
"""The errors of the HTTP library whose texts can be shown. Others may quote a header: LocalProtocolError does."""


_LIBRARIES = frozenset({"aiohttp", "anyio", "h11", "h2", "httpcore", "httpcore2", "httpx", "httpx2", "openai"})
"""The packages whose errors are not shown unless they are known: the text of one may quote the request."""


def reason_of(error: BaseException | None, secrets: Iterable[str] = ()) -> str | None:
    """Why an exchange failed, such as "Connection refused" or "DNS: Name or service not known"; None if unknown."""
    reason = None
    for cause in causes_of(error):
        reason = _reason(cause) or reason  # the innermost error knows best
    return None if reason is None else printable(reason, secrets, limit=200).rstrip(".")


def _reason(error: BaseException) -> str | None:
    name = type(error).__name__
    match error:
        case ssl.SSLCertVerificationError():
            return f"TLS certificate: {getattr(error, 'verify_message', '') or 'it cannot be verified'}"
        case ssl.SSLError():
            return f"TLS: {(getattr(error, 'reason', None) or 'the handshake failed').replace('_', ' ').lower()}"
        case socket.gaierror():
            return f"DNS: {error.strerror}"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
    if name == "ProxyError":
        return f"the proxy said {error}"
    if type(error).__module__.partition(".")[0] not in _LIBRARIES:
        return str(error)
    return _TIMEOUTS.get(name) or ((str(error) or "the connection was lost") if name in _HARMLESS_TEXTS else None)
