"""The folder of a sweep: its location, its parts, and the study that owns it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sweeper.core.errors import DatasetError, InputError, SweepBusyError
from sweeper.core.files import bytes_below, private_folder, remove, remove_unfinished
from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.urls import problem_of_folder

MARKER = "study.json"
"""The file in a sweep's folder that names the study that owns it."""

DECLARED = "sweep.json"
"""The file in a sweep's folder with the sweep as it was declared."""

MAX_MARKER_BYTES = 10_000
_RESULTS = ("trials", "champion")
"""Subfolders with results of a study; no other study may find them in its folder."""
_TEMPORARY = ("ray", "trials/*/work-*")
"""Subfolders that each run begins without: files of Ray Tune, and what killed workers of commands have left."""


def is_remote(folder: str | Path) -> bool:
    """Return whether a folder is given by a URL."""
    return "://" in str(folder)


@dataclass(frozen=True)
class SweepFolder:
    """The folder with a sweep's files: checkpoints, tracebacks and the champion.

    Nodes that share a disk all use `path`. Without a shared disk `url` is the folder, and `path` holds this node's
    copies of its files.
    """

    path: Path
    url: str | None = None

    @classmethod
    def of(cls, folder: Path | str | None, name: str) -> SweepFolder:
        """Return the folder for a path or URL; `sweeps/NAME` if it is None.

        Raises:
            InputError: The URL holds a secret or has too few slashes.
        """
        if folder is not None and (problem := problem_of_folder(str(folder))):
            raise InputError(f"the folder of the sweep {problem}")
        if folder is not None and is_remote(folder):
            return cls(_local_copy(str(folder)), str(folder))
        return cls(Path(folder or Path("sweeps") / name).absolute())

    def on_this_node(self) -> SweepFolder:
        """Return the folder as this node sees it. Each node may keep its copies at a different path."""
        return self if self.url is None else SweepFolder(_local_copy(self.url), self.url)

    @property
    def location(self) -> Path | str:
        """Path or URL of the folder, as users know it."""
        return self.url or self.path

    @property
    def remote(self) -> RemoteFolder | None:
        """Folder at the URL; None for a folder on a disk."""
        return None if self.url is None else RemoteFolder(self.url)

    @property
    def champion(self) -> Path:
        """Subfolder with the best model and its evaluation."""
        return self.path / "champion"

    @property
    def code(self) -> Path:
        """Subfolder with the user's code as it was when the sweep was started."""
        return self.path / "code"

    def trial(self, number: int) -> Path:
        """Return the subfolder with the checkpoints and tracebacks of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def outputs(self, number: int) -> list[Path]:
        """Return the files with what the attempts of a trial printed, the oldest first."""
        return sorted(self.trial(number).glob("output-*.txt"))

    def checkpoint_bytes(self) -> int:
        """Return the size of all checkpoints on this node, in bytes."""
        return sum(bytes_below(folder) for folder in self.path.glob("trials/*/attempt-*"))


def output_name(attempt: int) -> str:
    """Return the name of the file with what an attempt printed. Older output is in one that ends in `.old.txt`."""
    return f"output-{attempt:03d}.txt"


def _local_copy(url: str) -> Path:
    return private_folder() / "sweeps" / hashlib.sha256(url.encode()).hexdigest()[:16]


class Claimant(Protocol):
    """The study that claims a folder."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str | None: ...
    @property
    def storage(self) -> str: ...
    @property
    def facts(self) -> dict[str, Any]: ...
    @property
    def has_displaced_owner(self) -> bool: ...


def check_folder(folder: Path) -> None:
    """Check that the folder of a sweep, which need not exist yet, has only folders where sweeper expects folders.

    The folder may come from somebody else. What sweeper writes or deletes through a link in it would be elsewhere.

    Raises:
        InputError: a link or a file is in the place of a folder, or a link in that of the marker.
    """
    try:
        for name in _RESULTS:
            if os.path.lexists(folder / name) and not _is_folder(folder / name):
                raise _wrong_kind_error(folder, name, "a folder")
        for entry in list(os.scandir(folder / "trials")) if _is_folder(folder / "trials") else ():
            if entry.name.isdigit() and not entry.is_dir(follow_symlinks=False):
                raise _wrong_kind_error(folder, f"trials/{entry.name}", "a folder")
        if os.path.lexists(folder / MARKER) and not stat.S_ISREG((folder / MARKER).lstat().st_mode):
            raise _wrong_kind_error(folder, MARKER, "a file")
    except OSError as error:
        raise InputError(f"cannot read {folder} ({error.strerror}); choose another with --dir") from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _wrong_kind_error(folder: Path, name: str, expected: str) -> InputError:
    found = "a link" if (folder / name).is_symlink() else f"not {expected}"
    return InputError(
        f"cannot use {folder}: {name} in it is {found}. It has to be {expected}, so that nothing outside of the folder "
        "is written or deleted. Remove it, or choose another folder with --dir"
    )


@contextmanager
def claim_folder(place: SweepFolder, study: Claimant) -> Iterator[None]:
    """Claim a folder for a study, and lock it while the block runs.

    A folder without results has no owner: any study may claim it. One with results but no marker is of sweeper 0.1,
    and belongs to the study that recorded it. What killed processes left is removed, as is the new folder of a refusal.

    Raises:
        InputError: The folder holds results of another study, or cannot be written to.
        SweepBusyError: Another process runs a sweep in it, with a copy of the study's database.
    """
    folder = place.path
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _open_locked(folder, study)
    try:
        _claim(handle, folder, study)
        if place.remote is not None:
            _claim_remote(place.remote, study)
        remove_unfinished(folder)
        for left in (left for pattern in _TEMPORARY for left in folder.glob(pattern)):
            remove(left)
        yield
        remove(folder / "ray")  # Ray has ended by now
    except (InputError, DatasetError):
        with suppress(OSError):  # the folder is gone, or another sweep has begun beside it
            if folder in created and {path.name for path in folder.iterdir()} <= {MARKER, DECLARED}:
                for name in (DECLARED, MARKER):
                    (folder / name).unlink(missing_ok=True)
                for path in created:
                    path.rmdir()
        raise
    finally:
        if not os.fstat(handle).st_size:  # the claim was refused
            (folder / MARKER).unlink(missing_ok=True)
        os.close(handle)


def _open_locked(folder: Path, study: Claimant) -> int:
    """Open the folder's marker, lock it, and return its file descriptor."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); choose another with --dir") from error
    try:
        _lock(handle, folder, study)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _wrong_kind_error(folder, MARKER, "a file")
        if os.fstat(handle).st_nlink:
            return handle
    except BaseException:
        os.close(handle)  # the marker stays: it belongs to the process that holds the lock
        raise
    os.close(handle)  # a process that was refused removed this file before it was locked here
    return _open_locked(folder, study)


def _lock(handle: int, folder: Path, study: Claimant) -> None:
    """Lock the marker until it is closed. Nothing else can detect a second database with the same study."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        # A suspended owner that lost its lease keeps its lock, and stops as soon as it runs again.
        if not study.has_displaced_owner:
            raise SweepBusyError(
                f"another process runs a sweep in {folder}. Wait for it to end, or choose another folder with --dir"
            ) from error
    except OSError:
        pass  # some network file systems have no locks; the lease in the database still protects the sweep


def _claim(handle: int, folder: Path, study: Claimant) -> None:
    owner = _owner_of(os.pread(handle, MAX_MARKER_BYTES, 0))
    if owner.get("study") == study.id:
        return
    if any(any((folder / name).glob("*")) for name in _RESULTS) and not _is_recorded(owner, folder, study):
        raise _not_owned_error(folder, owner, study)
    if os.fstat(handle).st_nlink > 1:
        raise InputError(f"{folder / MARKER} is a hard link to another file; remove it, or choose another --dir")
    os.ftruncate(handle, 0)
    os.pwrite(handle, _marker(study), 0)
    os.fsync(handle)


def _claim_remote(remote: RemoteFolder, study: Claimant) -> None:
    owner = _owner_of(remote.read(MARKER, MAX_MARKER_BYTES) or b"")
    if owner.get("study") == study.id:
        return
    if set(_RESULTS) & set(remote.list_folders()) and not _is_recorded(owner, remote.url, study):
        raise _not_owned_error(remote.url, owner, study)
    remote.write(MARKER, _marker(study))


def _owner_of(content: bytes) -> dict[str, str]:
    """Return the content of a marker; an empty dict if it is empty, or torn by a full disk or a lost machine."""
    try:
        found = json.loads(content)
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, RecursionError, AttributeError):
        return {}


def _marker(study: Claimant) -> bytes:
    return json.dumps({"study": study.id, "name": study.name, "storage": study.storage}, indent=2).encode() + b"\n"


def _is_recorded(owner: dict[str, str], folder: Path | str, study: Claimant) -> bool:
    """Return whether a folder without a marker is the one that the study recorded. It may have been moved."""
    recorded = study.facts.get("folder")
    return not owner and recorded is not None and Path(str(recorded)).name == Path(str(folder)).name


def _not_owned_error(folder: Path | str, owner: dict[str, str], study: Claimant) -> InputError:
    if (owner.get("name"), owner.get("storage")) == (study.name, study.storage):
        whose = f"belongs to an earlier study of that name, which {study.storage} no longer holds"
    elif owner:
        whose = f"belongs to another study, {owner.get('name')!r} in {owner.get('storage')}"
    else:
        whose = f"holds the results of a study that is not in {study.storage}"
    remove = f", or remove it: rm -r {folder}" if isinstance(folder, Path) else ", or remove it"
    return InputError(
        f"sweep {study.name!r} cannot use {folder}: it {whose}, and so do the checkpoints in it. "
        f"Choose another folder with --dir{remove}"
    )
