"""Image inputs: a path, bytes, file or PIL image becomes a data URI; an http(s) link is sent as it is.

The MIME type comes from the bytes. A file is read once, and never beyond the limit.
"""

import os
import re
import stat
import struct
import sys
from binascii import a2b_base64
from collections import UserString
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO, FileIO, TextIOBase
from typing import IO, TYPE_CHECKING, TypeAlias, TypeGuard, Union, cast

from openai import NotGiven, Omit
from openai._types import FileTypes
from openai.types import Image

from flux_openai._http.redaction import redact_value, redacted_repr
from flux_openai.errors import InvalidParam
from flux_openai.formats import data_uri, plain_base64, sniff, sniff_base64
from flux_openai.models import FluxModel
from flux_openai.request.model_choice import IMAGE_FIELDS, IMAGE_NAMES
from flux_openai.request.plain import half_surrogate, plain

if TYPE_CHECKING:
    import PIL.Image

__all__ = [
    "IMAGE_LIMIT",
    "ImageInput",
    "WireImage",
    "needs_reading",
    "normalize_edit_images",
    "read_images",
    "take_wire_names",
]

IMAGE_LIMIT = 32 * 1024 * 1024
"""The largest total size of the images of one call in bytes. It is our own: the service documents none, and images that
are given as links do not count."""

ImageInput: TypeAlias = Union[str, bytearray, memoryview, FileTypes, Image, "PIL.Image.Image"]
"""A path, bytes, open binary file, PIL image, link, data URI, image of an answer, or file tuple of the SDK."""

_CHUNK = 1024 * 1024
_KIND_OF_FILE = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LINK = re.compile(r"https?://[^\s/?#\ud800-\udfff]+[^\s\ud800-\udfff]*", re.IGNORECASE)
_SCHEME = re.compile(r"\s*(data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_NO_BYTES = "gives no bytes when it is read: open it with mode 'rb'"
_NO_LINK = "must be an http(s) link, a data URI or a path"
_KINDS = "a path, bytes, an open binary file, a PIL image, an http(s) link or a data URI"


class WireImage(str):
    """An image as it is sent, a link, a data URI or plain base64; its repr is short and contains no signature."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The link without its query, or the type and the length of the data."""
        return redacted_repr(str(self))


class _ImageProblem(Exception):  # noqa: N818  # it becomes an InvalidParam, which is the error
    """The value cannot be sent as an image; the message becomes the rule of an InvalidParam."""


def needs_reading(options: object) -> bool:
    """Whether an image among these arguments is still to be read, which would block an event loop."""
    return isinstance(options, Mapping) and any(
        options.get(name) is not None and not isinstance(options[name], WireImage | Omit | NotGiven)
        for name in IMAGE_NAMES & options.keys()
    )


def normalize_edit_images(options: Mapping[str, object]) -> Mapping[str, object]:
    """The arguments of an edit with a list in `image` moved to `images`; a list of one image is unwrapped."""
    image = options.get("image")
    if not isinstance(image, Sequence) or _is_one(image) or "images" in options:
        return options
    rest = {name: value for name, value in options.items() if name != "image"}
    if not image:
        return rest
    return {**rest, "image": image[0]} if len(image) == 1 else {**rest, "images": list(image)}


def take_wire_names(options: dict[str, object], model: FluxModel) -> list[InvalidParam]:
    """Move the images that have the names of the request body, such as `input_image_2`, to `image` or `images`.

    So the provider's own examples can be copied; as there, these images may be plain base64. Returns an InvalidParam
    for each that cannot be moved.
    """
    faults = list[InvalidParam]()
    for field in model.fields.values():
        names = field.sent_as or () if field.format == "image" else ()
        found = {name: options.pop(name) for name in names if name in options}
        if not found:
            continue
        if beside := IMAGE_FIELDS & options.keys():
            rule = f"cannot be given beside {min(beside)}; give one of them"
            faults += [InvalidParam(param=name, value=redact_value(value), rule=rule) for name, value in found.items()]
            continue
        gap = next(name for name in (*names, "") if name not in found)
        for name in names[names.index(gap) :] if gap else ():
            if name in found:  # were it sent under another number, "image 3" in a prompt would be another image
                rule = f"is given without {gap}; the images are numbered one after the other"
                faults.append(InvalidParam(param=name, value=redact_value(found[name]), rule=rule))
        images = [f"data:,{image}" if _is_base64_image(image) else image for image in found.values()]
        options[field.name] = images if field.type is list else images[0]
    return faults


def _is_base64_image(value: object) -> TypeGuard[str]:
    start = plain_base64(value[:80]) if isinstance(value, str) and not _SCHEME.match(value) else None
    return start is not None and sniff_base64(start) is not None


def read_images(options: Mapping[str, object]) -> tuple[dict[str, object], list[InvalidParam]]:
    """The arguments with every image as it is sent, and an InvalidParam for each that cannot be sent."""
    values, invalid, left = dict(options), list[InvalidParam](), IMAGE_LIMIT
    for name in sorted(IMAGE_FIELDS & options.keys()):
        given = options[name]
        several = name == "images" and isinstance(given, Sequence) and not _is_one(given)
        items = list(cast(Sequence[object], given)) if several else [given]
        encoded = list[object]()
        for number, item in enumerate(items, start=1):
            try:
                image = _encode(item, max(0, left))
            except _ImageProblem as problem:
                which = f" (image {number} of {len(items)})" if len(items) > 1 else ""
                invalid.append(InvalidParam(param=name, value=item, rule=f"{problem}{which}"))
                encoded.append(item)
            else:
                left -= _byte_size(image)
                encoded.append(image)
        values[name] = encoded if name == "images" else encoded[0]
    return values, invalid


def _is_one(value: object) -> bool:
    """Whether a sequence is one image: text, bytes, or the SDK's file tuple (name, content, type, headers)."""
    return isinstance(value, str | UserString | bytes | bytearray | memoryview) or _is_file_tuple(value)


def _is_file_tuple(value: object) -> TypeGuard[tuple[object, ...]]:
    return (
        isinstance(value, tuple)
        and 2 <= len(value) <= 4
        and (value[0] is None or isinstance(value[0], str))
        and (isinstance(value[1], bytes | bytearray | memoryview | os.PathLike) or hasattr(value[1], "read"))
    )


def _byte_size(image: WireImage) -> int:
    """The size of the image in a data URI, in bytes; 0 for a link."""
    return 0 if _LINK.match(image) else len(image.partition(",")[2]) * 3 // 4 - image.count("=", -2)


def _encode(value: object, limit: int) -> WireImage:
    if isinstance(value, WireImage | Image):
        return value if isinstance(value, WireImage) else _encode_response_image(value, limit)
    if isinstance(value, str | UserString):
        value = plain(value)
    if isinstance(value, str) and _LINK.fullmatch(value):
        return WireImage(value)
    data = _bytes_of(value[1] if _is_file_tuple(value) else value, limit)
    if len(data) > limit:
        raise _ImageProblem(f"the images of a call may have {IMAGE_LIMIT >> 20} MiB together; a link has no such limit")
    kind = sniff(data)
    if kind is None:
        what = "is no PNG, JPEG, WebP or GIF, going by its bytes" if data else "is empty"
        raise _ImageProblem(f"{what}; convert it first, or give a link")
    return WireImage(data_uri(data, mime=kind.mime))


def _encode_response_image(image: Image, limit: int) -> WireImage:
    """Encode an image of an answer; its base64 may be plain or, as this service sends it, a data URI."""
    packed = image.b64_json
    text = image.url if packed is None else packed if _SCHEME.match(packed) else f"data:,{packed}"
    # The text comes from a server. If it were taken for a path, the server could make us send any local file.
    if text is not None and not _SCHEME.match(text):
        raise _ImageProblem(_NO_LINK)
    return _encode(text, limit)


def _bytes_of(value: object, limit: int) -> bytes:
    """The bytes of an image. They may exceed the limit, but a file is read no further than one byte beyond it."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str) and _SCHEME.match(value):
        if half := half_surrogate(value):
            raise _ImageProblem(f"{_NO_LINK}; it has {half}")
        return _decoded(value, limit)
    if isinstance(value, str | os.PathLike):
        return _file_content(value, limit)
    if _is_pil(value):
        return _png_of(value)
    if hasattr(value, "read"):
        return _content(cast(IO[bytes], value), limit)
    several = "one image, and several go into images=: " if isinstance(value, list | tuple) else ""
    raise _ImageProblem(f"must be {several}{_KINDS}")


def _decoded(text: str, limit: int) -> bytes:
    if text.lstrip()[:5].lower() != "data:":
        raise _ImageProblem(_NO_LINK)
    if len(text) > 2 * (limit + _CHUNK):
        return bytes(limit + 1)
    plain = plain_base64(text)
    if plain is None:
        raise _ImageProblem("must hold base64, as in data:image/png;base64,…")
    return a2b_base64(plain)


def _file_content(path: str | os.PathLike[str], limit: int) -> bytes:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # not every os.PathLike is a pathlib.Path
        # Opening a FIFO waits until somebody writes to it, and opening a device may do anything.
        if not stat.S_ISREG(mode):
            raise _ImageProblem(f"cannot be read as a file: it is {_KIND_OF_FILE.get(stat.S_IFMT(mode), 'no file')}")
        with open(path, "rb") as file:  # noqa: PTH123  # likewise
            return _content(file, limit)
    except UnicodeEncodeError:
        reason = f"it has {half_surrogate(str(path)) or 'a character that no file name has'}"
    except (OSError, TypeError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
    if _is_base64_image(str(path)):
        reason = "it is base64, which needs data:image/png;base64, before it"
    raise _ImageProblem(f"cannot be read as a file: {reason}")


def _content(file: IO[bytes], limit: int) -> bytes:
    """The bytes of a file from its start, as the SDK sends files; from the current position if it cannot seek.

    A pipe is read until its other end is closed: whoever opened it decides how long that takes.
    """
    if isinstance(cast(object, file), TextIOBase):
        raise _ImageProblem(_NO_BYTES)
    read, size = list[bytes](), 0
    try:
        with suppress(AttributeError, OSError):
            file.seek(0)
        before = _state(file)
        while size <= limit and (chunk := file.read(min(_CHUNK, limit + 1 - size))):
            read.append(chunk)
            size += len(chunk)
        data = b"".join(read)
        if size <= limit and chunk is None:
            raise _ImageProblem("has no data yet: it is a stream in non-blocking mode")
        if size <= limit and _state(file) != before:
            raise _ImageProblem("changed while it was read: it is still being written")
    except (TypeError, UnicodeDecodeError):
        raise _ImageProblem(_NO_BYTES) from None
    except (OSError, ValueError) as error:
        raise _ImageProblem(f"cannot be read: {error}") from None
    return data


def _state(file: IO[bytes]) -> tuple[int, int] | None:
    """Size and time of the last change of a file on disk; None for any other kind. A terminal is refused."""
    raw = getattr(file, "raw", file)
    if not isinstance(raw, FileIO):
        return None
    if raw.isatty():
        raise _ImageProblem("is a terminal, where nobody types an image")
    status = os.fstat(raw.fileno())
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _is_pil(value: object) -> "TypeGuard[PIL.Image.Image]":
    """Whether the value is a PIL image. Pillow is not imported: whoever has such an image has imported it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


_PNG_MODES = frozenset({"1", "I;16", "L", "LA", "P", "RGB", "RGBA"})
_NEAREST_MODES = {"I": "I;16", "I;16B": "I", "I;16L": "I", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}


def _png_of(image: "PIL.Image.Image") -> bytes:
    if image.mode == "F":
        raise _ImageProblem("is a PIL image of mode F, whose floats have no fixed black and white: convert it first")
    buffer = BytesIO()
    try:
        upright = _upright(image)
        while upright.mode not in _PNG_MODES:
            upright = upright.convert(_NEAREST_MODES.get(upright.mode, "RGB"))
        upright.save(buffer, "PNG")
    # Pillow raises SyntaxError for some broken files.
    except (OSError, SyntaxError, ValueError) as error:
        raise _ImageProblem(f"cannot be written as PNG: {error}") from None
    return buffer.getvalue()


def _upright(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """The image rotated as its EXIF orientation says, because the PNG has no EXIF data."""
    from PIL import ImageOps  # noqa: PLC0415  # optional: it is installed if the caller has a PIL image

    # Malformed EXIF data is ignored: the image itself is intact.
    with suppress(SyntaxError, ValueError, struct.error):
        return ImageOps.exif_transpose(image)
    return image
