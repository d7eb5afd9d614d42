"""Checkpoints of one trial: written beside, fsynced, renamed, and verified when they are read."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sweeper.core.errors import InputError
from sweeper.core.files import make_folder, remove, remove_unfinished, written_whole
from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.trials import Direction, Report, TrialRecord, leaderboard, pareto_front
from sweeper.worker.manifest import FILES, Manifest, checkpoint_name, fsync, read_manifest, write_manifest

logger = logging.getLogger(__name__)

_NAME = re.compile(r"attempt-([0-9]{3,})-step-([0-9]{8,})")
_FOREIGN_PREFIX = "foreign-"

MAX_REASON_CHARS = 300
"""Characters that are kept of why a checkpoint is damaged: a name in its manifest may be of any length."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete and verified checkpoint: the folder with its files, its report's number, and that report's metrics."""

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

    MODEL = "model"
    """Subfolder of a trial's folder with the model that the trial has saved, as a checkpoint of its own."""

    PREDICTIONS = "predictions"
    """Subfolder with what that model predicted for the test set, as a checkpoint too."""

    def __init__(
        self, folder: Path, remote: RemoteFolder | None = None, *, origin: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._remote = remote
        self._origin = dict(origin or {})
        self._remote_path = f"trials/{folder.name}"
        self._keep = self.KEEP
        self.damaged: list[str] = []
        """One sentence for each checkpoint that `latest` found damaged."""
        self.foreign: list[str] = []
        """One sentence for each checkpoint that `latest` found to belong to another study or trial."""

    @property
    def models(self) -> CheckpointStore:
        """Store of the model that the trial has saved: verified, copied and deleted as its checkpoints are."""
        return self._single(self.MODEL)

    @property
    def predictions(self) -> CheckpointStore:
        """Store of what the trial's model predicted for the test set."""
        return self._single(self.PREDICTIONS)

    def _single(self, name: str) -> CheckpointStore:
        """Return the store of one thing in a subfolder, of which only the newest is kept."""
        store = CheckpointStore(self.folder / name, self._remote, origin=self._origin)
        store._remote_path = f"{self._remote_path}/{name}"
        store._keep = 1
        return store

    def save(self, step: int, metrics: Mapping[str, float], write: Callable[[Path], None], *, attempt: int = 1) -> Path:
        """Let `write` fill a folder, then make it the checkpoint of `step` in one rename.

        A reader sees a complete checkpoint or none. The older ones are deleted only after this one is on disk.

        Raises:
            OSError: the disk fails, a link has the name of the trial's folder, or `write` made a link or a pipe.
            ValueError: `write` made too many files, or one whose name is not UTF-8.
        """
        make_folder(self.folder)  # without parents: a sweep's folder that was removed must not reappear
        target = self.folder / checkpoint_name(step, attempt)
        # A target that exists is of an earlier attempt at this step; its bits are the same, or damaged.
        with written_whole(target) as beside:
            (beside / FILES).mkdir(parents=True)
            write(beside / FILES)
            # All is on disk before the rename, else a power cut could leave a whole name with empty files.
            write_manifest(beside, step, attempt, metrics, self._origin)
        fsync(self.folder)
        if self._remote is not None:
            known = self._remote_names(self._remote)
            if target.name in known:  # a model that is saved again may have fewer files
                self._remote.remove(f"{self._remote_path}/{target.name}")
            self._remote.put(target, f"{self._remote_path}/{target.name}")
            for name in self._older_than(target.name, _newest_first({*known, target.name})):
                self._remote.remove(f"{self._remote_path}/{name}")
        for name in self._older_than(target.name, self._local_names()):
            remove(self.folder / name)
        remove_unfinished(self.folder)
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
        for folder in (self.folder / name for name in self._local_names()):
            try:
                manifest, files = read_manifest(folder)
            except ValueError as error:
                self.damaged.append(f"Checkpoint {folder.name} is damaged ({str(error)[:MAX_REASON_CHARS]}).")
                logger.warning("Checkpoint %s is damaged (%s)", folder, str(error)[:MAX_REASON_CHARS])
                continue
            if reason := self._foreign_reason(manifest, recorded):
                self.foreign.append(
                    f"Checkpoint {folder.name} belongs to another study or trial and is ignored ({reason})."
                )
                self._rename_foreign(folder)
                continue
            return Checkpoint(files, manifest.step, manifest.metrics)
        return None

    def has_any(self) -> bool:
        """Return whether there is a checkpoint or a model, here or in the remote folder; it may be damaged."""
        if self._local_names() or self.models._local_names():
            return True
        return self._remote is not None and any(
            self._remote_names(self._remote) or self.models._remote_names(self._remote)
        )

    def findings(self) -> str:
        """Return one sentence for each checkpoint that `latest` skipped; an empty text if it skipped none."""
        return " ".join([*self.damaged, *self.foreign])

    def clear(self) -> None:
        """Delete every checkpoint of the trial, and its model. Other files of its folder, such as a traceback, stay."""
        if self._remote is not None:
            self._remote.remove(self._remote_path)
        if self.folder.is_symlink():
            return
        for name in (*self._local_names(), self.MODEL, self.PREDICTIONS):
            remove(self.folder / name)
        remove_unfinished(self.folder)
        with suppress(OSError):  # the folder does not exist or is not empty
            self.folder.rmdir()

    def _foreign_reason(self, manifest: Manifest, recorded: int | None) -> str | None:
        """Return why a checkpoint does not belong to this trial, None if it does."""
        for key, expected in self._origin.items():
            found = getattr(manifest, key)
            if found not in (None, expected):
                return f"its {key} is {found[:8]}, not {expected[:8]}"
        if recorded is not None and manifest.step > recorded + 1:
            return f"it is of report {manifest.step}, but only {recorded} are recorded"
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
                try:
                    remote.get(f"{self._remote_path}/{name}", self.folder / name)
                except InputError as error:
                    self.damaged.append(f"Checkpoint {name} is damaged ({error}).")

    def _remote_names(self, remote: RemoteFolder) -> list[str]:
        return _newest_first(remote.list_folders(self._remote_path))

    def _local_names(self) -> list[str]:
        if self.folder.is_symlink():
            return []
        return _newest_first(path.name for path in self.folder.glob("attempt-*"))

    def _older_than(self, name: str, names: list[str]) -> list[str]:
        """Return which of the checkpoints to delete when this one is saved. Later ones are of another attempt."""
        return [other for other in names if _age(other) <= _age(name)][self._keep :]


def _newest_first(names: Iterable[str]) -> list[str]:
    """Return the names of checkpoints, the newest attempt's first: a lost attempt that still writes comes later."""
    return sorted(filter(_NAME.fullmatch, names), key=_age, reverse=True)


def _age(name: str) -> tuple[int, ...]:
    """Return the attempt and the step of a checkpoint, by its name."""
    return tuple(map(int, name.split("-")[1::2]))


MAX_PAUSED = 200
"""Paused trials whose checkpoints are kept, those that have come furthest. Another trains again from its beginning."""


class CheckpointCleaner:
    """Listener of a study that deletes checkpoints, except those of running and paused trials and of the best ones.

    The best trials are those that lead the leaderboard, also among equals; of several goals, also those on the front.
    Of the fresh runs that confirm them, the first of each is kept: its model stands in for that of a trial whose own
    was deleted before.

    Args:
        checkpoints: returns the store of a trial.
        kept: how many of the best trials to keep: those that are confirmed later, each of which may win.
        is_slow: whether deleting is slow, as in a remote folder; a thread deletes then, so that no trial waits.
    """

    def __init__(
        self,
        checkpoints: Callable[[int], CheckpointStore],
        direction: Direction,
        *,
        is_slow: bool = False,
        kept: int = 1,
    ) -> None:
        self._checkpoints = checkpoints
        self._direction: Direction = direction
        self._executor = ThreadPoolExecutor(1, "sweeper-cleaner") if is_slow else None
        self._kept = kept
        self._best: list[TrialRecord] = []
        self._paused: dict[int, TrialRecord] = {}

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Delete the checkpoints of a trial that ended, or those of a trial that was among the best before it."""
        self._paused.pop(row.number, None)
        if row.state == "RUNNING" or row.is_added:
            return
        if row.is_paused:
            self._paused[row.number] = row
            if len(self._paused) > MAX_PAUSED:
                self._clear(leaderboard(self._paused.values(), self._direction)[-1])
            return
        if row.confirms is not None:
            if row.confirms.run > 1:
                self._clear(row)
            return
        candidates = leaderboard([*(other for other in self._best if other.number != row.number), row], self._direction)
        self._best = [each for each in candidates if each.state == "COMPLETE"][: self._kept]
        if any(each.others for each in candidates):
            front = pareto_front(candidates, self._direction)
            self._best += [each for each in front if each not in self._best]
        for loser in candidates:
            if loser not in self._best:
                self._clear(loser)

    def _clear(self, row: TrialRecord) -> None:
        self._paused.pop(row.number, None)
        clear = self._checkpoints(row.number).clear
        clear() if self._executor is None else self._executor.submit(clear)

    def on_phase(self, message: str) -> None:
        """Do nothing: phases have no checkpoints."""
