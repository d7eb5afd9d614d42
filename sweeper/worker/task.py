"""What a worker is handed and what it answers: tasks, events, and what it must know of the sweep."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Failure, Report
from sweeper.spec import Resources, Sweep, TrialResources
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

    def trial_resources(self, resources: Resources) -> TrialResources:
        """What it has to itself; whole GPUs, where it ran out of its share of one.

        Raises:
            ValueError: what is declared for such parameters cannot be given.
        """
        share = resources.for_trial(self.params)
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
class WorkerContext:
    """What a worker must know of a sweep; the workers of a node share the memory of its `data`."""

    sweep: Sweep
    """The sweep with the dataset that is really used, which may be the declared one's fallback."""
    folder: SweepFolder
    data: Arrays | None = None
    study: str = ""
    """The id of the study; checkpoints of another one are not used."""

    def checkpoints(self, number: int, params: Mapping[str, Any] | None = None) -> CheckpointStore:
        """Return the checkpoints of a trial; its parameters are needed to read or write one."""
        origin = {"study": self.study, "params": params_digest(params)} if self.study and params is not None else None
        return CheckpointStore(self.folder.trial(number), self.folder.remote, origin=origin)

    def load_data(self) -> Arrays | None:
        """Load the dataset, None if the sweep names none."""
        return None if self.sweep.dataset is None else self.sweep.dataset.load()


def params_digest(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()


def trial_seed(sweep_seed: int, number: int) -> int:
    """A trial's seed: a function of the sweep's seed and the trial's number only, whatever runs it and how often."""
    import numpy as np

    return int(np.random.SeedSequence([sweep_seed, number]).generate_state(1)[0])
