"""Where MLflow keeps the files of a local store: beside its database, also after both were moved or copied.

MLflow stores absolute addresses. When a project is moved, its store refers to the old place: models cannot be loaded,
and new files would be written there. MLflow 3.17 has no public way to change an address, so this module, alone, writes
to its tables. `test_artifact_root.py` fails if they change.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sweeper.core.errors import TrackingError

ARTIFACTS = "mlartifacts"
"""Folder for the files of MLflow beside a local database."""

LOCK_TIMEOUT_S = 10.0

_ADDRESSES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns with addresses of files, besides that of the experiments."""


@dataclass(frozen=True)
class MisplacedRoot:
    """A local folder for files that experiments refer to, and that is not beside their database."""

    location: str
    experiments: tuple[str, ...]
    database: Path

    @property
    def path(self) -> Path:
        """Return the folder."""
        return _local_path(self.location) or Path(self.location)

    @property
    def target(self) -> Path:
        """Return the folder beside the database."""
        return self.database.parent / ARTIFACTS

    @property
    def can_be_corrected(self) -> bool:
        """Return whether the store was evidently moved or copied: the folder is gone, or belongs to another store."""
        has_database = os.path.exists(self.path.parent / self.database.name)
        return self.path.name == ARTIFACTS and (has_database or not _is_there(self.path))

    def __str__(self) -> str:
        names = ", ".join(repr(name) for name in self.experiments[:3]) + " ..." * (len(self.experiments) > 3)
        gone = "" if _is_there(self.path) else ", which does not exist"
        return f"MLflow keeps the files of experiment {names} in {self.path}{gone}, not beside its database"

    @property
    def advice(self) -> str:
        """Return what to do if it is not corrected."""
        return (
            "If the project was moved, rename that folder, and the next sweep corrects the addresses. If the files "
            "are to be there, give the folder another name than mlartifacts, or choose another tracking.experiment"
            if _is_there(self.path)
            else "Bring the folder back, or choose another tracking.experiment: its files are kept beside the database"
        )


def misplaced_roots(database: Path) -> list[MisplacedRoot]:
    """Return the local folders for files that are not beside their SQLite database. Nothing is changed."""
    found: dict[str, list[str]] = {}
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_S)) as connection:
        # MLflow itself creates the experiment 0, with a folder in the working directory; mostly nothing is in it.
        rows = connection.execute(
            "SELECT artifact_location, name FROM experiments AS e WHERE lifecycle_stage = 'active' AND "
            "(experiment_id > 0 OR EXISTS (SELECT 1 FROM runs WHERE runs.experiment_id = e.experiment_id)) "
            "ORDER BY experiment_id"
        )
        for location, name in rows:
            path = _local_path(location or "")
            if path is None or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(database.parent)):
                continue
            if path.name == ARTIFACTS or not _is_there(path):
                found.setdefault(location, []).append(name)
    return [MisplacedRoot(location, tuple(names), database) for location, names in found.items()]


def correct_root(database: Path, location: str) -> str | None:
    """Make MLflow keep the files of a moved or copied store beside its database; return a note for the user.

    The addresses of runs are corrected, and those of models whose files are there, or at neither place.

    Returns:
        None if the location is beside the database, or is not local.

    Raises:
        TrackingError: the database cannot be written to.
    """
    try:
        root = next((root for root in misplaced_roots(database) if root.location == location), None)
        if root is None:
            return None
        if not root.can_be_corrected:
            return f"{root}. {root.advice}."
        with closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, column, row, address in _corrections(connection, root):
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (address, row))
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
                (root.target.as_uri(), location),
            )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise TrackingError(f"the addresses in {database} cannot be corrected ({error})") from error
    return (
        f"{root}, as after moving or copying a project. The addresses are corrected: from now on files are kept in "
        f"{root.target}."
    )


def _corrections(connection: sqlite3.Connection, root: MisplacedRoot) -> Iterator[tuple[str, str, int, str]]:
    """Yield the table, column and row of each address to correct, and the new address."""
    start = f"{root.location}/"
    for table, column in _ADDRESSES:
        rows = connection.execute(
            f"SELECT rowid, {column} FROM {table} WHERE substr({column}, 1, ?) = ?", (len(start), start)
        ).fetchall()
        for row, before in rows:
            now = f"{root.target.as_uri()}/{before[len(start) :]}"
            # A run gets more files when its sweep is resumed: they must not go to the old place.
            if table == "runs" or _exists(now) or not _exists(before):
                yield table, column, row, now


def _exists(address: str) -> bool:
    path = _local_path(address)
    return path is not None and _is_there(path)


def _is_there(path: Path) -> bool:
    """Return whether a path exists; one that this user may not look at counts as existing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _local_path(location: str) -> Path | None:
    """Return the absolute path that an address names; None if it is relative, or not of this machine."""
    parts = urlsplit(location)
    path = Path(unquote(parts.path)) if parts.scheme == "file" else Path(location)
    return path if parts.scheme in ("", "file") and path.is_absolute() else None
