"""Checkpoints of one trial: written beside, fsynced, renamed, checked by sha256 when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.trials import Direction, Report, TrialRecord, best_trial

logger = logging.getLogger(__name__)


_MANIFEST = "manifest.json"


_BESIDE = ".writing-"


_ATTEMPT = "attempt-"


_FOREIGN = "foreign-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole and verified checkpoint: its folder, the report it belongs to, and that report's metrics."""

    path: Path
    step: int
    metrics: dict[str, float]


class CheckpointStore:
    """The checkpoints of one trial in one folder; the newest two are kept, and copied to the remote one if there is.

    Args:
        origin: what each checkpoint must come from: the study's id, a digest of the trial's parameters. One that names
            another origin is never used. One that names none was written by sweeper 0.1.
    """

    KEEP = 2

    def __init__(
        self, folder: Path, remote: RemoteFolder | None = None, *, origin: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._remote = remote
        self._origin = dict(origin or {})
        self._name = f"trials/{folder.name}"
        self.damaged: list[str] = []
        """Checkpoints that `latest` found damaged, and how."""
        self.foreign: list[str] = []
        """Checkpoints that `latest` found to belong to another study or trial, and why."""

    def save(self, step: int, metrics: Mapping[str, float], write: Callable[[Path], None], *, attempt: int = 1) -> Path:
        """Let `write` fill a folder, then make it the checkpoint of `step` in one rename.

        A reader sees the whole checkpoint or none of it; the one before goes only after this one is on disk.
        """
        self.folder.mkdir(exist_ok=True)  # without parents: a folder that was removed is not made again
        beside = self.folder / f"{_BESIDE}{uuid4().hex[:8]}"
        beside.mkdir()
        try:
            write(beside)
            files = {path.name: _sha256(path) for path in sorted(beside.iterdir())}
            about = {**self._origin, "step": step, "attempt": attempt, "metrics": dict(metrics)}
            manifest = {**about, "sha256": files}
            (beside / _MANIFEST).write_text(json.dumps(manifest))
            for path in beside.iterdir():
                _fsync(path)
            _fsync(beside)
            target = self.folder / f"{_ATTEMPT}{attempt:03d}-step-{step:08d}"
            if target.exists():  # an earlier attempt wrote this step; the bits are the same or damaged
                shutil.rmtree(target)
            beside.rename(target)
            _fsync(self.folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        if self._remote is not None:
            self._remote.put(target, f"{self._name}/{target.name}")
            for old_name in self._remote_names(self._remote)[self.KEEP :]:
                self._remote.remove(f"{self._name}/{old_name}")
        torn = self.folder.glob(f"{_BESIDE}*")  # of processes that were killed while they wrote
        for old in (*self._folders()[self.KEEP :], *torn):
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self, recorded: int | None = None) -> Checkpoint | None:
        """Return the newest checkpoint that is whole and belongs to this trial of this study.

        A damaged one is skipped and named in `damaged`. One of another study or trial is renamed, so that it is out of
        the way, and named in `foreign`.

        Args:
            recorded: the reports of the trial that are on record. A worker waits at each report until it is recorded,
                so a checkpoint of a later one than the next comes from another history of the study, such as the one
                before its database was replaced by a backup.
        """
        self.damaged, self.foreign = [], []
        if self._remote is not None:
            self._fetch(self._remote)
        for folder in self._folders():
            try:
                manifest = json.loads((folder / _MANIFEST).read_text())
                damaged = [name for name, digest in manifest["sha256"].items() if _sha256(folder / name) != digest]
            except (OSError, ValueError, KeyError) as error:
                damaged = [f"{_MANIFEST}: {error}"]
            if not damaged and (reason := self._strangeness(manifest, recorded)):
                self.foreign.append(f"{folder.name} ({reason})")
                self._rename(folder)
                continue
            if not damaged:
                return Checkpoint(folder, int(manifest["step"]), dict(manifest["metrics"]))
            self.damaged.append(f"{folder.name} ({', '.join(damaged)})")
            logger.warning("checkpoint %s is damaged (%s)", folder, ", ".join(damaged))
        return None

    def findings(self) -> str:
        """Return what `latest` passed over, for the user; an empty text if nothing."""
        found = [
            ("damaged checkpoints", self.damaged),
            ("checkpoints of another study or trial, ignored", self.foreign),
        ]
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in found if names)

    def _strangeness(self, manifest: Mapping[str, Any], recorded: int | None) -> str | None:
        """Return why a checkpoint does not belong to this trial, None if it does."""
        for key, expected in self._origin.items():
            if manifest.get(key, expected) != expected:
                return f"{key} {str(manifest[key])[:8]}, not {expected[:8]}"
        if recorded is not None and int(manifest["step"]) > recorded + 1:
            return f"of report {manifest['step']}, and {recorded} are on record"
        return None

    def _rename(self, folder: Path) -> None:
        """Put a foreign checkpoint out of the way, where `save` does not take it for one of the newest."""
        target = folder.with_name(f"{_FOREIGN}{folder.name}-{uuid4().hex[:8]}")
        folder.rename(target)
        if self._remote is not None:
            self._remote.put(target, f"{self._name}/{target.name}")
            self._remote.remove(f"{self._name}/{folder.name}")

    def _remote_names(self, remote: RemoteFolder) -> list[str]:
        return sorted((name for name in remote.list_folders(self._name) if name.startswith(_ATTEMPT)), reverse=True)

    def _fetch(self, remote: RemoteFolder) -> None:
        """Bring those here that an attempt on another node wrote."""
        for name in self._remote_names(remote):
            if not (self.folder / name).exists():
                remote.get(f"{self._name}/{name}", self.folder / name)

    def clear(self) -> None:
        """Remove every checkpoint of the trial; what else lies there, a traceback, stays."""
        if self._remote is not None:
            self._remote.remove(self._name)
        for old in (*self._folders(), *self.folder.glob(f"{_BESIDE}*")):
            shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):  # it is not there, or not empty
            self.folder.rmdir()

    def _folders(self) -> list[Path]:
        """The newest attempt's first: one that was given up, and still writes somewhere, ranks below it."""
        return sorted(self.folder.glob(f"{_ATTEMPT}*"), reverse=True)


class CheckpointCleaner:
    """Keeps the checkpoints of running trials and of the best one, and deletes those of the others.

    A listener of the study. The best trial is the one that leads the leaderboard, also among equals.

    Args:
        checkpoints: returns the store of a trial.
        is_slow: whether deleting takes time that the running trials do not have, as on another machine.
    """

    def __init__(
        self, checkpoints: Callable[[int], CheckpointStore], direction: Direction, *, is_slow: bool = False
    ) -> None:
        self._checkpoints = checkpoints
        self._direction: Direction = direction
        self._helper = ThreadPoolExecutor(1, "sweeper-cleaner") if is_slow else None
        self._best: TrialRecord | None = None

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Delete the checkpoints of a trial that ended, or of the best one before it."""
        if row.state == "RUNNING":
            return
        candidates = [row] if self._best is None else [self._best, row]
        best = best_trial(candidates, self._direction)
        for loser in candidates:
            if loser is not best:
                clear = self._checkpoints(loser.number).clear
                clear() if self._helper is None else self._helper.submit(clear)
        self._best = best

    def on_phase(self, message: str) -> None:
        """Do nothing: phases have no checkpoints."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
