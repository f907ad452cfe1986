"""What the tools of one agent share: a folder, the images in it by name, the limits, and the orders that had a name."""

import os
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from threading import Lock

from anyio import CapacityLimiter, to_thread

from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.formats import sniff
from flux_openai.tools.measure import measured
from flux_openai.tools.results import ToolImage, ToolResult

__all__ = ["Album", "Claim"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim on an order that has a name: whoever is `first` carries it out, the others wait for its result."""

    result: "Future[ToolResult]"
    first: bool

    def outcome(self) -> ToolResult:
        """Wait for the result."""
        return self.result.result()

    async def aoutcome(self) -> ToolResult:
        """The same for async code."""
        # A thread of its own: many who wait must not take those that the first one needs to read and to write files.
        limiter = CapacityLimiter(1)
        return await to_thread.run_sync(self.result.result, abandon_on_cancel=True, limiter=limiter)


class Album:
    """A folder of images that an agent may name, and what it may still spend; safe to use from several threads.

    `folder` is made if need be; `max_images` and `max_calls` count what is sent to the service, at least 1; `images`
    are files to start from, by the names that the agent shall use. Raises ConfigurationError.
    """

    def __init__(self, folder: Path, *, max_images: int, max_calls: int, images: Mapping[str, Path]) -> None:
        for param, value in (("max_images", max_images), ("max_calls", max_calls)):
            if type(value) is not int or value < 1:
                rule = "must be a whole number from 1"
                raise ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=1))
        self.folder = folder
        self.max_images = max_images
        self.max_calls = max_calls
        self._images: dict[str, Path] = dict(images)
        self._orders: dict[str, Future[ToolResult]] = {}
        self._asked = self._calls = 0
        self._lock = Lock()

    @property
    def place(self) -> str:
        """The folder as a place to save to: the separator says that it is one, whatever its name ends in."""
        return os.path.join(self.folder, "")  # noqa: PTH118  # a Path would drop the separator again

    def path_of(self, name: str) -> Path | None:
        """The file behind a name that was given or made here; None for every other name, a path most of all."""
        with self._lock:
            return self._images.get(name)

    @property
    def names(self) -> list[str]:
        """The names of the images that are there."""
        with self._lock:
            return list(self._images)

    def admit(self, images: int) -> str | None:
        """Count an order that is about to be sent, or name the limit that forbids it."""
        with self._lock:
            if self._calls >= self.max_calls:
                return f"{self.max_calls} calls"
            if self._asked + images > self.max_images:
                return f"{self.max_images} images, of which {self.max_images - self._asked} are left"
            self._calls += 1
            self._asked += images
            return None

    def give_back(self, images: int) -> None:
        """Take images off the count that were not paid for."""
        with self._lock:
            self._asked -= images

    def claim(self, key: str) -> Claim:
        """The claim on an order of this name."""
        with self._lock:
            first = key not in self._orders
            return Claim(result=self._orders.setdefault(key, Future()), first=first)

    def settle(self, key: str, result: ToolResult) -> None:
        """Let those who wait have the result; what cost nothing may be ordered again under the same name."""
        with self._lock:
            future = self._orders[key] if result.billing != "none" else self._orders.pop(key)
        future.set_result(result)

    def enter(self, path: Path, *, seed: int | None) -> ToolImage:
        """Give a saved image a name, and tell what is known of it."""
        try:
            data = path.read_bytes()
        except OSError:
            data = b""  # gone again already; it was made and paid for all the same
        kind = sniff(data)
        with self._lock:
            taken = (f"{path.stem}-{number}{path.suffix}" for number in count(2))
            name = next(one for one in chain((path.name,), taken) if self._images.get(one, path) == path)
            self._images[name] = path
        width, height = measured(data) or (None, None)
        return ToolImage(
            name=name,
            path=str(path),
            mime_type=None if kind is None else kind.mime,
            length=len(data),
            width=width,
            height=height,
            seed=seed,
        )

    async def aenter(self, path: Path, *, seed: int | None) -> ToolImage:
        """The same in a thread: the file is read."""
        return await to_thread.run_sync(partial(self.enter, path, seed=seed))
