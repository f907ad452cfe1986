"""Image files: the extension follows the bytes, and writing is atomic; a process that is killed leaves no rubbish."""

import contextlib
import errno
import io
import itertools
import os
import platform
import secrets
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from flux_openai._http.context import Bound
from flux_openai.errors import ConfigurationError, SaveError
from flux_openai.formats import sniff
from flux_openai.response.file_names import SIDECAR, UNKNOWN_EXTENSION, names_a_file, target
from flux_openai.response.metadata import read_metadata

if sys.platform != "win32":
    import fcntl

__all__ = ["check_writable", "read_image", "replacing", "saving", "write", "writing_together"]


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


_PROBE = 4 * 2**20
"""Bytes that must fit onto the disk before an image is paid for: more than one image usually has."""


def check_writable(folder: Path, *, create: bool = True) -> None:
    """Write a test file, and remove it: an error must come before images are paid for.

    Args:
        folder: The folder for images.
        create: Whether the folder is created if needed; otherwise the nearest folder that exists is tried.

    Raises:
        OSError: The folder cannot be created or written to, or the disk is full.
    """
    try:
        os.lstat(folder)  # raises ValueError for a path with a NUL character or a lone surrogate
    except ValueError as error:
        raise OSError(errno.EINVAL, "a path cannot contain these characters") from error
    except OSError:
        if create:
            _make_folder(folder)
    if not create:
        folder = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is a file where the folder should be")
    with tempfile.TemporaryFile(dir=folder, prefix=".flux-") as probe:
        probe.write(bytes(_PROBE))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "there is a file where the folder should be") from error


def write(
    data: bytes,
    path: str | os.PathLike[str] = ".",
    *,
    stem: str,
    overwrite: bool = False,
    sidecar: bytes | None = None,
) -> Path:
    """Write image bytes to a file and return its path.

    Bytes of no known image type are paid for too: they are saved as ".bin".

    Args:
        data: The bytes.
        path: A file, or a folder in which the file is named after `stem`, numbered if that name exists.
        stem: The file name without extension.
        overwrite: Whether an existing file is replaced.
        sidecar: The content of a second file of the same name, which ends in ".json".

    Raises:
        SaveError: The file cannot be written, or it exists and `overwrite` is False.
    """
    kind = sniff(data)
    place = target(path, stem=stem, extension=kind.extension if kind else UNKNOWN_EXTENSION)
    with saving(place, "the image to "):
        return _store(data, place, numbered=not names_a_file(path), overwrite=overwrite, sidecar=sidecar)


@contextlib.contextmanager
def saving(place: Path, what: str = "") -> Iterator[None]:
    """Raise a SaveError about this place for any OSError inside."""
    try:
        yield
    except SaveError:
        raise
    except (OSError, UnicodeError) as cause:
        reason = (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__
        error = SaveError(f"cannot write {what}{str(place)!r}: {reason}")
        error.errno, error.strerror, error.filename = getattr(cause, "errno", errno.EINVAL), reason, str(place)
        raise error from cause


@contextlib.contextmanager
def replacing(place: Path) -> Iterator[IO[bytes]]:
    """A new file to write to, which takes the place of the old one at the end; after an error the old one stays.

    Raises:
        SaveError: The file cannot be written.
    """
    with saving(place):
        _make_folder(place.parent)
        _remove_leftovers(place.parent)
        with _locked_file(place.parent) as (temporary, raw):
            file = io.BufferedWriter(raw)
            yield file
            file.flush()
            os.fsync(raw.fileno())
            if sys.platform == "win32":
                file.close()  # Windows does not rename an open file
            temporary.replace(place)
        _sync_folder(place.parent)


_FOLDERS: ContextVar[set[Path] | None] = ContextVar("flux_openai_folders", default=None)
"""The folders of the images that the current block has written; None outside such a block."""


@contextlib.contextmanager
def writing_together() -> Iterator[None]:
    """Images that are written in this block are safe from a power cut at its end: each folder is synced only once."""
    folders = set[Path]()
    try:
        with Bound((_FOLDERS, folders)):
            yield
    finally:
        for folder in folders:
            _sync_folder(folder)


def _store(data: bytes, place: Path, *, numbered: bool, overwrite: bool, sidecar: bytes | None) -> Path:
    if "\0" in str(place):
        raise OSError(errno.EINVAL, "a path cannot contain a NUL character")  # `mkdir` would raise ValueError
    folders = _FOLDERS.get()
    if folders is None or place.parent not in folders:
        _make_folder(place.parent)
        _remove_leftovers(place.parent)
    contents = {place.suffix: data} if sidecar is None else {place.suffix: data, SIDECAR: sidecar}
    with contextlib.ExitStack() as stack:
        # The image comes last: where it is, its sidecar is too.
        files = {end: stack.enter_context(_temporary_file(place.parent, contents[end])) for end in reversed(contents)}
        if overwrite:
            _drop_sidecar(place.with_suffix(SIDECAR), needed=sidecar is not None)
            for suffix, temporary in files.items():
                temporary.replace(place.with_suffix(suffix))
            written = place
        else:
            written = _publish(files, place, numbered=numbered)
    if folders is None:
        _sync_folder(written.parent)
    else:
        folders.add(written.parent)
    return written


def _drop_sidecar(place: Path, *, needed: bool) -> None:
    """Remove the metadata of an image that is replaced. Raises FileExistsError if `needed`, and it is another file."""
    if not os.path.lexists(place):
        return
    is_metadata = False
    if place.is_file():  # to read a FIFO would wait for whoever writes to it
        with contextlib.suppress(ConfigurationError):
            read_metadata(place)
            is_metadata = True
    if is_metadata:
        place.unlink()
    elif needed:
        raise FileExistsError(errno.EEXIST, f"{place.name!r} is not metadata of an image, and stays")


# The host is part of the name because hosts that share a folder may not see each other's locks.
_TEMPORARY = f".flux-{zlib.crc32(platform.node().encode()):08x}-"
_SUFFIX = ".part"
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def _temporary_file(folder: Path, data: bytes) -> Iterator[Path]:
    """A file with the data, locked while it is needed, and removed at the end."""
    with _locked_file(folder) as (temporary, file):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]
        os.fsync(file.fileno())
        if sys.platform == "win32":
            file.close()  # Windows does not rename an open file
        yield temporary


@contextlib.contextmanager
def _locked_file(folder: Path) -> Iterator[tuple[Path, io.FileIO]]:
    """A new file that is open and locked, and removed at the end unless it was renamed."""
    temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}{_SUFFIX}"
    # 0666 leaves the umask and the folder's ACL to the kernel: reading the umask means setting it, for every thread.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
    try:
        with io.FileIO(descriptor, "wb") as file:
            _lock(descriptor)
            yield temporary, file
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _lock(descriptor: int, *, wait: bool = True) -> None:
    """Lock an open file or folder for this process, until it is closed. Raises OSError if another one has it locked."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not wait:
                raise  # the file system may have no locks, and then nobody can tell whose file it is


_LOOKED_AT = 2000
"""How many files of a folder are looked at for leftovers: a folder with a million images would slow down every save."""

_MINUTE = 60


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of this host's processes that were killed while they saved."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in itertools.islice(entries, _LOOKED_AT) if entry.name.startswith(_TEMPORARY)]:
            with contextlib.suppress(OSError):
                if _is_leftover(entry):
                    Path(entry).unlink()


def _is_leftover(entry: os.DirEntry[str]) -> bool:
    """Whether no process needs this temporary file any more. Raises OSError if that cannot be told."""
    if not (entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False)):
        return False
    status = entry.stat(follow_symlinks=False)
    # An empty file may belong to a process that is about to lock it, and Windows has no such locks.
    if (status.st_size == 0 or sys.platform == "win32") and time.time() - status.st_mtime < _MINUTE:
        return False
    with os.fdopen(os.open(entry, os.O_RDWR | _FLAGS), "rb") as file:
        _lock(file.fileno(), wait=False)
    return True


def _take_back(place: Path, temporary: Path) -> None:
    """Undo `_link`, which renames the temporary file where there are no hard links."""
    if os.path.lexists(temporary):
        place.unlink(missing_ok=True)
    else:
        place.rename(temporary)


def _publish(files: Mapping[str, Path], place: Path, *, numbered: bool) -> Path:
    """Give the files, by suffix, their name, or with `numbered` the next free one. No existing file is replaced."""
    numbers = itertools.count(2) if numbered else ()
    for free in itertools.chain([place], (place.with_stem(f"{place.stem}-{number}") for number in numbers)):
        with contextlib.suppress(FileExistsError), contextlib.ExitStack() as undo:
            for suffix, temporary in files.items():
                _link(temporary, free.with_suffix(suffix))
                undo.callback(_take_back, free.with_suffix(suffix), temporary)
            undo.pop_all()
            return free
    taken = "it" if os.path.lexists(place) else f"its {place.with_suffix(SIDECAR).name!r}"
    raise FileExistsError(errno.EEXIST, f"{taken} already exists; overwrite=True replaces a file")


def _link(temporary: Path, place: Path) -> None:
    try:
        os.link(temporary, place)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no hard links, and renaming replaces: the lock keeps our other savers from doing so.
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                folder = os.open(place.parent, os.O_RDONLY)
                stack.callback(os.close, folder)
                _lock(folder)
            if os.path.lexists(place):
                raise FileExistsError(errno.EEXIST, "it already exists") from None
            temporary.rename(place)


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder and some file systems cannot sync one; the file is in its place either way.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
