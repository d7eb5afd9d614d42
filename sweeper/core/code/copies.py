"""Copies of the user's code: for an upload to a cluster, and for the workers of this machine."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sweeper.core.code.user_code import SWEEPER, TrainableCode, user_code_root
from sweeper.core.errors import InputError
from sweeper.core.files import written_whole
from sweeper.core.sweep_folder import MARKER

_SKIPPED_FOLDERS = ("__pycache__", "site-packages", "node_modules", "venv", "build", "dist", "sweeps", "mlartifacts")

MAX_FILES, MAX_BYTES = 2000, 10 << 20
"""Limits of an upload. A larger folder holds more than the user's code."""

MAX_ENTRIES = 2000
"""Files and folders that are looked at for code which is not imported by name, when code is copied on this machine."""

MAX_NEIGHBOURS = 200
"""Entries of the folder above the code, for which a copy has links: code may refer to `Path(__file__).parents[1]`."""


def copy_user_code(trainable: TrainableCode, target: Path) -> None:
    """Copy the Python files of `user_code_root`, and scripts, to `target`. Does nothing if the trainable is installed.

    Raises:
        InputError: There are more than `MAX_FILES` files or `MAX_BYTES` bytes.
    """
    root = user_code_root(trainable)
    if root is None:
        return
    scripts = () if isinstance(trainable, str) else trainable.scripts()
    copied = size = 0
    for folder, names, files in os.walk(root):
        is_results = MARKER in files and Path(folder) != root
        names[:] = [] if is_results else [name for name in names if not _is_skipped(Path(folder, name))]
        for file in () if is_results else (Path(folder, name) for name in files):
            if not (file.suffix == ".py" or file in scripts) or not file.is_file():  # Emacs locks are dead links
                continue
            copied, size = copied + 1, size + file.stat().st_size
            if copied > MAX_FILES or size > MAX_BYTES:
                raise InputError(
                    f"{root} holds more than {MAX_FILES:,} Python files or {MAX_BYTES >> 20} MB. Start from a "
                    f"folder with only the code of {trainable}, or install that code on the cluster"
                )
            place = target / file.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(file, place)


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in _SKIPPED_FOLDERS or folder == SWEEPER


def freeze_user_code(trainable: TrainableCode, target: Path, imported: Iterable[str]) -> Path | None:
    """Copy the user's code on this machine, so that a sweep does not change while its files are edited.

    Everything else is linked, beside the code and in the folder above it, so that code finds its data.

    Args:
        target: the folder for the copy and the links, which is replaced.
        imported: files that are copied in any case; further ones among the first `MAX_ENTRIES` entries of the folder.

    Returns:
        The folder to import from; None if the trainable is installed.
    """
    root = user_code_root(trainable)
    if root is None:
        return None
    apart = root, target.parent.resolve()  # a link to the results would make a circle
    with written_whole(target) as beside:
        named = {root / file for file in imported}
        folders = _folders_with_code(root, named)
        for folder, names in folders.items():
            copy = beside / root.name / folder.relative_to(root)
            copy.mkdir(parents=True)
            files = {name: folder / name for name in names}
            code = {name for name, file in files.items() if (name.endswith(".py") or file in named) and file.is_file()}
            for name in code:
                with suppress(PermissionError):  # then nothing imports it either
                    _copy(folder / name, copy / name)
            _link(folder, copy, [name for name in names if name not in code and folder / name not in folders], apart)
        with suppress(OSError):  # the folder above may not be listed
            if len(names := os.listdir(root.parent)) <= MAX_NEIGHBOURS:
                _link(root.parent, beside, names, apart)
    return target / root.name


def _copy(file: Path, target: Path) -> None:
    shutil.copyfile(file, target)
    if os.access(file, os.X_OK):
        target.chmod(0o700)


def _link(folder: Path, copy: Path, names: Iterable[str], apart: Iterable[Path]) -> None:
    """Link the entries of a folder, except those that hold one of the paths in `apart`."""
    for name in names:
        path = folder / name
        if name != "__pycache__" and not any(other.is_relative_to(path) for other in apart):
            with suppress(OSError):  # the file system has no links
                (copy / name).symlink_to(path)


def _folders_with_code(root: Path, imported: set[Path]) -> dict[Path, list[str]]:
    """Return the folders that hold Python files, each after those that it is in, with the names of their entries."""
    needed = {parent for file in imported for parent in file.parents if parent.is_relative_to(root)} | {root}
    waiting, left = deque(sorted(needed)), MAX_ENTRIES
    scanned: dict[Path, list[str]] = {}
    while waiting:
        folder = waiting.popleft()
        if folder in scanned or (folder not in needed and left < 0):
            continue
        entries: list[os.DirEntry[str]] = []
        with suppress(OSError), os.scandir(folder) as found:
            entries = list(found)
        left -= len(entries)
        if folder not in needed and any(entry.name == MARKER for entry in entries):
            continue  # the results of a sweep, with a copy of its code
        scanned[folder] = [entry.name for entry in entries]
        inner = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        waiting += [path for path in inner if not _is_skipped(path)]
    with_code = {folder for folder, names in scanned.items() if any(name.endswith(".py") for name in names)}
    kept = needed | {parent for folder in with_code for parent in (folder, *folder.parents)}
    return {folder: scanned[folder] for folder in sorted(scanned.keys() & kept)}
