"""A 200's body -> FluxImagesResponse of FluxImage, as OpenAI code expects them; bytes, expiry, files, display."""

import binascii
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from anyio import to_thread
from openai.types import Image, ImagesResponse
from pydantic import PrivateAttr

from flux_openai._http.library import httpx
from flux_openai._http.redaction import Redacted, scrub
from flux_openai._http.url_guard import Route, judge
from flux_openai.errors import DownloadError, FluxError
from flux_openai.formats import sniff
from flux_openai.response.download import TIMEOUT, afetch, fetch
from flux_openai.response.files import numbered, write

__all__ = ["CallInfo", "DownloadSettings", "FluxImage", "FluxImagesResponse"]

LINK_LIFE = timedelta(days=7)
"""How long the contract says that the links of an answer live."""

_T = TypeVar("_T")


def _or_raise(outcome: _T | FluxError) -> _T:
    # Raised here, where no local holds a link, and not where the link was opened: tracebacks show locals.
    if isinstance(outcome, FluxError):
        raise outcome
    return outcome


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Where the links of an answer may be opened: by the client's own HTTP client, if they lie on its own origin.

    `origin` is the client's base_url; only its scheme, host and port count. `timeout` is in seconds, for one wait.

    A pickled copy forgets the HTTP clients; links on other origins do not need them.
    """

    origin: str | None = None
    client: httpx.Client | None = field(default=None, repr=False)
    aclient: httpx.AsyncClient | None = field(default=None, repr=False)
    waiting: bool = True
    timeout: float = TIMEOUT

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        """Pickle without what holds sockets."""
        return (partial(DownloadSettings, origin=self.origin, waiting=self.waiting, timeout=self.timeout), ())

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """A copy in the same process keeps the HTTP clients."""
        return self


class FluxImage(Image):
    """One image: an `openai.types.Image` that knows its bytes.

    `b64_json` is plain base64, whatever the service wrapped it in.
    """

    _downloads: DownloadSettings = PrivateAttr(default_factory=DownloadSettings)
    _stem: str = PrivateAttr(default="image")

    @classmethod
    def of(cls, item: Mapping[str, object], *, downloads: DownloadSettings, stem: str) -> Self:
        """The image of one item of an answer; `stem` names its file."""
        image = cls.construct(None, **item)
        image._downloads, image._stem = downloads, stem  # noqa: SLF001  # an object of this very class
        return image

    @classmethod
    def construct(cls, _fields_set: set[str] | None = None, /, **values: object) -> Self:
        """Build without validation, as the SDK does with every answer."""
        image = super().construct(_fields_set, **values)
        image.model_post_init(None)
        return image

    if not TYPE_CHECKING:
        model_construct = construct

    @property
    def mime_type(self) -> str | None:
        """The type that the bytes themselves show, such as "image/png"; None for a link that is not opened yet."""
        kind = None if self.b64_json is None else sniff(binascii.a2b_base64(self.b64_json[:64]))
        return None if kind is None else kind.mime

    def read(self) -> bytes:
        """The bytes of the image; downloads them when the answer holds a link. Raises DownloadError."""
        return _or_raise(self._bytes())

    async def aread(self) -> bytes:
        """The bytes of the image; downloads them when the answer holds a link. Raises DownloadError."""
        return _or_raise(await self._abytes())

    def save(self, path: str | PathLike[str] = ".", *, overwrite: bool = False) -> Path:
        """Write the image to a file and return its path.

        `path` is a folder, which is made if need be, unless it ends in .png, .jpg, .jpeg, .webp or .gif; then it names
        the file. The extension always follows the bytes. In a folder the name comes from prompt, seed and index, and a
        taken name gets a number; a file that exists is replaced only with `overwrite=True`. Raises DownloadError and
        SaveError; the image stays readable after either.
        """
        return _or_raise(self._stored(path, overwrite=overwrite))

    async def asave(self, path: str | PathLike[str] = ".", *, overwrite: bool = False) -> Path:
        """The same as `save`, for async code."""
        return _or_raise(await self._astored(path, overwrite=overwrite))

    def _stored(self, path: str | PathLike[str], *, overwrite: bool) -> Path | FluxError:
        data = self._bytes()
        return data if isinstance(data, FluxError) else write(data, path, stem=self._stem, overwrite=overwrite)

    async def _astored(self, path: str | PathLike[str], *, overwrite: bool) -> Path | FluxError:
        data = await self._abytes()
        if isinstance(data, FluxError):
            return data
        return await to_thread.run_sync(partial(write, data, path, stem=self._stem, overwrite=overwrite))

    def _bytes(self) -> bytes | DownloadError:
        if self.b64_json is not None:
            return binascii.a2b_base64(self.b64_json)
        if self.url is None:
            return DownloadError("this image has neither a link nor data")
        if self._downloads.client is None and self._downloads.aclient is not None and self._is_own():
            return DownloadError("this image came through an async client: use `await image.aread()` or `asave()`")
        return fetch(
            self.url,
            own_origin=self._downloads.origin,
            own_client=self._downloads.client,
            timeout=self._downloads.timeout,
            waiting=self._downloads.waiting,
        )

    async def _abytes(self) -> bytes | DownloadError:
        if self.b64_json is not None or self.url is None or self._downloads.client is not None:
            # The bytes are at hand, or only a sync HTTP client reaches them.
            return await to_thread.run_sync(self._bytes)
        return await afetch(
            self.url,
            own_origin=self._downloads.origin,
            own_client=self._downloads.aclient,
            timeout=self._downloads.timeout,
            waiting=self._downloads.waiting,
        )

    def _is_own(self) -> bool:
        """Whether the link lies on the API's own origin, which only the client's own HTTP client may reach."""
        route = judge(self.url or "", own_origin=self._downloads.origin)
        return isinstance(route, Route) and route.own

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Show neither the signature of the link nor a megabyte of base64."""
        return [(name, _short(value, name)) for name, value in super().__repr_args__()]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """What a notebook shows: the picture."""
        data = self._bytes()
        kind = sniff(data) if isinstance(data, bytes) else None
        text = {"text/plain": repr(self)}
        return {kind.mime: b64encode(data).decode(), **text} if kind is not None and isinstance(data, bytes) else text


def _short(value: object, name: str | None) -> object:
    if value is None or isinstance(value, int | float):
        return value
    if name == "url":
        return f"{str(value).partition('?')[0]}?[redacted]" if "?" in str(value) else value
    text = scrub(repr(value))
    return Redacted(text if len(text) <= 400 else f"{text[:40]}… ({len(text)} characters)")


@dataclass(frozen=True, kw_only=True)
class CallInfo:
    """What belongs to an answer without standing in its body; `first` is the place of its first image in the call."""

    sent: Mapping[str, object] = field(default_factory=dict)
    attempts: int = 0
    request_id: str | None = None
    notices: tuple[str, ...] = ()
    missing: int = 0
    first: int = 0
    received: datetime = field(default_factory=lambda: datetime.now(UTC))


class FluxImagesResponse(ImagesResponse):
    """The answer to one call: an `openai.types.ImagesResponse` whose images can be read and saved."""

    data: list[FluxImage]  # type: ignore[assignment]  # a list of a subclass; nobody puts plain images into an answer

    _receipt: CallInfo = PrivateAttr(default_factory=CallInfo)
    _parts: tuple["FluxImagesResponse", ...] = PrivateAttr(default=())
    _request_id: str | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, fields: Mapping[str, object], *, data: list[FluxImage], receipt: CallInfo) -> Self:
        """The answer with these fields and images; `receipt` has what does not stand in the body."""
        response = cls.construct(None, **{**fields, "data": []})
        response.data = data
        response._receipt, response._request_id = receipt, receipt.request_id  # noqa: SLF001  # of this very class
        return response

    @classmethod
    def merged(cls, parts: Sequence["FluxImagesResponse"], *, sent: Mapping[str, object], missing: int) -> Self:
        """One answer with the images of several, in their order; `missing` counts what none of them brought."""
        receipt = CallInfo(
            sent=sent,
            attempts=sum(part.attempts for part in parts),
            request_id=parts[0].request_id,
            notices=tuple(dict.fromkeys(notice for part in parts for notice in part.notices)),
            missing=missing,
            received=min(part.expires_at for part in parts) - LINK_LIFE,
        )
        fields = {"created": min(parts, key=lambda part: part.expires_at).created, "usage": None}
        response = cls.of(fields, data=[image for part in parts for image in part.data], receipt=receipt)
        response._parts = tuple(parts)  # noqa: SLF001  # of this very class
        return response

    @classmethod
    def construct(cls, _fields_set: set[str] | None = None, /, **values: object) -> Self:
        """Build without validation, as the SDK does with every answer."""
        response = super().construct(_fields_set, **values)
        response.model_post_init(None)
        return response

    if not TYPE_CHECKING:
        model_construct = construct

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Show no signature of a link, wherever it stands."""
        args = super().__repr_args__()
        return [(name, value if name == "data" else _short(value, name)) for name, value in args]

    @property
    def request_id(self) -> str | None:
        """The service's own name for this request, to quote to its support."""
        return self._receipt.request_id

    @property
    def attempts(self) -> int:
        """How many requests it took; 1 without retries."""
        return self._receipt.attempts

    @property
    def sent(self) -> dict[str, object]:
        """The body as it went out; of a split call, what was asked for as a whole, and `parts` tell the bodies."""
        return dict(self._receipt.sent)

    @property
    def parts(self) -> tuple["FluxImagesResponse", ...]:
        """The answers that this one was put together from: several for a split call, else itself alone."""
        return self._parts or (self,)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was sent, or came back, in another way than asked; each was also a FluxWarning."""
        return self._receipt.notices

    @property
    def missing(self) -> int:
        """How many of the images asked for did not come back usable."""
        return self._receipt.missing

    @property
    def expires_at(self) -> datetime:
        """When the first link of this answer stops working: 7 days after it was made (UTC)."""
        made = self._receipt.received
        created: object = self.created
        if isinstance(created, int) and 0 < created < 2**33:
            made = datetime.fromtimestamp(created, UTC)
        return made + LINK_LIFE

    def save(self, path: str | PathLike[str] = ".", *, overwrite: bool = False) -> list[Path]:
        """Save every image and return the paths.

        `path` as for one image; when it names a file and there are several, each gets its index: fox_0.png, fox_1.png.
        All images are tried before the first error is raised. Raises DownloadError and SaveError.
        """
        return _all_saved([image._stored(place, overwrite=overwrite) for image, place in self._places(path)])  # noqa: SLF001

    async def asave(self, path: str | PathLike[str] = ".", *, overwrite: bool = False) -> list[Path]:
        """The same as `save`, for async code."""
        return _all_saved([await image._astored(place, overwrite=overwrite) for image, place in self._places(path)])  # noqa: SLF001

    def _places(self, path: str | PathLike[str]) -> list[tuple[FluxImage, str | PathLike[str]]]:
        several = len(self.data) > 1
        return [(image, numbered(path, index) if several else path) for index, image in enumerate(self.data)]


def _all_saved(outcomes: Iterable[Path | FluxError]) -> list[Path]:
    return [_or_raise(outcome) for outcome in outcomes]
