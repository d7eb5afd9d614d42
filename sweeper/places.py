"""The places a sweep writes to: on which file system, with how much room, and whether they are still there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from sweeper.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOO_LITTLE = 64 * 1024


class Place:
    """A file or folder that must remain what it is while a sweep runs.

    Who removes or replaces it does not stop a process from writing: into a file that nobody can find any more, or into
    a folder made anew.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        self._identity = _identity(path)

    def require(self) -> None:
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
def only_one(folder: Path) -> Iterator[None]:
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
    mounts = {Path(mount.mountpoint): str(mount.fstype) for mount in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (place, *place.parents) if parent in mounts), "")


def is_full(error: OSError, folder: Path) -> bool:
    """Whether an error means that a disk is full; libraries do not always pass on the number that says so."""
    return error.errno in _FULL or (folder.exists() and shutil.disk_usage(folder).free < _TOO_LITTLE)


def no_room(folder: Path) -> str:
    """That a disk is full, and how much is left."""
    left = f", {shutil.disk_usage(folder).free / 1e6:.1f} MB free" if folder.exists() else ""
    return f"disk full on {folder}{left}"
