"""Image files: the extension follows the bytes, names are safe on every system, and writing is atomic."""

import contextlib
import errno
import itertools
import os
import re
import secrets
import unicodedata
from pathlib import Path

from flux_openai.errors import SaveError
from flux_openai.formats import sniff

__all__ = ["numbered", "read_image", "safe_stem", "stem", "target", "write"]

_EXTENSIONS = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp", ".gif": ".gif"}
"""Extensions that make a path the name of a file, and how `ImageType.extension` spells each."""

_UNKNOWN_EXTENSION = ".bin"

_PROMPT_LENGTH = 60
_STEM_LENGTH = 120
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|conin|conout|(com|lpt)[0-9])")


def safe_stem(text: str, *, limit: int = _PROMPT_LENGTH) -> str:
    """A file name without extension, made from any text and legal on every system: ASCII letters, digits, "-", "_"."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    name = re.sub(r"[^A-Za-z0-9_]+", "-", ascii_text).strip("-_")[:limit].rstrip("-_")
    # Windows opens a device for these names, whatever the extension.
    return f"image-{name}" if _RESERVED.fullmatch(name) else name or "image"


def stem(prompt: str | None, *, seed: int | None, index: int) -> str:
    """The file name of an image without extension, such as "a-red-fox_seed7_0"; a seed below 0 means a random one."""
    seeded = [] if seed is None or seed < 0 else [f"seed{seed}"]
    return "_".join([safe_stem((prompt or "").lower()), *seeded, str(index)])


def target(path: str | os.PathLike[str], *, stem: str, extension: str) -> Path:
    """The file for a path: the path with the right extension if it names an image, else a file in that folder."""
    wanted = Path(path)
    if not _names_a_file(path):
        return wanted / f"{safe_stem(stem, limit=_STEM_LENGTH)}{extension}"
    known = _EXTENSIONS[wanted.suffix.lower()]
    return wanted if known == extension else wanted.with_suffix(extension)


def _names_a_file(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in _EXTENSIONS and not os.fspath(path).endswith(("/", os.sep))


def numbered(path: str | os.PathLike[str], index: int) -> str | os.PathLike[str]:
    """The path for one of several images: a file name gets the index ("fox_0.png"), a folder stays as it is."""
    _check(path)
    place = Path(path)
    return place.with_stem(f"{place.stem}_{index}") if _names_a_file(path) else path


def read_image(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file that was saved earlier.

    Raises:
        OSError: The file cannot be read, is a symbolic link, or is not an image: it may have been replaced since by a
            file whose content must not be handed to a language model.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read()
    if sniff(data) is None:
        raise OSError(errno.EINVAL, "it is not an image")
    return data


def write(data: bytes, path: str | os.PathLike[str] = ".", *, stem: str, overwrite: bool = False) -> Path:
    """Write image bytes to a file and return its path.

    Bytes of no known image type are paid for too: they are saved as ".bin".

    Args:
        data: The bytes.
        path: A file, or a folder in which the file is named after `stem`, numbered if that name exists.
        stem: The file name without extension.
        overwrite: Whether an existing file is replaced.

    Raises:
        SaveError: The file cannot be written, or it exists and `overwrite` is False.
    """
    _check(path)
    kind = sniff(data)
    place = target(path, stem=stem, extension=kind.extension if kind else _UNKNOWN_EXTENSION)
    try:
        return _store(data, place, numbered=not _names_a_file(path), overwrite=overwrite)
    except OSError as cause:
        reason = cause.strerror or type(cause).__name__
        error = SaveError(f"cannot write the image to {str(place)!r}: {reason}")
        error.errno, error.strerror, error.filename = cause.errno, reason, str(place)
        raise error from cause


def _check(path: object) -> None:
    if not isinstance(path, str | os.PathLike):
        raise SaveError(f"cannot write the image to {path!r}: a path is text or a path object")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise SaveError(f"cannot write the image to {path!r}: it has characters that no file name can have") from None


def _store(data: bytes, place: Path, *, numbered: bool, overwrite: bool) -> Path:
    if "\0" in str(place):
        raise OSError(errno.EINVAL, "a path cannot contain a NUL character")  # `mkdir` would raise ValueError
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "there is a file where the folder should be") from error
    temporary = place.with_name(f".flux-{secrets.token_hex(8)}.part")
    try:
        _fill(temporary, data)
        written = temporary.replace(place) if overwrite else _publish(temporary, place, numbered=numbered)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(written.parent)
    return written


def _fill(temporary: Path, data: bytes) -> None:
    # 0666 leaves the umask and the folder's ACL to the kernel: reading the umask means setting it, for every thread.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(temporary: Path, place: Path, *, numbered: bool) -> Path:
    """Give the file its name, or with `numbered` the next free one. An existing file is never replaced."""
    numbers = itertools.count(2) if numbered else ()
    for free in itertools.chain([place], (place.with_stem(f"{place.stem}-{number}") for number in numbers)):
        with contextlib.suppress(FileExistsError):
            _link(temporary, free)
            return free
    raise FileExistsError(errno.EEXIST, "it already exists; overwrite=True replaces a file")


def _link(temporary: Path, place: Path) -> None:
    try:
        os.link(temporary, place)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no hard links. Creating an empty file claims the name, and only then is it replaced.
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            temporary.replace(place)
        except BaseException:
            place.unlink()
            raise


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder and some file systems cannot sync one; the file is in its place either way.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
