"""What sweeper writes is its user's alone: files that nobody else can read, and a folder for Ray like that."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MASK = 0o077
"""Files 0600, folders 0700."""


@contextmanager
def private_files() -> Iterator[None]:
    """Let the process, and those it starts, make files for their user only."""
    before = os.umask(MASK)
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
        if not _is_ours(folder):  # the name is known to everyone: somebody was there first
            return Path(tempfile.mkdtemp(prefix="sweeper-", dir=base))
    return folder


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & MASK
