"""What the answer to a download means, or the lack of one: plain values in, plain values out."""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from flux_openai._http.url_guard import PrivatePeerError, Route, judge
from flux_openai.formats import sniff

__all__ = ["Body", "Failure", "Step", "Trip", "declared_size", "expected_errors", "meaning", "unsafe", "verdict"]

_MAX_RETRY_AFTER = 60.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a try brought no image, and whether another one may."""

    reason: str
    again: bool = False
    unsafe: bool = False
    status: int | None = None
    retry_after: float | None = None


Step: TypeAlias = bytes | Failure | Route


@dataclass(frozen=True, kw_only=True)
class Trip:
    """What holds for all tries of one download."""

    start: Route | Failure
    own_origin: str | None
    timeout: float
    wall: float
    deadline: float
    limit: int


def verdict(status: int, headers: Mapping[str, str], *, route: Route, trip: Trip) -> Route | Failure | None:
    """What status and headers say before the body is read; None when the body is worth reading."""
    if status in (301, 302, 303, 307, 308) and "location" in headers:
        step = judge(headers["location"], own_origin=trip.own_origin, before=route)
        return step if isinstance(step, Route) else unsafe(step)
    if status != 200:
        return _status_failure(status, asked=seconds_asked(headers.get("retry-after", "")))
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        return Failure(reason="it came compressed, which was not asked for")
    return _too_large(trip.limit) if (declared_size(headers) or 0) > trip.limit else None


def _status_failure(status: int, *, asked: float | None) -> Failure:
    gone = ": the link is expired or gone, links live 7 days" if status in (403, 404, 410) else ""
    again = (status in (408, 429) or status >= 500) and (asked or 0) <= _MAX_RETRY_AFTER
    return Failure(reason=f"HTTP {status}{gone}", again=again, status=status, retry_after=asked)


def seconds_asked(value: str) -> float | None:
    """The seconds of a Retry-After header; None for a date, which only a right clock can read, and for rubbish."""
    match = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip())
    return (float(match[0]) or None) if match else None


def declared_size(headers: Mapping[str, str]) -> int | None:
    """The Content-Length, where there is one and it counts."""
    value = headers.get("content-length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) and "transfer-encoding" not in headers else None


@dataclass(kw_only=True)
class Body:
    """The bytes of one answer as they come in."""

    trip: Trip
    declared: int | None
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)

    def add(self, chunk: bytes) -> Failure | None:
        """Take in one piece, or say why no more is taken in."""
        self.size += len(chunk)
        self.chunks.append(chunk)
        if self.size > self.trip.limit:
            return _too_large(self.trip.limit)
        late = time.monotonic() > self.trip.deadline
        return Failure(reason=f"it took longer than {self.trip.wall:g} s") if late else None

    def end(self) -> bytes | Failure:
        """The whole image, or what is wrong with it."""
        if self.declared is not None and self.size < self.declared:
            return Failure(reason=f"it broke off after {self.size} of {self.declared} bytes", again=True)
        data = b"".join(self.chunks)
        return data if sniff(data) else Failure(reason=f"not an image, by the {self.size} bytes that came")


def unsafe(reason: str) -> Failure:
    """The failure of a link that is not opened."""
    return Failure(reason=reason, unsafe=True)


def _too_large(limit: int) -> Failure:
    return Failure(reason=f"it is larger than {limit} bytes")


_SETTINGS = Failure(reason="the proxy or certificate settings of this machine cannot be used")
_BROKEN = Failure(reason="the connection failed or broke off", again=True)
_NO_URL = unsafe("it redirects to something that is not a usable URL")

# Names and not classes, since the client may be of the other HTTP library; the first that matches counts.
_MEANINGS: tuple[tuple[str, Failure], ...] = (
    ("PrivatePeerError", unsafe("its host led to an address that is not public")),
    ("InvalidURL", _NO_URL),
    ("UnsupportedProtocol", _NO_URL),
    ("SSLCertVerificationError", Failure(reason="the certificate of its host is not valid")),
    ("TimeoutException", Failure(reason="it timed out", again=True)),
    ("gaierror", Failure(reason="the name of its host cannot be resolved", again=True)),
    ("FileNotFoundError", _SETTINGS),
    ("ImportError", _SETTINGS),
    ("TransportError", _BROKEN),
    ("OSError", _BROKEN),
    ("ValueError", _SETTINGS),
)


def meaning(error: Exception) -> Failure:
    """What an error of the network or of the HTTP library means; its text is left out, for it may quote the link."""
    names = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    known = next((failure for name, failure in _MEANINGS if name in names), None)
    return known or Failure(reason=f"it cannot be read ({type(error).__name__})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # A context that was not chosen may be the caller's, who is perhaps handling an error that is none of ours.
        error = error.__cause__ or (error.__context__ if error.__suppress_context__ else None)


def expected_errors() -> tuple[type[Exception], ...]:
    """What opening a link may raise, with either HTTP library."""
    libraries = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    theirs = (getattr(library, name) for library in libraries for name in ("HTTPError", "InvalidURL", "StreamError"))
    return (OSError, ImportError, ValueError, PrivatePeerError, *theirs)
