"""What a worker is handed and what it answers: tasks, events, and what it must know of the sweep."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.trials import Failure, Report
from sweeper.spec import Resources, Share, Sweep
from sweeper.worker.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from sweeper.datasets.base import Arrays


@dataclass(frozen=True)
class Task:
    """One thing for a worker to do: train a trial, or evaluate the best one on the test set."""

    number: int
    params: dict[str, Any]
    attempt: int = 1
    evaluate: bool = False
    whole_gpu: bool = False
    recorded: int | None = None
    """The reports of the trial that are on record; None: not known."""

    def share(self, resources: Resources) -> Share:
        """What it has to itself; whole GPUs, where it ran out of its share of one.

        Raises:
            ValueError: what is declared for such parameters cannot be given.
        """
        share = resources.of(self.params)
        return share.model_copy(update={"gpus": float(math.ceil(share.gpus))}) if self.whole_gpu else share


@dataclass(frozen=True)
class Event:
    """What a worker has to say: a report, that the trial ended, that it failed, or what the evaluation found.

    A notice is for the user: the trial waits for something, or something is not as it should be.
    """

    report: Report | None = None
    notice: str | None = None
    failure: Failure | None = None
    evaluation: dict[str, float] | None = None
    node: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class Job:
    """All that a worker must know of a sweep; its `data` lies in memory that the workers of a node share."""

    sweep: Sweep
    folder: Path
    data: Arrays | None = None
    remote: str | None = None
    """Where the nodes share no disk: the URL of the folder, of which `folder` holds what this node needs."""
    study: str = ""
    """The id of the study; checkpoints of another one are not used."""

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    @property
    def champion_folder(self) -> Path:
        return self.folder / "champion"

    @property
    def remote_folder(self) -> RemoteFolder | None:
        return None if self.remote is None else RemoteFolder(self.remote)

    def checkpoints(self, number: int, params: Mapping[str, Any] | None = None) -> CheckpointStore:
        """Return the checkpoints of a trial; its parameters are needed to read or write one."""
        origin = {"study": self.study, "params": _digest(params)} if self.study and params is not None else None
        return CheckpointStore(self.trial_folder(number), self.remote_folder, origin=origin)


def _digest(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()


def trial_seed(sweep_seed: int, number: int) -> int:
    """A trial's seed: a function of the sweep's seed and the trial's number only, whatever runs it and how often."""
    import numpy as np

    return int(np.random.SeedSequence([sweep_seed, number]).generate_state(1)[0])
