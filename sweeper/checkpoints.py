"""Checkpoints of one trial: written beside, fsynced, renamed, checked by sha256 when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sweeper.remote import RemoteFolder

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_BESIDE = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole and verified checkpoint: its folder, the report it belongs to, and that report's metrics."""

    path: Path
    step: int
    metrics: dict[str, float]


class CheckpointStore:
    """The checkpoints of one trial in one folder; the newest two are kept, and copied to the remote one if there is."""

    KEEP = 2

    def __init__(self, folder: Path, remote: RemoteFolder | None = None) -> None:
        self.folder = folder
        self._remote = remote
        self._name = f"trials/{folder.name}"
        self.damaged: list[str] = []
        """What `latest` found damaged, and how."""

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
            manifest = {"step": step, "attempt": attempt, "metrics": dict(metrics), "sha256": files}
            (beside / _MANIFEST).write_text(json.dumps(manifest))
            for path in beside.iterdir():
                _fsync(path)
            _fsync(beside)
            target = self.folder / f"attempt-{attempt:03d}-step-{step:08d}"
            if target.exists():  # an earlier attempt wrote this step; the bits are the same or damaged
                shutil.rmtree(target)
            beside.rename(target)
            _fsync(self.folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        if self._remote is not None:
            self._remote.put(target, f"{self._name}/{target.name}")
            for old_name in sorted(self._remote.names(self._name), reverse=True)[self.KEEP :]:
                self._remote.remove(f"{self._name}/{old_name}")
        torn = self.folder.glob(f"{_BESIDE}*")  # of processes that were killed while they wrote
        for old in (*self._folders()[self.KEEP :], *torn):
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose files are what its manifest says; a damaged one is skipped and named."""
        self.damaged = []
        if self._remote is not None:
            self._fetch(self._remote)
        for folder in self._folders():
            try:
                manifest = json.loads((folder / _MANIFEST).read_text())
                damaged = [name for name, digest in manifest["sha256"].items() if _sha256(folder / name) != digest]
            except (OSError, ValueError, KeyError) as error:
                damaged = [f"{_MANIFEST}: {error}"]
            if not damaged:
                return Checkpoint(folder, int(manifest["step"]), dict(manifest["metrics"]))
            self.damaged.append(f"{folder.name} ({', '.join(damaged)})")
            logger.warning("checkpoint %s is damaged (%s)", folder, ", ".join(damaged))
        return None

    def _fetch(self, remote: RemoteFolder) -> None:
        """Bring those here that an attempt on another node wrote."""
        for name in sorted(remote.names(self._name), reverse=True)[: self.KEEP]:
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
        return sorted(self.folder.glob("attempt-*"), reverse=True)


def space_taken(folder: Path) -> int:
    """The bytes that all checkpoints of a sweep take in its folder."""
    return sum(path.stat().st_size for path in folder.glob("trials/*/attempt-*/*"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
