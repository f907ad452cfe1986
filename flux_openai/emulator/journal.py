"""What the emulator has seen: every request, the bill, and a file that other programs can read meanwhile."""

import json
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from flux_openai._http.library import httpx
from flux_openai._http.redaction import redact_json
from flux_openai.errors import ConfigurationError

__all__ = ["Bill", "JournalEntry", "JournalFile", "RequestLog", "SeenRequest", "request_key"]

_log = logging.getLogger("flux_openai.emulator")


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """One request as it arrived.

    `headers` can be looked up in any case, and stay out of the repr since they hold the key; `path` is without the
    query, since a link's query is its signature; `body` is the parsed JSON object, or None if the body was none.
    """

    method: str
    path: str
    headers: httpx.Headers = field(repr=False)
    body: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What the calls so far would have cost.

    `images` counts billed images, `calls` billed calls, and `duplicates` those of the images that were billed under an
    Idempotency-Key that had been billed before.
    """

    images: int = 0
    calls: int = 0
    duplicates: int = 0


def request_key(seen: SeenRequest) -> str:
    """A digest of method, path and body: equal requests share it, whenever and by whomever they are sent.

    What is decided by it comes out the same however many other requests are under way.
    """
    text = json.dumps([seen.method, seen.path, seen.body], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


class RequestLog:
    """All requests and the bill. Not thread safe: the service holds its lock around every use."""

    def __init__(self) -> None:
        self.requests: list[SeenRequest] = []
        self.bill = Bill()
        self.admitted: Counter[str] = Counter()
        """How many requests of each key no limit has turned away."""
        self._billed_keys: set[str] = set()

    def add(self, seen: SeenRequest) -> int:
        """Add a request; returns its number, counted from 1."""
        self.requests.append(seen)
        return len(self.requests)

    def charge(self, images: int, *, idempotency_key: str | None) -> bool:
        """Bill one call; returns whether its Idempotency-Key had been billed before."""
        duplicate = idempotency_key in self._billed_keys
        self.bill = replace(
            self.bill,
            images=self.bill.images + images,
            calls=self.bill.calls + 1,
            duplicates=self.bill.duplicates + (images if duplicate else 0),
        )
        if idempotency_key:
            self._billed_keys.add(idempotency_key)
        return duplicate


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One line of the journal file: a request and what became of it.

    `time` is a Unix time in seconds; `status` is 0 where no head was sent back; `images_billed` counts this request
    alone, and `duplicate` says whether its Idempotency-Key had been billed before; `fault` is the planned fault.
    """

    time: float
    number: int
    method: str
    path: str
    status: int
    body: dict[str, object] | None
    idempotency_key: str | None
    request_id: str
    images_billed: int
    duplicate: bool
    fault: str | None


class JournalFile:
    """A file that gets a line of JSON for each request.

    Raises ConfigurationError if it cannot be written. If that fails later, the error is logged: the request is on the
    bill already, and its answer is due.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = Lock()
        try:
            self._append("")
        except OSError as error:
            raise ConfigurationError(f"cannot write the journal {str(path)!r}: {error.strerror}") from error

    def add(self, entry: JournalEntry) -> None:
        """Append one line, whole, without the data of images and the queries of links."""
        moment = datetime.fromtimestamp(entry.time, tz=UTC).isoformat(timespec="milliseconds")
        redacted = {"body": redact_json(entry.body), "fault": redact_json(entry.fault)}
        line = json.dumps({**vars(entry), **redacted, "time": moment})
        try:
            self._append(f"{line}\n")
        except OSError as error:
            _log.error("cannot write request %d to the journal %r: %s", entry.number, str(self._path), error.strerror)

    def _append(self, text: str) -> None:
        # Opened anew each time: there is nothing to close, and the file can be moved away while the emulator runs.
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(text)
