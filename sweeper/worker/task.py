"""Tasks for a worker, the events that it answers with, and what it knows of the sweep."""

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

from sweeper.core.confirmation import McNemar
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Failure, Report
from sweeper.spec import Resources, Sweep, TrialResources
from sweeper.worker.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from sweeper.datasets.base import Arrays


@dataclass(frozen=True)
class Task:
    """One task of a worker: train or retrain a trial; or, at the end of a sweep, evaluate or compare its best one."""

    number: int
    params: dict[str, Any]
    attempt: int = 1
    evaluate: bool = False
    """Test the model of the trial on the test set."""
    rival: tuple[int, dict[str, Any], int] | None = None
    """Trial whose model is compared with this one's on the validation set: its number, parameters and reports."""
    retrain: bool = False
    """Train on the training and the validation part together, for as many reports as are recorded."""
    whole_gpu: bool = False
    """Round the trial's GPUs up to whole ones, because an attempt ran out of memory on its share of one."""
    recorded: int | None = None
    """Number of the trial's reports that are recorded; None if unknown."""
    cpus: tuple[tuple[int, int], ...] = ()
    """The CPUs that computed the recorded reports, see `TrialRecord.cpus`."""
    seed: int | None = None
    """Seed of a run that confirms another trial; None: that of the trial's number."""

    @property
    def is_final(self) -> bool:
        """Whether it trains nothing."""
        return self.evaluate or self.rival is not None

    def cpus_at(self, step: int) -> int | None:
        """Return the CPUs that computed a report; None if it is not recorded yet.

        An attempt that resumes from a checkpoint before the last report computes some reports again, to the same bits.
        """
        if step > (self.recorded or 0):
            return None
        return next((cpus for first, cpus in reversed(self.cpus) if first <= step), 1)

    def trial_resources(self, resources: Resources) -> TrialResources:
        """Return the resources that this task gets, from those that the sweep declares.

        Raises:
            ValueError: an expression of the declared resources has no valid value for these parameters.
        """
        declared = resources.for_trial(self.params)
        return declared.model_copy(update={"gpus": float(math.ceil(declared.gpus))}) if self.whole_gpu else declared


@dataclass(frozen=True)
class Event:
    """One answer of a worker: a report, a notice, a failure, or what a final task found. With none, it returned.

    A notice is a text for the user: the trial waits for something, or found something wrong that it can work around.
    """

    report: Report | None = None
    notice: str | None = None
    failure: Failure | None = None
    evaluation: dict[str, float] | None = None
    compared: McNemar | None = None
    is_pruned: bool = False
    """Whether the trial's own code has pruned it."""
    has_threads: bool = False
    """Whether threads that the trial started are running; if so at its last event, its worker is replaced."""
    node: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class WorkerContext:
    """A sweep as its workers know it; the workers of a node share the memory of its `data`."""

    sweep: Sweep
    """The sweep with the dataset that is used, which may be the fallback of the declared one."""
    folder: SweepFolder
    data: Arrays | None = None
    study: str = ""
    """The study's id; checkpoints of another study are not used."""
    code: Path | None = None
    """The copy of the user's code that workers import from; None: it is on Python's path."""
    function: bytes | None = None
    """The trainable by value, if it is a function that workers cannot import."""
    started_in: Path = field(default_factory=Path.cwd)
    """The folder that the sweep was started in, which may not exist on another node."""

    def checkpoints(self, number: int, params: Mapping[str, Any] | None = None) -> CheckpointStore:
        """Return the checkpoint store of a trial; its parameters are needed to read or write a checkpoint."""
        origin = {"study": self.study, "params": params_digest(params)} if self.study and params is not None else None
        return CheckpointStore(self.folder.trial(number), self.folder.remote, origin=origin)

    def load_data(self) -> Arrays | None:
        """Load the dataset; return None if the sweep names none."""
        return None if self.sweep.dataset is None else self.sweep.dataset.load()


def params_digest(params: Mapping[str, Any]) -> str:
    """Return a sha256 of a trial's parameters that does not depend on their order."""
    return hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()


def trial_seed(sweep_seed: int, number: int) -> int:
    """Derive a trial's seed from the sweep's seed and the trial's number alone, so that every attempt has the same."""
    import numpy as np

    return int(np.random.SeedSequence([sweep_seed, number]).generate_state(1)[0])
