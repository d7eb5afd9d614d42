"""Deletion of a sweep: its study and sweeper's rows, in steps of which each can be repeated."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy as sa

from sweeper.core.errors import StorageError, SweepBusyError
from sweeper.core.files import read_small, remove
from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.sweep_folder import DECLARED, MARKER, MAX_MARKER_BYTES, SweepFolder
from sweeper.study.database import open_database
from sweeper.study.open import find_study
from sweeper.study.storage.outage import storage_errors
from sweeper.study.storage.tables import delete_rows
from sweeper.study.view import DELETING, FACTS, StudyView


@contextmanager
def open_to_delete(name: str, storage: str) -> Iterator[Deletion]:
    """Hold the lease on a sweep for the block, to delete it; one that was deleted in part is opened too.

    Raises:
        SweepBusyError: another process owns the sweep.
        InputError: the database has no such sweep.
        StorageError: the database cannot be used.
    """
    with open_database(storage, must_exist=True) as database, storage_errors(database):
        find_study(name, database)
        with database.lease(name) as lease:
            yield Deletion(find_study(name, database), partial(database.transaction, lease), database.optuna)


@dataclass(frozen=True)
class Deletion:
    """A sweep that is being deleted by the owner of its lease.

    The study is marked first and deleted last. So whatever is killed in between, the sweep is listed as deleted in
    part, no command runs it, and the same deletion ends it.
    """

    study: StudyView
    transaction: Callable[[], AbstractContextManager[sa.Connection]]
    storage: optuna.storages.RDBStorage

    def begin(self) -> None:
        """Mark the study: no command runs the sweep, or writes it to MLflow, any more."""
        with self.transaction():
            study = optuna.load_study(study_name=self.study.name, storage=self.storage)
            study.set_user_attr(FACTS, {**self.study.facts, DELETING: True})

    def delete_folder(self) -> Path | str | None:
        """Delete the folder of the sweep; return it, None if there is none that belongs to this study.

        Raises:
            SweepBusyError: another process runs a sweep in it, with a copy of the study's database.
            StorageError: it cannot be removed.
        """
        place = SweepFolder.of(self.study.folder, self.study.name)
        if place.url is not None:
            remove(place.path)  # this node's copies
            return place.url if _delete_remote(place.url, self.study) else None
        deleted = _delete_local(place.path, self.study)
        beside_database = Path("sweeps", self.study.name).absolute()  # the project was moved since
        return place.path if deleted else beside_database if _delete_local(beside_database, self.study) else None

    def finish(self) -> None:
        """Delete the study, and what sweeper's tables hold of it, in one transaction."""
        with self.transaction() as connection:
            optuna.delete_study(study_name=self.study.name, storage=self.storage)
            delete_rows(self.study.name, connection)


_PARTS = ("trials", "champion", "code", "ray", DECLARED)
"""What a sweep writes into its folder, beside the marker."""


def _delete_local(folder: Path, study: StudyView) -> bool:
    """Delete a folder if it belongs to this study; return whether it did.

    Of a folder that is not `sweeps/NAME`, only what sweeps write is deleted: it may hold other files. The marker comes
    last, because without it the rest would belong to nobody. Of a link, only the link is deleted.
    """
    if not _is_marked(folder, study):
        return False
    parts = [folder / name for name in _PARTS]
    if folder.is_symlink():
        parts = [folder]
    elif folder.parts[-2:] == ("sweeps", study.name):
        parts = [path for path in folder.iterdir() if path.name != MARKER]
    for path in parts:
        remove(path)
    if left := [path for path in parts if os.path.lexists(path)]:
        raise StorageError(f"{left[0]} cannot be deleted; check who may write to it, then run the same command again")
    remove(folder / MARKER)
    with suppress(OSError):  # it holds other files
        folder.rmdir()
    return True


def _is_marked(folder: Path, study: StudyView) -> bool:
    """Return whether the marker of a folder names this study.

    Raises:
        SweepBusyError: a process holds the lock of the folder.
    """
    try:
        owner = json.loads(read_small(folder / MARKER, MAX_MARKER_BYTES))
    except (OSError, ValueError):
        return False
    if not isinstance(owner, dict) or study.id is None or owner.get("study") != study.id:
        return False
    handle = os.open(folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SweepBusyError(
            f"another process runs a sweep in {folder}, with a copy of the study's database. Wait for it to end"
        ) from error
    except OSError:
        pass  # some network file systems have no locks
    finally:
        os.close(handle)
    return True


def _delete_remote(url: str, study: StudyView) -> bool:
    """Delete a folder at a URL if it belongs to this study; of one that has another name, only what sweeps write."""
    owner: object = None
    with suppress(ValueError):
        owner = json.loads(RemoteFolder(url).read(MARKER, MAX_MARKER_BYTES) or b"null")
    if not isinstance(owner, dict) or owner.get("study") != study.id:
        return False
    parent, _, name = url.rstrip("/").rpartition("/")
    try:
        for part in ("trials", "champion"):
            RemoteFolder(url).remove(part)
        if name == study.name:
            RemoteFolder(parent).remove(name)
    except OSError as error:
        raise StorageError(f"{url} cannot be deleted ({error}). Run the same command again") from error
    return True
