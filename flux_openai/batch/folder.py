"""The folder of a batch: one run at a time uses it, and it is on a disk of this computer."""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from flux_openai.errors import ConfigurationError, FolderInUseError

if sys.platform == "win32":
    import msvcrt
else:
    import errno
    import fcntl

__all__ = ["drop_ballast", "lock", "make_ballast", "open_folder", "refused", "remove_files", "worker_of"]

_LOCK = ".lock"
_BALLAST = ".ballast"
_BALLAST_SIZE = 4 * 2**20
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_MOUNTS = Path("/proc/self/mountinfo")

_NETWORK_TYPES = frozenset(
    [
        "9p",
        "acfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fhgfs",
        "fuse",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "ncp",
        "nfs",
        "nfs4",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "vmhgfs",
    ]
)
_LOCAL_FUSE = frozenset(
    [
        "fuse.bindfs",
        "fuse.cryfs",
        "fuse.encfs",
        "fuse.exfat",
        "fuse.fuse-overlayfs",
        "fuse.gocryptfs",
        "fuse.lxcfs",
        "fuse.mergerfs",
        "fuse.ntfs-3g",
        "fuse.securefs",
        "fuse.zfs",
    ]
)


def refused(folder: Path, reason: str) -> ConfigurationError:
    """The error for a folder that cannot be used."""
    return ConfigurationError(f"cannot use the folder {str(folder)!r}: {reason}; nothing was sent")


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused(folder, error.strerror or type(error).__name__) from error


def open_folder(folder: Path, *, create: bool, write: bool) -> None:
    """Check the folder, and with `create` make it. Raises ConfigurationError."""
    if "\0" in str(folder):
        raise refused(folder, "a path cannot contain a NUL character")
    with _explained(folder):
        if create:
            # What exists and is no folder is reported below.
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
            is_file = os.path.lexists(there) and not there.is_dir()
            raise refused(folder, "there is a file where the folder should be" if is_file else "it does not exist")
        kind = _file_system(folder) if write else ""
    if kind in _NETWORK_TYPES or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE):
        raise refused(folder, f"it is on a network file system ({kind}), where locks and crashes cannot be relied on")


def _file_system(folder: Path) -> str:
    """The type of the file system that the folder is on, such as "ext4"; empty where that is not known."""
    if sys.platform == "win32":
        return "smb3" if str(folder.resolve()).startswith("\\\\") else ""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):  # only Linux has this file
        for line in _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
            mount, _, source = line.partition(" - ")
            if mount.split()[2:3] == [number]:
                return source.split()[0]
    return ""


def lock(folder: Path) -> int:
    """Lock the folder for this process, until the descriptor that is returned is closed.

    Raises:
        FolderInUseError: Another process has it locked, or this one.
        ConfigurationError: The folder cannot be written to, or its file system has no locks.
    """
    with contextlib.ExitStack() as stack, _explained(folder):
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        stack.callback(os.close, descriptor)
        found = _locked(descriptor)
        if not found:
            time.sleep(0.05)  # who only looks, with `worker_of`, has it for a moment
            found = _locked(descriptor)
        if not found:
            pid, host = _owner(descriptor)
            raise FolderInUseError.of_owner(str(folder), pid=pid, host=host)
        if os.fstat(descriptor).st_nlink == 0:  # whoever had it has removed it, and another one may be locked already
            raise FolderInUseError.of_owner(str(folder), pid=None, host=None)
        owner = {"pid": os.getpid(), "host": platform.node(), "started": datetime.now(UTC).isoformat()}
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(owner).encode())
        stack.pop_all()
    return descriptor


def worker_of(folder: Path) -> FolderInUseError | None:
    """The error that names the process which has the folder locked; None if none has."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | _FLAGS)
    except OSError:
        return None  # no run was ever here, or this user may not look
    try:
        if _locked(descriptor):
            return None
        pid, host = _owner(descriptor)
        return FolderInUseError.of_owner(str(folder), pid=pid, host=host)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock the file; False if somebody else has it."""
    if sys.platform == "win32":
        os.lseek(descriptor, 2**30, os.SEEK_SET)  # a locked byte cannot be read, so it is one behind the text
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _owner(descriptor: int) -> tuple[int | None, str | None]:
    """The process that has the folder, and its host; None if it cannot be told."""
    for _ in range(50):
        os.lseek(descriptor, 0, os.SEEK_SET)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            owner = json.loads(os.read(descriptor, 1000))
            pid, host = int(owner["pid"]), str(owner["host"])
            if host != platform.node() or _is_alive(pid):
                return pid, host
        time.sleep(0.01)  # it has the lock, and is about to write its name over that of a process that was killed
    return None, None


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to another user
    return True


def make_ballast(folder: Path) -> None:
    """Reserve room on the disk, which `drop_ballast` frees for the answers that come after the disk is full.

    Raises:
        ConfigurationError: The disk is full, or the folder cannot be written to.
    """
    with _explained(folder):
        place = folder / _BALLAST
        if place.is_file() and place.stat().st_size == _BALLAST_SIZE:
            return
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(_BALLAST_SIZE))  # a file system that compresses would keep no room for zeros
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            drop_ballast(folder)
            raise


def drop_ballast(folder: Path) -> None:
    """Free the room that `make_ballast` reserved."""
    with contextlib.suppress(OSError):
        (folder / _BALLAST).unlink()


def remove_files(folder: Path) -> None:
    """Remove the files of a ledger of which nothing came; call it while the folder is locked."""
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm", _BALLAST, _LOCK):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
