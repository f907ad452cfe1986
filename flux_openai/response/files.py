"""Image bytes to a file: the type comes from the bytes, the name from one sanitizer, and no file is ever half there.

Errors are returned, not raised: the caller raises them from its own frame, so that a traceback shows no more than that.
"""

import contextlib
import errno
import itertools
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from flux_openai.errors import SaveError
from flux_openai.formats import sniff

__all__ = ["numbered", "read_image", "safe_stem", "stem", "target", "write"]


_EXTENSIONS = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp", ".gif": ".gif"}
"""The extension that each of these stands for."""

_UNKNOWN_EXTENSION = ".bin"


_PROMPT_LENGTH = 60
_STEM_LENGTH = 120
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|conin|conout|(com|lpt)[0-9])")


def safe_stem(text: str, *, limit: int = _PROMPT_LENGTH) -> str:
    """Any text as a file name without extension that is legal everywhere: ASCII letters, digits, "-" and "_"."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    name = re.sub(r"[^A-Za-z0-9_]+", "-", ascii_text).strip("-_")[:limit].rstrip("-_")
    # Windows opens a device for these names, whatever the extension.
    return f"image-{name}" if _RESERVED.fullmatch(name) else name or "image"


def stem(prompt: str | None, *, seed: int | None, index: int) -> str:
    """The name of an image without extension, such as "a-red-fox_seed7_0"; a seed below 0 means none was chosen."""
    seeded = [] if seed is None or seed < 0 else [f"seed{seed}"]
    return "_".join([safe_stem((prompt or "").lower()), *seeded, str(index)])


def target(path: str | os.PathLike[str], *, stem: str, extension: str) -> Path:
    """The file that `path` stands for: itself, with the right extension, if it looks like an image; else inside it."""
    wanted = Path(path)
    if not _names_a_file(path):
        return wanted / f"{safe_stem(stem, limit=_STEM_LENGTH)}{extension}"
    known = _EXTENSIONS[wanted.suffix.lower()]
    return wanted if known == extension else wanted.with_suffix(extension)


def _names_a_file(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in _EXTENSIONS and not os.fspath(path).endswith(("/", os.sep))


def numbered(path: str | os.PathLike[str], index: int) -> str | os.PathLike[str]:
    """The path for one of several images: the name of a file gets the index, a folder stays what it is."""
    place = Path(path)
    return place.with_stem(f"{place.stem}_{index}") if _names_a_file(path) else path


def read_image(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file. Raises OSError, also for a symbolic link and for what is no image.

    What was saved as an image can have been replaced since, by something that is nobody's to hand out.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read()
    if sniff(data) is None:
        raise OSError(errno.EINVAL, "it is no image")
    return data


def write(data: bytes, path: str | os.PathLike[str] = ".", *, stem: str, overwrite: bool = False) -> Path | SaveError:
    """Write image bytes to a file, or into a folder under `stem`, and give back where they are, or why they are not.

    In a folder the next free name is taken; a file that was asked for by name is only replaced with `overwrite=True`.
    Bytes that are no known image are kept too, as ".bin": they were paid for.
    """
    kind = sniff(data)
    place = target(path, stem=stem, extension=kind.extension if kind else _UNKNOWN_EXTENSION)
    if "\0" in str(place):
        return _save_error(OSError(errno.EINVAL, "a path cannot hold a NUL character"), place)
    try:
        _make_folder(place.parent)
        return _store(data, place, numbered=not _names_a_file(path), overwrite=overwrite)
    except FileExistsError:
        return _save_error(OSError(errno.EEXIST, "it already exists; overwrite=True replaces a file"), place)
    except OSError as error:
        return _save_error(error, place)


def _candidates(place: Path, *, numbered: bool) -> Iterator[Path]:
    yield place
    if numbered:
        yield from (place.with_name(f"{place.stem}-{number}{place.suffix}") for number in itertools.count(2))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where the folder should be") from error


def _store(data: bytes, place: Path, *, numbered: bool, overwrite: bool) -> Path:
    temporary = place.with_name(f".flux-{secrets.token_hex(8)}.part")
    try:
        _fill(temporary, data)
        written = temporary.replace(place) if overwrite else _publish(temporary, _candidates(place, numbered=numbered))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(written.parent)
    return written


def _fill(temporary: Path, data: bytes) -> None:
    # 0666 leaves the umask and the folder's ACL to the kernel: to read the umask is to set it, for every thread.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(temporary: Path, candidates: Iterable[Path]) -> Path:
    for place in candidates:
        with contextlib.suppress(FileExistsError):
            _link(temporary, place)
            return place
    raise FileExistsError


def _link(temporary: Path, place: Path) -> None:
    try:
        os.link(temporary, place)
    except FileExistsError:
        raise
    except OSError:
        _reserve_and_replace(temporary, place)


def _reserve_and_replace(temporary: Path, place: Path) -> None:
    # For file systems without hard links: the empty file makes the name ours, and only then is it replaced.
    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    with contextlib.ExitStack() as undo:
        undo.callback(place.unlink)
        temporary.replace(place)
        undo.pop_all()


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder and some file systems cannot sync one; the file is in its place either way.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _save_error(cause: OSError, place: Path) -> SaveError:
    reason = cause.strerror or type(cause).__name__
    error = SaveError(f"cannot write the image to {str(place)!r}: {reason}")
    error.errno, error.strerror, error.filename = cause.errno, reason, str(place)
    return error
