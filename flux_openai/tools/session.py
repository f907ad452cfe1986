"""The session that the tools of one agent share: folder, images by name, limits, and named calls."""

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
from flux_openai.formats import image_size, sniff
from flux_openai.response.file_names import place_of
from flux_openai.response.files import check_writable
from flux_openai.tools.results import ToolImage, ToolResult

__all__ = ["EarlierCall", "LimitReachedError", "Session", "UnwritableFolderError"]


class LimitReachedError(Exception):
    """The call would exceed a limit of the developer, which is the message; nothing was sent."""


class UnwritableFolderError(Exception):
    """The images could not be saved, for the reason that is the message; nothing was sent."""


@dataclass(frozen=True, kw_only=True)
class EarlierCall:
    """An earlier call with the same name, finished or still running."""

    future: "Future[ToolResult]"

    def result(self) -> ToolResult:
        """Wait for the result."""
        return self.future.result()

    async def aresult(self) -> ToolResult:
        """The same as `result`, for async code."""
        # Not with anyio's default limiter: many waiting calls could take all its threads, and the first call, which
        # needs one for its files, would never end.
        limiter = CapacityLimiter(1)
        return await to_thread.run_sync(self.future.result, abandon_on_cancel=True, limiter=limiter)


class Session:
    """The images and the limits of one agent; safe to use from several threads.

    Args:
        folder: The folder for new images; the first call creates it.
        max_images: The largest number of images of all calls together, 1 or more.
        max_calls: The largest number of calls that are sent to the service, 1 or more.
        images: Files that the agent may use from the start, by name.

    Raises:
        ConfigurationError: A limit is not an integer from 1, or the folder cannot be written to.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, max_images: int, max_calls: int, images: Mapping[str, Path]
    ) -> None:
        for param, value in (("max_images", max_images), ("max_calls", max_calls)):
            if type(value) is not int or value < 1:
                rule = "must be a whole number from 1"
                raise ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=1))
        try:
            self.folder = place_of(folder)
            check_writable(self.folder, create=False)
        except OSError as error:  # SaveError is one too
            rule = f"cannot be written to: {error.strerror or 'it is no path'}"
            raise ConfigurationError.of(InvalidParam(param="folder", value=str(folder), rule=rule)) from error
        self.max_images = max_images
        self.max_calls = max_calls
        self._images: dict[str, Path] = dict(images)
        self._named_calls: dict[str, Future[ToolResult]] = {}
        self._images_asked = self._calls = 0
        self._lock = Lock()

    @property
    def save_path(self) -> str:
        """The folder for `FluxImage.save`, ending in a separator: otherwise "fox.png" would be taken for a file."""
        return os.path.join(self.folder, "")  # noqa: PTH118  # a Path drops the separator

    @property
    def images(self) -> dict[str, Path]:
        """The files of all images by name, oldest first; a copy."""
        with self._lock:
            return dict(self._images)

    def check_folder(self) -> None:
        """Create the folder, and check that an image can be written there. Raises UnwritableFolderError."""
        try:
            check_writable(self.folder)
        except OSError as error:
            raise UnwritableFolderError(error.strerror or type(error).__name__) from error

    async def acheck_folder(self) -> None:
        """The same as `check_folder`, for async code; the file is written in a thread."""
        await to_thread.run_sync(self.check_folder)

    def add_image(self, path: Path, *, seed: int | None) -> ToolImage:
        """Add a saved image under a unique name, and read its type and size from the file."""
        try:
            data = path.read_bytes()
        except OSError:
            data = b""  # already deleted, but the image was paid for and is reported
        kind = sniff(data)
        width, height = image_size(data) or (None, None)
        with self._lock:
            others = (f"{path.stem}-{number}{path.suffix}" for number in count(2))
            name = next(one for one in chain([path.name], others) if self._images.get(one, path) == path)
            self._images[name] = path
        return ToolImage(
            name=name,
            path=str(path),
            mime_type=None if kind is None else kind.mime,
            length=len(data),
            width=width,
            height=height,
            seed=seed,
        )

    async def aadd_image(self, path: Path, *, seed: int | None) -> ToolImage:
        """The same as `add_image`, for async code; the file is read in a thread."""
        return await to_thread.run_sync(partial(self.add_image, path, seed=seed))

    def reserve(self, images: int) -> None:
        """Count a call that is about to be sent. Raises LimitReachedError."""
        with self._lock:
            if self._calls >= self.max_calls:
                raise LimitReachedError(f"{self.max_calls} calls")
            if self._images_asked + images > self.max_images:
                left = self.max_images - self._images_asked
                raise LimitReachedError(f"{self.max_images} images, of which {left} are left")
            self._calls += 1
            self._images_asked += images

    def release(self, images: int) -> None:
        """Undo the reservation of images that were not billed."""
        with self._lock:
            self._images_asked -= images

    def begin(self, name: str) -> EarlierCall | None:
        """Begin a call with this name. If there is an earlier one, wait for its result instead of sending another."""
        with self._lock:
            if name in self._named_calls:
                return EarlierCall(future=self._named_calls[name])
            self._named_calls[name] = Future()
            return None

    def finish(self, name: str, result: ToolResult) -> None:
        """Set the result for the calls that wait for it. If nothing was billed, the name can be used again."""
        with self._lock:
            future = self._named_calls[name] if result.billing != "none" else self._named_calls.pop(name)
        future.set_result(result)
