"""The record of an emulator: every request, the bill, and the journal file, which other programs can follow."""

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
    """One recorded request.

    Attributes:
        method: The HTTP method.
        path: The path without the query, which may be the signature of a link.
        headers: The headers, case-insensitive. They hold the key, so the repr leaves them out.
        body: The parsed JSON object; None if the body was not a JSON object.
    """

    method: str
    path: str
    headers: httpx.Headers = field(repr=False)
    body: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What the calls so far would have cost.

    Attributes:
        images: The number of billed images.
        calls: The number of billed calls.
        duplicates: How many of the images had been billed before: under the same Idempotency-Key or, where a request
            has none, to the same caller (`Authorization`) for the same body. Without keys, two equal calls on purpose
            look like a retry, and count as one.
    """

    images: int = 0
    calls: int = 0
    duplicates: int = 0


def request_key(seen: SeenRequest) -> str:
    """A digest of method, path and body, by which equal requests are counted.

    Faults are chosen by this key and its count, so the result does not depend on other requests at the same time.
    """
    text = json.dumps([seen.method, seen.path, seen.body], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


class RequestLog:
    """All requests and the bill. Not thread safe: the service holds its lock around every use."""

    def __init__(self) -> None:
        self.requests: list[SeenRequest] = []
        self.bill = Bill()
        self.admitted: Counter[str] = Counter()
        """How many requests with each key were not refused by a limit."""
        self._billed_keys: set[str] = set()
        self._billed_orders: set[tuple[str | None, str]] = set()
        """The caller and the key of each billed request."""

    def add(self, seen: SeenRequest) -> int:
        """Add a request; returns its number, counted from 1."""
        self.requests.append(seen)
        return len(self.requests)

    def charge(self, images: int, *, key: str, headers: httpx.Headers) -> bool:
        """Bill one call; returns whether it had been billed before, see `Bill.duplicates`."""
        idempotency_key, order = headers.get("idempotency-key"), (headers.get("authorization"), key)
        duplicate = idempotency_key in self._billed_keys if idempotency_key else order in self._billed_orders
        self.bill = replace(
            self.bill,
            images=self.bill.images + images,
            calls=self.bill.calls + 1,
            duplicates=self.bill.duplicates + (images if duplicate else 0),
        )
        if idempotency_key:
            self._billed_keys.add(idempotency_key)
        self._billed_orders.add(order)
        return duplicate


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One line of the journal file: a request and its result.

    Attributes:
        time: The Unix time in seconds.
        number: The number of the request, from 1.
        method: The HTTP method.
        path: The path without the query.
        status: The status of the answer; 0 if none was sent.
        body: The JSON object of the request, if it has one.
        idempotency_key: The Idempotency-Key, if it has one.
        request_id: The request id in the answer.
        images_billed: The number of images billed for this request.
        duplicate: Whether it had been billed before, see `Bill.duplicates`.
        fault: The faults as text, if any.
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
    """A file to which each request is appended as a line of JSON.

    The constructor raises ConfigurationError if the file cannot be written. If writing fails later, the error is only
    logged: the request is already billed and must be answered.
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
        # Opened for each line: so there is nothing to close, and the file can be rotated while the emulator runs.
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(text)
