"""The answer of a call: FluxImagesResponse with its FluxImages, which can be read and saved."""

import binascii
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import openai
import pydantic
from anyio import to_thread
from openai.types import Image, ImagesResponse
from openai.types.images_response import Usage
from pydantic import PrivateAttr

from flux_openai._http.redaction import Redacted, scrub
from flux_openai.errors import DownloadError, FluxError
from flux_openai.formats import sniff, sniff_base64
from flux_openai.models import Price
from flux_openai.response.download import LINK_LIFE, DownloadSettings, afetch, fetch
from flux_openai.response.file_names import numbered, stem
from flux_openai.response.files import write
from flux_openai.response.metadata import Metadata

__all__ = ["CallInfo", "FluxImage", "FluxImagesResponse"]


class _Kept:
    """The bytes of an image: downloaded, or decoded. A comparison and a pickle have nothing to do with them."""

    def __init__(self, source: str | None = None, data: bytes | None = None) -> None:
        self._source, self._data = source, data

    def of(self, source: str | None) -> bytes | None:
        """The bytes for this URL or base64, which users can assign; None if they are of another one, or not there."""
        return self._data if source == self._source else None

    def keep(self, source: str, data: bytes) -> bytes:
        """Keep the bytes, and return them."""
        self._source, self._data = source, data
        return data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept)

    __hash__ = None  # type: ignore[assignment]  # as for every class whose objects are equal by value

    def __reduce__(self) -> tuple[type["_Kept"], tuple[()]]:
        return _Kept, ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


_FIELDS = vars(pydantic.BaseModel)["__dict__"]
"""Where a model has its fields; `FluxImage.__dict__` hides it."""

_M = TypeVar("_M", bound=openai.BaseModel)


def _built(model: type[_M], fields: Mapping[str, object], private: dict[str, object]) -> _M:
    """The same as `model.construct(**fields)`, for fields that need no conversion, in a small part of its time."""
    defaults, known = _fields_of(model)
    attributes = {**defaults}
    extra: dict[str, object] = {}
    for name, value in fields.items():
        (attributes if name in known else extra)[name] = value
    built = model.__new__(model)
    object.__setattr__(built, "__dict__", attributes)
    object.__setattr__(built, "__pydantic_fields_set__", set(known & fields.keys()))
    object.__setattr__(built, "__pydantic_extra__", extra)
    object.__setattr__(built, "__pydantic_private__", private)
    return built


@cache
def _fields_of(model: type[openai.BaseModel]) -> tuple[Mapping[str, object], frozenset[str]]:
    """The defaults of a model's fields, and the names of all."""
    return vars(model.construct()), frozenset(model.model_fields)


class FluxImage(Image):
    """One image: an `openai.types.Image` that can be read and saved.

    `b64_json` is plain base64, also where the service sent a data URI.

    Example:
        image = client.images.generate(prompt="a red fox").data[0]
        path = image.save("out")  # out/a-red-fox_0.png
        data = image.read()
    """

    _downloads: DownloadSettings = PrivateAttr(default_factory=DownloadSettings)
    _info: "CallInfo | None" = PrivateAttr(default=None)
    _index: int = PrivateAttr(default=0)
    _kept: _Kept = PrivateAttr(default_factory=_Kept)

    @classmethod
    def of(
        cls,
        item: Mapping[str, object],
        *,
        downloads: DownloadSettings,
        info: "CallInfo | None" = None,
        index: int = 0,
    ) -> Self:
        """The image for one item of an answer, with its index in the call.

        Its `b64_json` can be the bytes, if they are decoded already: the base64 is then made when it is asked for.
        """
        picture = item.get("b64_json")
        kept = _Kept(None, picture) if isinstance(picture, bytes) else _Kept()
        private: dict[str, object] = {"_downloads": downloads, "_info": info, "_index": index, "_kept": kept}
        image = _built(cls, item, private)
        if isinstance(picture, bytes):
            del super(FluxImage, image).__dict__["b64_json"]
        return image

    @property
    def __dict__(self) -> dict[str, Any]:
        """The fields. `b64_json` is made here from the bytes, if they were decoded already and nobody has asked yet."""
        if "b64_json" not in super().__dict__:
            kept = (getattr(self, "__pydantic_private__", None) or {}).get("_kept")
            if kept is not None and (data := kept.of(None)) is not None:
                text = b64encode(data).decode()
                self.__dict__ = {"b64_json": text, **super().__dict__}
                kept.keep(text, data)  # last: another thread may be on its way here
        return super().__dict__

    @__dict__.setter
    def __dict__(self, fields: dict[str, Any]) -> None:
        _FIELDS.__set__(self, fields)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """An attribute that is not there, or `b64_json` before it is made."""
            if name == "b64_json" and name in self.__dict__:
                return self.__dict__[name]
            return super().__getattr__(name)

    @classmethod
    def construct(cls, _fields_set: set[str] | None = None, /, **values: object) -> Self:
        """Build without validation, as the SDK builds every response."""
        image = super().construct(_fields_set, **values)
        image.model_post_init(None)  # the SDK's `construct` leaves private attributes unset
        return image

    if not TYPE_CHECKING:
        model_construct = construct

    @property
    def mime_type(self) -> str | None:
        """The type of the image by its bytes, such as "image/png"; None before a URL is read, or if it is unknown."""
        data = self._decoded()
        if data is None and self.b64_json is not None:
            kind = sniff_base64(self.b64_json)
        else:
            kind = sniff(data or self._kept.of(self.url) or b"")
        return None if kind is None else kind.mime

    def _decoded(self) -> bytes | None:
        """The bytes of a picture whose `b64_json` is not made yet."""
        return None if "b64_json" in super().__dict__ else self._kept.of(None)

    def read(self) -> bytes:
        """The bytes of the image, downloaded if the answer has only a URL.

        The bytes are kept in memory as long as the image is: a URL is downloaded by the first read or save only, and a
        large `b64_json` is decoded when the answer comes. Copies share the bytes; pickles do not contain them.

        Raises:
            DownloadError: The image cannot be downloaded; `image.url` works for 7 days, so it can be read again later.
            UnsafeURLError: The URL must not be fetched, for example because it leads to a private address.
        """
        if (data := self._decoded()) is not None:
            return data
        if self.b64_json is not None:
            return self._kept.of(self.b64_json) or binascii.a2b_base64(self.b64_json)
        if self.url is None:
            raise DownloadError("this image has neither a link nor data")
        return self._kept.of(self.url) or self._kept.keep(self.url, fetch(self.url, self._downloads))

    async def aread(self) -> bytes:
        """The same as `read`, for async code."""
        if (data := self._decoded()) is not None:
            return data
        if self.b64_json is not None or self.url is None or self._downloads.client is not None:
            # Decoding a large image and a sync HTTP client would block the event loop.
            return await to_thread.run_sync(self.read)
        return self._kept.of(self.url) or self._kept.keep(self.url, await afetch(self.url, self._downloads))

    def save(self, path: str | PathLike[str] = ".", *, overwrite: bool = False, metadata: bool = False) -> Path:
        """Write the image to a file and return its path.

        The bytes are written as they came: any change would break a C2PA signature in them.

        Args:
            path: A file, if it ends in .png, .jpg, .jpeg, .webp or .gif; else a folder, which is created if needed.
                The extension is corrected to the type of the image.
            overwrite: Whether an existing file is replaced. In a folder, a number makes the name unique otherwise.
            metadata: Whether a file of the same name that ends in .json is written beside it: how to make the image
                again. See `flux_openai.response.metadata`.

        Raises:
            DownloadError: The image cannot be downloaded; see `read`.
            SaveError: The file cannot be written, or it exists; the image can be saved again elsewhere.

        Example:
            image.save("out")      # out/a-red-fox_seed7_0.png, then out/a-red-fox_seed7_0-2.png
            image.save("fox.png")  # fox.png, or fox.jpg if the image is a JPEG
        """
        return self._write(self.read(), path, overwrite=overwrite, metadata=metadata)

    async def asave(self, path: str | PathLike[str] = ".", *, overwrite: bool = False, metadata: bool = False) -> Path:
        """The same as `save`, for async code."""
        data = await self.aread()
        return await to_thread.run_sync(partial(self._write, data, path, overwrite=overwrite, metadata=metadata))

    def _count_from(self, first: int) -> None:
        """Let the images of this call count from `first`, for a run of several calls."""
        if self._info is not None and first:
            self._info, self._index = replace(self._info, first=self._info.first + first), self._index + first

    def _write(self, data: bytes, path: str | PathLike[str], *, overwrite: bool, metadata: bool) -> Path:
        info = CallInfo() if self._info is None else self._info
        seed = info.params.get("seed")
        name = stem(
            str(info.params.get("prompt") or ""), seed=seed if isinstance(seed, int) else None, index=self._index
        )
        sidecar = None
        if metadata:
            made = Metadata.of(
                data,
                model=info.model,
                params=info.params,
                index=self._index - info.first,
                request_id=info.request_id,
                received=info.received,
            )
            sidecar = made.as_json()
        return write(data, path, stem=name if self._info else "image", overwrite=overwrite, sidecar=sidecar)

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Shorten base64 and leave out the signature of the URL."""
        return [(name, _redacted(value, name)) for name, value in super().__repr_args__()]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """The picture, for notebooks; the repr if it cannot be read."""
        return {"text/plain": repr(self), **self._picture()}

    def _picture(self) -> dict[str, str]:
        """The base64 of the picture by its MIME type; empty if it cannot be read, or is of no known type."""
        with suppress(DownloadError):
            data = self.read()
            if kind := sniff(data):
                return {kind.mime: b64encode(data).decode()}
        return {}


def _redacted(value: object, name: str | None) -> object:
    """The value of a field as a repr may show it."""
    if value is None or isinstance(value, int | float):
        return value
    if name == "url":
        # Cut at the "?" whatever it looks like: `scrub` knows a URL by its scheme and ends it at a quote or a space.
        address, mark, _ = str(value).partition("?")
        value = f"{address}?[redacted]" if mark else value
    text = scrub(repr(value))
    return Redacted(text if len(text) <= 400 else f"{text[:40]}… ({len(text)} characters)")


@dataclass(frozen=True, kw_only=True)
class CallInfo:
    """What is known about a call besides the body of its answer.

    Images are equal if what was asked for is equal, whenever and in however many attempts.

    Attributes:
        model: The full name of the model.
        params: The parameters of the call.
        sent: The JSON body of the request.
        price: The price of one image, if it is known.
        attempts: How many requests were sent or tried.
        request_id: The service's id of the request.
        notices: The texts of the warnings: about parameters that were changed, and about an incomplete answer.
        missing: How many images did not come back usable.
        first: The index of this answer's first image in the whole call; above 0 in a split call.
        received: When the answer came.
    """

    model: str = ""
    params: Mapping[str, object] = field(default_factory=dict)
    sent: Mapping[str, object] = field(default_factory=dict)
    price: Price | None = None
    attempts: int = field(default=0, compare=False)
    request_id: str | None = field(default=None, compare=False)
    notices: tuple[str, ...] = field(default=(), compare=False)
    missing: int = field(default=0, compare=False)
    first: int = 0
    received: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)


_UNKNOWN = CallInfo()


class FluxImagesResponse(ImagesResponse):
    """The answer of one call: an `openai.types.ImagesResponse` whose images can be read and saved.

    Example:
        response = client.images.generate(prompt="a red fox", n=2)
        response.save("out")  # [out/a-red-fox_0.png, out/a-red-fox_1.png]
        response.expires_at   # the URLs work until then
    """

    data: list[FluxImage]  # type: ignore[assignment]  # a list of a subclass: nobody appends plain images to an answer

    _info: CallInfo = PrivateAttr(default_factory=CallInfo)
    _parts: tuple["FluxImagesResponse", ...] = PrivateAttr(default=())
    _request_id: str | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, fields: Mapping[str, object], *, data: list[FluxImage], info: CallInfo) -> Self:
        """The answer with these fields of the body, these images, and what is known about the call."""
        if fields.get("usage") is not None:  # the one field that is a model of its own
            fields = {**fields, "usage": Usage.construct(None, **cast(dict[str, Any], fields["usage"]))}
        private: dict[str, object] = {"_info": info, "_request_id": info.request_id, "_parts": ()}
        response = _built(cls, {"created": None, **fields, "data": data}, private)
        if fields.get("created") is None:
            # `to_dict` shows the fields that are set; without a value the attribute would be missing.
            response.model_fields_set.discard("created")
        return response

    @classmethod
    def build(cls, *, response: object, data: object) -> Self:  # noqa: ARG003  # as the SDK calls it
        """What the SDK makes from a body: an empty answer, since our reader of answers makes the one that counts."""
        return _built(cls, {}, {"_info": _UNKNOWN, "_request_id": None, "_parts": ()})

    @classmethod
    def merged(cls, parts: Sequence["FluxImagesResponse"], *, sent: Mapping[str, object], missing: int) -> Self:
        """One answer with the images of several, in their order; `missing` counts the images that none of them has."""
        info = replace(
            parts[0]._info,  # noqa: SLF001  # of this very class
            sent=sent,
            attempts=sum(part.attempts for part in parts),
            notices=tuple(dict.fromkeys(notice for part in parts for notice in part.notices)),
            missing=missing,
            received=min(part.expires_at for part in parts) - LINK_LIFE,
        )
        fields = {"created": min(parts, key=lambda part: part.expires_at).created}
        response = cls.of(fields, data=[image for part in parts for image in part.data], info=info)
        response._parts = tuple(parts)  # noqa: SLF001  # of this very class
        return response

    @classmethod
    def construct(cls, _fields_set: set[str] | None = None, /, **values: object) -> Self:
        """Build without validation, as the SDK builds every response."""
        response = super().construct(_fields_set, **values)
        response.model_post_init(None)  # the SDK's `construct` leaves private attributes unset
        return response

    if not TYPE_CHECKING:
        model_construct = construct

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Leave out the signatures of URLs in all fields; the images do so themselves."""
        args = super().__repr_args__()
        return [(name, value if name == "data" else _redacted(value, name)) for name, value in args]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """The pictures, for notebooks: one as it is, several side by side; the repr if none can be read."""
        pictures = [picture for image in self.data for picture in image._picture().items()]  # noqa: SLF001  # of this module
        if len(pictures) < 2:
            return {"text/plain": repr(self), **dict(pictures)}
        tags = "".join(f'<img src="data:{mime};base64,{base64}" style="width:100%">' for mime, base64 in pictures)
        grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:4px"
        return {"text/plain": repr(self), "text/html": f'<div style="{grid}">{tags}</div>'}

    @property
    def request_id(self) -> str | None:
        """The service's id of this request, to quote to its support."""
        return self._info.request_id

    @property
    def attempts(self) -> int:
        """How many requests were sent; 1 without retries."""
        return self._info.attempts

    @property
    def sent(self) -> dict[str, object]:
        """The JSON body of the request; for a split call, the whole call as one body, while `parts` have their own."""
        return dict(self._info.sent)

    @property
    def parts(self) -> tuple["FluxImagesResponse", ...]:
        """The answers that were merged into this one: several for a split call, else only itself."""
        return self._parts or (self,)

    @property
    def notices(self) -> tuple[str, ...]:
        """The texts of the warnings about this call; each was also issued as a FluxWarning."""
        return self._info.notices

    @property
    def missing(self) -> int:
        """How many of the requested images did not come back usable."""
        return self._info.missing

    @property
    def cost(self) -> Price | None:
        """What the images of this answer probably cost; None if the price of the model is not known.

        It is an estimate by the price of `FLUX_MODELS[…].price`, or of the client's `prices=`: the service does not say
        what it bills, nor whether it bills attempts that failed.
        """
        return None if self._info.price is None else self._info.price.for_images(len(self.data))

    @property
    def expires_at(self) -> datetime:
        """When the first URL of this answer stops working: 7 days after `created`, or after the answer came (UTC)."""
        made = self._info.received
        created: object = self.created
        if isinstance(created, int) and 0 < created < 2**33:
            made = datetime.fromtimestamp(created, UTC)
        return made + LINK_LIFE

    def save(self, path: str | PathLike[str] = ".", *, overwrite: bool = False, metadata: bool = False) -> list[Path]:
        """Save every image and return the paths.

        Every image is tried before the first error is raised.

        Args:
            path: A folder or a file, as for one image. With several images a file name gets their index: fox_0.png.
            overwrite: Whether existing files are replaced.
            metadata: Whether each image gets a file beside it that says how to make it again.

        Raises:
            DownloadError: An image cannot be downloaded; see `FluxImage.read`.
            SaveError: A file cannot be written, or it exists.
        """
        paths: list[Path] = []
        errors: list[FluxError] = []
        for image, place in self._places(path):
            try:
                paths.append(image.save(place, overwrite=overwrite, metadata=metadata))
            except FluxError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return paths

    async def asave(
        self, path: str | PathLike[str] = ".", *, overwrite: bool = False, metadata: bool = False
    ) -> list[Path]:
        """The same as `save`, for async code."""
        paths: list[Path] = []
        errors: list[FluxError] = []
        for image, place in self._places(path):
            try:
                paths.append(await image.asave(place, overwrite=overwrite, metadata=metadata))
            except FluxError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return paths

    def _places(self, path: str | PathLike[str]) -> list[tuple[FluxImage, str | PathLike[str]]]:
        several = len(self.data) > 1
        return [(image, numbered(path, index) if several else path) for index, image in enumerate(self.data)]
