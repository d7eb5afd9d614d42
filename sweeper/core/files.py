"""Files and folders: private, checked for writing, locked, pinned while a sweep runs, written whole, read warily."""

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
from io import BufferedReader
from pathlib import Path
from typing import Any
from uuid import uuid4

from sweeper.core.errors import InputError, StorageError

PRIVATE_UMASK = 0o077
"""Umask that gives files the mode 0600 and folders 0700."""


@contextmanager
def private_files() -> Iterator[None]:
    """Create files for their user only while the block runs; processes started in it do the same."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def temporary_folder() -> Path:
    """Return the folder for Ray's files. TMPDIR is not used: on some systems its path is too long for a socket."""
    return Path(os.environ.get("RAY_TMPDIR") or "/tmp").absolute()


def private_folder() -> Path:
    """Return a folder in the temporary folder that only this user can enter; create it if needed.

    Ray gives everyone access to its own folder and to the sockets in it, so that folder is kept inside this one. The
    path is short, because the path of a socket can have at most 107 characters.
    """
    base = temporary_folder()
    folder = base / f"sweeper-{os.getuid()}"
    base.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_private(folder):  # anyone can guess the name and create it first
            return Path(tempfile.mkdtemp(prefix="sweeper-", dir=base))
    return folder


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & PRIVATE_UMASK


def check_writable_folder(folder: Path, remedy: str, *, room: int = 0) -> None:
    """Check that a folder, which need not exist yet, can be created and has `room` free bytes.

    Raises:
        InputError: It cannot, or its disk is full; the message ends with `remedy`.
    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        # Modes tell root nothing, and nothing about a read-only or full file system. On Linux this file has no name.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); {remedy}") from error
    if (free := shutil.disk_usage(nearest).free) < room:
        raise InputError(f"cannot write to {folder} (its disk is full, {free / 1e6:.1f} MB free); {remedy}")


def check_writable_file(path: Path, remedy: str) -> None:
    """Check that a file can be written, whether it exists or not.

    Raises:
        InputError: It cannot; the message ends with `remedy`.
    """
    if path.is_dir():
        raise InputError(f"cannot write to {path} (it is a folder); {remedy}")
    check_writable_folder(path.parent, remedy)
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"cannot write to {path} (Permission denied); {remedy}")


_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


MIN_FREE_BYTES = 64 * 1024
"""A disk with less free space counts as full."""


class PinnedPath:
    """A file or folder that must stay the same one while a sweep runs.

    A process keeps writing to a deleted file, or into a recreated folder, without any error; `check_unchanged` detects
    both. `label` names the path in the message: "the study's database".
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self._label = label
        self._identity = _identity(path)

    def check_unchanged(self) -> None:
        """Raise StorageError if the path was removed or replaced since this object was created, or just before."""
        if self._identity is None or _identity(self.path) != self._identity:
            raise StorageError(
                f"{self._label} {self.path} was removed or replaced; stopping. Put it back and run the same command "
                "again to resume"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder while the block runs. Creates no lock file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def file_system_of(path: Path) -> str:
    """Return the type of the file system of a path, which need not exist yet."""
    place = path.resolve()
    import psutil

    mounts = {Path(mount.mountpoint): str(mount.fstype) for mount in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (place, *place.parents) if parent in mounts), "")


def is_disk_full(error: OSError, folder: Path) -> bool:
    """Return whether a disk is full: by the error, or by the free space where a library dropped the errno."""
    return error.errno in _DISK_FULL_ERRNOS or (folder.exists() and shutil.disk_usage(folder).free < MIN_FREE_BYTES)


def disk_full_message(folder: Path) -> str:
    """Return a message that the disk of a folder is full, with the space left."""
    left = f", {shutil.disk_usage(folder).free / 1e6:.1f} MB free" if folder.exists() else ""
    return f"disk full on {folder}{left}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder to, and rename it to `path` when the block ends.

    Other processes see the new content or the old one, never a part of either; a folder that is replaced is missing for
    a moment. If the block raises, what it wrote is deleted and `path` keeps its content.
    """
    token = uuid4().hex[:8]
    beside, replaced = (path.with_name(f".{role}-{token}{path.suffix}") for role in ("writing", "replaced"))
    try:
        yield beside
        if path.is_dir() and beside.exists():  # rename() replaces a file, but not a folder that has content
            path.rename(replaced)
        beside.rename(path)
        remove(replaced)
    finally:
        remove(beside)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, as far as possible. No link is followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed in `written_whole` left in a folder."""
    for role in ("writing", "replaced"):
        for left in folder.glob(f".{role}-*"):
            remove(left)


def make_folder(folder: Path) -> None:
    """Create a folder in an existing one, unless it is there.

    Raises:
        NotADirectoryError: something else has its name, such as a link to a folder elsewhere.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "Not a folder, but a link or a file", str(folder)) from None


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read it; follow no link, and wait for no pipe.

    Raises:
        OSError: there is no such file, or it is a link, a pipe, a device or the like.
    """
    if stat.S_ISREG(path.lstat().st_mode):
        # The flags and the second look only matter if the file is replaced right now.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_small(path: Path, max_bytes: int) -> bytes:
    """Return the content of a small regular file.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than `max_bytes`.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"Larger than {max_bytes:,} bytes", str(path))
    return content


def files_below(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and of its subfolders, by their paths relative to it. No link is followed.

    Raises:
        OSError: there is no such folder, or it holds a link, a pipe, a device or the like.
    """
    found: dict[str, Path] = {}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if place.is_symlink():
            raise OSError(errno.EINVAL, "A link, not a folder", str(place))
        with os.scandir(place) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif entry.is_file(follow_symlinks=False):
                    found[path.relative_to(folder).as_posix()] = path
                else:
                    raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return found


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document, whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n")


def bytes_below(folder: Path) -> int:
    """Return the size of the files of a folder, in bytes. No link is followed; a file that is deleted now counts 0."""
    found = 0
    for file in (Path(place, name) for place, _, names in os.walk(folder) for name in names):
        with suppress(OSError):
            found += file.lstat().st_size
    return found
