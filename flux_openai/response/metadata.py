"""Metadata of a saved image: a JSON file beside it (a sidecar), from which the image can be made again.

The image itself is never changed: any change to its bytes would break a C2PA signature in them.
"""

from binascii import a2b_base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flux_openai._http.redaction import scrub
from flux_openai.errors import ConfigurationError
from flux_openai.formats import sniff
from flux_openai.models import FLUX_MODELS
from flux_openai.response.file_names import SIDECAR, names_a_file, place_of

__all__ = ["Metadata", "library", "read_metadata", "sources_of"]


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is known about one saved image; it contains no key, and no signature of a link.

    Attributes:
        model: The full name of the model.
        parameters: The parameters of the request that made it, as keyword arguments, without images, and without
            options that the model is not known to take: these may hold anything.
        index: Its index among the images of that request.
        images: The images that it was made from, in order: "sha256" and "mime_type" of each, or its "link" without the
            query.
        request_id: The service's id of the request; None if it sent none.
        created: When the answer came, in UTC, as ISO 8601.
        sha256: The SHA-256 of the image file, in hexadecimal.
        library: The name and version of this package.

    Example:
        metadata = read_metadata("out/a-red-fox_seed7_0.json")
        client.images.generate(**metadata.arguments)
    """

    model: str
    parameters: Mapping[str, object]
    index: int
    images: tuple[dict[str, str], ...]
    request_id: str | None
    created: str
    sha256: str
    library: str

    @classmethod
    def of(
        cls,
        data: bytes,
        *,
        model: str,
        params: Mapping[str, object],
        index: int,
        request_id: str | None,
        received: datetime,
    ) -> "Metadata":
        """The metadata of an image with these bytes, made with these parameters."""
        fields = FLUX_MODELS[model].fields if model in FLUX_MODELS else {}
        return cls(
            model=model,
            parameters={name: params[name] for name in params if name in fields and fields[name].format != "image"},
            index=index,
            images=sources_of(model, params),
            request_id=request_id,
            created=received.isoformat(timespec="seconds"),
            sha256=sha256(data).hexdigest(),
            library=library(),
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `images.generate` that ask for this image again; its `images` are to be added."""
        return {"model": self.model, **self.parameters}

    def as_json(self) -> bytes:
        """The content of the file."""
        return _file().dump_json(self, indent=2) + b"\n"


_IMAGE_NAMES = frozenset(
    name
    for model in FLUX_MODELS.values()
    for field in model.fields.values()
    if field.format == "image"
    for name in (field.name, *(field.sent_as or ()))
)


@cache
def _file() -> TypeAdapter[Metadata]:
    return TypeAdapter(Metadata)


def sources_of(model: str, params: Mapping[str, object]) -> tuple[dict[str, str], ...]:
    """What tells the images among the parameters of a call from others; see `Metadata.images`."""
    return tuple(_source(image) for name in params if name in _image_fields(model) for image in _items(params[name]))


def _image_fields(model: str) -> set[str]:
    fields = FLUX_MODELS[model].fields if model in FLUX_MODELS else {}
    return {field.name for field in fields.values() if field.format == "image"}


def _items(value: object) -> Iterator[str]:
    yield from map(str, value if isinstance(value, list) else [value])


def _source(image: str) -> dict[str, str]:
    """What tells an image that was sent from others."""
    if not image.startswith("data:"):
        return {"link": scrub(image.partition("?")[0])}
    data = a2b_base64(image.partition(",")[2])
    kind = sniff(data)
    return {"sha256": sha256(data).hexdigest(), **({} if kind is None else {"mime_type": kind.mime})}


def library() -> str:
    """The name and version of this package."""
    try:
        return f"flux-openai {version('flux-openai')}"
    except PackageNotFoundError:
        return "flux-openai, run from its source"


def read_metadata(path: str | PathLike[str]) -> Metadata:
    """The metadata in a file that `save(metadata=True)` wrote.

    Raises:
        ConfigurationError: The file cannot be read, or is no such file.
    """
    place = place_of(path)
    if names_a_file(place):
        rule = f"is an image; its metadata, if it was saved with any, is in {place.with_suffix(SIDECAR).name!r}"
        raise ConfigurationError(f"{str(path)!r} {rule}")
    try:
        metadata = _file().validate_json(place.read_bytes())
        if images := sorted(_IMAGE_NAMES & metadata.parameters.keys()):
            # The path of an image would be opened, and the file be sent.
            raise ConfigurationError(f"cannot read {str(path)!r}: its parameters name an image ({', '.join(images)})")
        return metadata  # noqa: TRY300  # the error above is about it
    except ValidationError as error:
        [problem, *_] = error.errors(include_url=False, include_input=False)
        where = ".".join(map(str, problem["loc"]))
        reason = f"it is not metadata of an image ({f'{where}: ' if where else ''}{problem['msg']})"
    except OSError as error:
        reason = error.strerror or str(error)
    raise ConfigurationError(f"cannot read {str(path)!r}: {reason}")
