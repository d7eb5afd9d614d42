"""Checkpoints of one trial: written beside, fsynced, renamed, and verified by sha256 when they are read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sweeper.core.files import written_whole
from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.trials import Direction, Report, TrialRecord, best_trial

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_ATTEMPT_PREFIX = "attempt-"
_FOREIGN_PREFIX = "foreign-"

_UNFINISHED = (".writing-*", ".replaced-*")
"""Names that `written_whole` gives folders; one that remains is of a process that was killed while it saved."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete and verified checkpoint: its folder, the number of its report, and that report's metrics."""

    path: Path
    step: int
    metrics: dict[str, float]


class CheckpointStore:
    """Checkpoints of one trial in one folder. The newest two are kept, and copied to the remote folder if there is one.

    Args:
        origin: the study's id and a digest of the trial's parameters, which are written into each checkpoint. A
            checkpoint with another origin is never used. One without an origin was written by sweeper 0.1 and is used.
    """

    KEEP = 2

    def __init__(
        self, folder: Path, remote: RemoteFolder | None = None, *, origin: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._remote = remote
        self._origin = dict(origin or {})
        self._remote_path = f"trials/{folder.name}"
        self.damaged: list[str] = []
        """One sentence for each checkpoint that `latest` found damaged."""
        self.foreign: list[str] = []
        """One sentence for each checkpoint that `latest` found to belong to another study or trial."""

    def save(self, step: int, metrics: Mapping[str, float], write: Callable[[Path], None], *, attempt: int = 1) -> Path:
        """Let `write` fill a folder, then make it the checkpoint of `step` in one rename.

        A reader sees a complete checkpoint or none. The older ones are deleted only after this one is on disk.
        """
        self.folder.mkdir(exist_ok=True)  # without parents: a sweep's folder that was removed must not reappear
        target = self.folder / f"{_ATTEMPT_PREFIX}{attempt:03d}-step-{step:08d}"
        # A target that exists is of an earlier attempt at this step; its bits are the same, or damaged.
        with written_whole(target) as beside:
            beside.mkdir()
            write(beside)
            digests = {path.name: _sha256(path) for path in sorted(beside.iterdir())}
            about = {**self._origin, "step": step, "attempt": attempt, "metrics": dict(metrics)}
            (beside / _MANIFEST).write_text(json.dumps({**about, "sha256": digests}))
            # The content must be on disk before the rename, else a power cut could leave a whole name with empty files.
            for path in (*beside.iterdir(), beside):
                _fsync(path)
        _fsync(self.folder)
        if self._remote is not None:
            self._remote.put(target, f"{self._remote_path}/{target.name}")
            for old_name in self._remote_names(self._remote)[self.KEEP :]:
                self._remote.remove(f"{self._remote_path}/{old_name}")
        for old in (*self._local_folders()[self.KEEP :], *self._unfinished_folders()):
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self, recorded: int | None = None) -> Checkpoint | None:
        """Return the newest checkpoint that is complete and belongs to this trial of this study.

        A damaged checkpoint is skipped and listed in `damaged`. A checkpoint of another study or trial is renamed, so
        that `save` does not count it among the newest, and listed in `foreign`.

        Args:
            recorded: number of the trial's reports that are recorded. A worker waits at each report until it is
                recorded, so a checkpoint more than one report ahead comes from another history of the study, such as
                the one before its database was replaced by a backup.
        """
        self.damaged, self.foreign = [], []
        if self._remote is not None:
            self._download_missing(self._remote)
        for folder in self._local_folders():
            try:
                manifest = _read_manifest(folder)
            except ValueError as error:
                self.damaged.append(f"Checkpoint {folder.name} is damaged ({error}).")
                logger.warning("Checkpoint %s is damaged (%s)", folder, error)
                continue
            if reason := self._foreign_reason(manifest, recorded):
                self.foreign.append(
                    f"Checkpoint {folder.name} belongs to another study or trial and is ignored ({reason})."
                )
                self._rename_foreign(folder)
                continue
            return Checkpoint(folder, int(manifest["step"]), dict(manifest["metrics"]))
        return None

    def findings(self) -> str:
        """Return one sentence for each checkpoint that `latest` skipped; an empty text if it skipped none."""
        return " ".join([*self.damaged, *self.foreign])

    def clear(self) -> None:
        """Delete every checkpoint of the trial. Other files of its folder, such as a traceback, stay."""
        if self._remote is not None:
            self._remote.remove(self._remote_path)
        for old in (*self._local_folders(), *self._unfinished_folders()):
            shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):  # the folder does not exist or is not empty
            self.folder.rmdir()

    def _foreign_reason(self, manifest: Mapping[str, Any], recorded: int | None) -> str | None:
        """Return why a checkpoint does not belong to this trial, None if it does."""
        for key, expected in self._origin.items():
            if manifest.get(key, expected) != expected:
                return f"its {key} is {str(manifest[key])[:8]}, not {expected[:8]}"
        if recorded is not None and int(manifest["step"]) > recorded + 1:
            return f"it is of report {manifest['step']}, but only {recorded} are recorded"
        return None

    def _rename_foreign(self, folder: Path) -> None:
        """Rename a foreign checkpoint, so that neither `save` nor `latest` finds it again."""
        target = folder.with_name(f"{_FOREIGN_PREFIX}{folder.name}-{uuid4().hex[:8]}")
        folder.rename(target)
        if self._remote is not None:
            self._remote.put(target, f"{self._remote_path}/{target.name}")
            self._remote.remove(f"{self._remote_path}/{folder.name}")

    def _download_missing(self, remote: RemoteFolder) -> None:
        """Download the checkpoints that an attempt on another node wrote."""
        for name in self._remote_names(remote):
            if not (self.folder / name).exists():
                remote.get(f"{self._remote_path}/{name}", self.folder / name)

    def _remote_names(self, remote: RemoteFolder) -> list[str]:
        names = remote.list_folders(self._remote_path)
        return sorted((name for name in names if name.startswith(_ATTEMPT_PREFIX)), reverse=True)

    def _local_folders(self) -> list[Path]:
        """Return the checkpoints, the newest attempt's first: a lost attempt that still writes must not win by step."""
        return sorted(self.folder.glob(f"{_ATTEMPT_PREFIX}*"), reverse=True)

    def _unfinished_folders(self) -> Iterator[Path]:
        for pattern in _UNFINISHED:
            yield from self.folder.glob(pattern)


class CheckpointCleaner:
    """Listener of a study that deletes checkpoints, except those of running trials and of the best one.

    The best trial is the one that leads the leaderboard, also among equals.

    Args:
        checkpoints: returns the store of a trial.
        is_slow: whether deleting is slow, as in a remote folder; a thread deletes then, so that no trial waits.
    """

    def __init__(
        self, checkpoints: Callable[[int], CheckpointStore], direction: Direction, *, is_slow: bool = False
    ) -> None:
        self._checkpoints = checkpoints
        self._direction: Direction = direction
        self._executor = ThreadPoolExecutor(1, "sweeper-cleaner") if is_slow else None
        self._best: TrialRecord | None = None

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Delete the checkpoints of a trial that ended, or those of the trial that was best before it."""
        if row.state == "RUNNING" or row.is_added:
            return
        candidates = [row] if self._best is None else [self._best, row]
        best = best_trial(candidates, self._direction)
        for loser in candidates:
            if loser is not best:
                clear = self._checkpoints(loser.number).clear
                clear() if self._executor is None else self._executor.submit(clear)
        self._best = best

    def on_phase(self, message: str) -> None:
        """Do nothing: phases have no checkpoints."""


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and compare every file with its digest.

    Raises:
        ValueError: the checkpoint is damaged; the message says how.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        wrong = [name for name, digest in manifest["sha256"].items() if _sha256(folder / name) != digest]
    except OSError as error:
        raise ValueError(str(error)) from error
    except (ValueError, KeyError) as error:
        raise ValueError(f"{_MANIFEST}: {error}") from error
    if wrong:
        raise ValueError(f"wrong sha256: {', '.join(wrong)}")
    return dict(manifest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
