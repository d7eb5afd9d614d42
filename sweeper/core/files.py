"""Files and folders: private to their user, checked before they are written, watched while a sweep runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from sweeper.core.errors import InputError, StorageError

PRIVATE_UMASK = 0o077
"""Files 0600, folders 0700."""


@contextmanager
def private_files() -> Iterator[None]:
    """Let the process, and those it starts, make files for their user only."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def temporary_folder() -> Path:
    """Where Ray keeps its files; not in TMPDIR, which on some systems is too long a path for a socket."""
    return Path(os.environ.get("RAY_TMPDIR") or "/tmp")


def private_folder() -> Path:
    """A folder in the temporary one that nobody else can enter.

    Ray opens the folder it is given to everyone, sockets included; it stands in this one, which stays closed. Its path
    is short, for that of a socket may have 107 characters.
    """
    base = temporary_folder()
    folder = base / f"sweeper-{os.getuid()}"
    base.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_private(folder):  # the name is known to everyone: somebody was there first
            return Path(tempfile.mkdtemp(prefix="sweeper-", dir=base))
    return folder


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & PRIVATE_UMASK


def check_writable_folder(folder: Path, remedy: str, *, room: int = 0) -> None:
    """See whether a folder, which need not exist yet, could be made and so many bytes written into it.

    Raises:
        InputError: it could not; with the remedy.
    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        # Modes say nothing to root, nor about a file system that is read-only or full; on Linux the file has no name.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); {remedy}") from error
    if (free := shutil.disk_usage(nearest).free) < room:
        raise InputError(f"cannot write to {folder} (its disk is full, {free / 1e6:.1f} MB free); {remedy}")


def check_writable_file(path: Path, remedy: str) -> None:
    """See whether a file could be written, be it there or not.

    Raises:
        InputError: it could not; with the remedy.
    """
    if path.is_dir():
        raise InputError(f"cannot write to {path} (it is a folder); {remedy}")
    check_writable_folder(path.parent, remedy)
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"cannot write to {path} (Permission denied); {remedy}")


_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


MIN_FREE_BYTES = 64 * 1024


class PinnedPath:
    """A file or folder that must remain what it is while a sweep runs.

    Who removes or replaces it does not stop a process from writing: into a file that nobody can find any more, or into
    a folder made anew.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        self._identity = _identity(path)

    def check_unchanged(self) -> None:
        """Raise StorageError if the place is not the one it was."""
        if _identity(self.path) != self._identity:
            raise StorageError(
                f"{self._what} {self.path} was removed or replaced; stopping. Put it back, and the same command goes on"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """The time of the block belongs to one process; the lock is the folder's own, and leaves nothing behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def file_system_of(path: Path) -> str:
    """The type of the file system that a path is on, or will be."""
    place = path.resolve()
    import psutil

    mounts = {Path(mount.mountpoint): str(mount.fstype) for mount in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (place, *place.parents) if parent in mounts), "")


def is_disk_full(error: OSError, folder: Path) -> bool:
    """Whether an error means that a disk is full; libraries do not always pass on the number that says so."""
    return error.errno in _DISK_FULL_ERRNOS or (folder.exists() and shutil.disk_usage(folder).free < MIN_FREE_BYTES)


def disk_full_message(folder: Path) -> str:
    """That a disk is full, and how much is left."""
    left = f", {shutil.disk_usage(folder).free / 1e6:.1f} MB free" if folder.exists() else ""
    return f"disk full on {folder}{left}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` when the block ends.

    Another process sees the whole file (or folder) or the one before, never a part. If the block raises, what was
    written is deleted.
    """
    beside = path.with_name(f".writing-{uuid4().hex[:8]}{path.suffix}")
    try:
        yield beside
        if path.is_dir():
            shutil.rmtree(path)
        beside.rename(path)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document, whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n")
