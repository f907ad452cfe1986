"""What came in and what it would have cost. Not thread safe by itself: the emulator holds its lock around it."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from flux_openai._http.library import httpx

__all__ = ["Bill", "Charge", "Journal", "SeenRequest", "request_key"]


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """One request as it arrived.

    `headers` can be looked up in any case and stays out of the repr, since it holds the key; `path` has no query, since
    a link's query is its signature; `body` is the parsed JSON object, or None if the body was anything else.
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


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What one request has added to the bill."""

    images: int = 0
    duplicate: bool = False


def request_key(seen: SeenRequest) -> str:
    """What tells one request from another: its method, path and body, and neither when nor by whom it is sent.

    What is decided by it comes out the same however many requests are under way at once.
    """
    told = json.dumps([seen.method, seen.path, seen.body], sort_keys=True)
    return blake2b(told.encode(), digest_size=16).hexdigest()


class Journal:
    """All requests and the bill."""

    def __init__(self) -> None:
        self.requests: list[SeenRequest] = []
        self.bill = Bill()
        self._billed_keys: set[str] = set()
        self._times: Counter[str] = Counter()

    def add(self, seen: SeenRequest) -> int:
        """Note a request; returns its number, from 1."""
        self.requests.append(seen)
        return len(self.requests)

    def times(self, key: str) -> int:
        """How many requests with this `key` were admitted."""
        return self._times[key]

    def admit(self, key: str) -> None:
        """Count a request that no limit has turned away."""
        self._times[key] += 1

    def charge(self, images: int, *, idempotency_key: str | None) -> Charge:
        """Bill one call; returns what it adds."""
        duplicate = idempotency_key in self._billed_keys
        self.bill = replace(
            self.bill,
            images=self.bill.images + images,
            calls=self.bill.calls + 1,
            duplicates=self.bill.duplicates + (images if duplicate else 0),
        )
        if idempotency_key:
            self._billed_keys.add(idempotency_key)
        return Charge(images=images, duplicate=duplicate)
