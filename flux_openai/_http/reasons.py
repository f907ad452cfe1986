"""The errors behind a failed exchange: the chain of causes, their class names, and the reason in a few words.

The SDK says "Connection error." for all of them, and the HTTP libraries wrap the error that knows the reason. Errors
are told apart by the names of their classes, since a client may be of the other HTTP library.
"""

import os
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping

from flux_openai._http.redaction import printable

__all__ = ["LIBRARIES", "PROXY_LOGIN", "causes_of", "names_of", "package_of", "reason_of"]

LIBRARIES = frozenset({"aiohttp", "anyio", "h11", "h2", "httpcore", "httpcore2", "httpx", "httpx2", "openai"})
"""The packages that a request passes through. The text of an error of theirs may quote the request."""

PROXY_LOGIN = "ProxyError: 407"
"""What `names_of` adds for a proxy that asks for a user name and password; the HTTP libraries have no class for it."""


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


def names_of(error: BaseException | None) -> frozenset[str]:
    """The class names of an error, of its bases and of everything it was raised from."""
    names: set[str] = set()
    for cause in causes_of(error):
        names.update(cls.__name__ for cls in type(cause).__mro__)
        if "ProxyError" in names and str(cause).startswith(("407", "Invalid username/password")):
            names.add(PROXY_LOGIN)
    return frozenset(names)


def package_of(value: object) -> str:
    """The name of the package that the class of a value is from."""
    return type(value).__module__.partition(".")[0]


_TIMEOUTS: Mapping[str, str] = {
    "ConnectTimeout": "no connection within the connect time-out",
    "ReadTimeout": "nothing came within the read time-out",
    "WriteTimeout": "the upload stood still for the write time-out",
    "PoolTimeout": "no connection of the pool was free within the pool time-out",
}
_HARMLESS_TEXTS = frozenset({"ConnectError", "ReadError", "WriteError", "RemoteProtocolError", "UnsupportedProtocol"})
"""The errors of the HTTP library whose texts can be shown. Others may quote a header: LocalProtocolError does."""


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
    if package_of(error) not in LIBRARIES:
        return str(error)
    return _TIMEOUTS.get(name) or ((str(error) or "the connection was lost") if name in _HARMLESS_TEXTS else None)
