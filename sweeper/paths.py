"""Whether files can be written into a folder, found out without leaving anything there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sweeper.errors import InputError


def check_folder(folder: Path, remedy: str, *, room: int = 0) -> None:
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


def check_file(path: Path, remedy: str) -> None:
    """See whether a file could be written, be it there or not.

    Raises:
        InputError: it could not; with the remedy.
    """
    if path.is_dir():
        raise InputError(f"cannot write to {path} (it is a folder); {remedy}")
    check_folder(path.parent, remedy)
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"cannot write to {path} (Permission denied); {remedy}")
