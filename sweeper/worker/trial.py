"""What a trainable is handed: its number, seed, budget, dataset, threads, checkpoint, and `report()`."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.core.errors import InputError, TrialDivergedError
from sweeper.core.files import disk_full_message, is_disk_full
from sweeper.core.trials import Report
from sweeper.worker.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from sweeper.datasets.base import Arrays
    from sweeper.datasets.catalog import AnyDataset
    from sweeper.spec import Budget, TrialResources

logger = logging.getLogger(__name__)


_DISK_POLL_INTERVAL_S = 1.0
"""Seconds between one look for room on the disk and the next."""


MAX_METRICS, MAX_METRIC_NAME_CHARS = 1000, 250
"""Metrics of one report, and characters of a name: what MLflow takes in one call."""


class Trial:
    """One trial as its trainable sees it.

    A trainable is any function `train(params, trial)` that works from `trial.step` (the reports already made) to
    `trial.reports` (those the budget asks for) and calls `trial.report()` after each:

        def train(params, trial):
            while trial.step < trial.reports:
                trial.report({"score": ...})

    A trial continued after an interruption starts with `trial.checkpoint` set to the folder its own `checkpoint`
    function filled, and with `trial.step` at the report that belongs to it.
    """

    def __init__(
        self,
        *,
        number: int,
        seed: int,
        budget: Budget,
        dataset: AnyDataset | None,
        resources: TrialResources,
        checkpoints: CheckpointStore,
        send: Callable[[Report], None],
        data: Arrays | None = None,
        attempt: int = 1,
        notify: Callable[[str], None] = logger.warning,
    ) -> None:
        self.number = number
        self.seed = seed
        self.attempt = attempt
        self.budget = budget
        self.dataset = dataset
        self.resources = resources
        self.reports = budget.reports
        self.step = 0
        self.checkpoint: Path | None = None
        self._data = data
        self._checkpoints = checkpoints
        self._send = send
        self._notify = notify

    @property
    def data(self) -> Arrays:
        """The arrays of the sweep's dataset, not to be written to: all workers of a node share them.

        A trial that was handed none loads them itself, once per process.
        """
        if self._data is None:
            if self.dataset is None:
                raise InputError("the trainable learns from a dataset, and the sweep names none; see `dataset`")
            self._data = _load(self.dataset)
        return self._data

    def resume(self, recorded: int | None = None) -> None:
        """Continue from the newest checkpoint, if there is one, and send its report again.

        A worker may have died after its checkpoint was written and before its report was recorded; the study drops
        the report if it knows it already.

        Args:
            recorded: the reports that are on record, see `CheckpointStore.latest`.
        """
        latest = self._checkpoints.latest(recorded)
        if findings := self._checkpoints.findings():
            instead = f"going on from report {latest.step}" if latest else "none is left: starting again"
            self._notify(f"{findings}; {instead}")
        if latest is not None:
            self.checkpoint, self.step = latest.path, latest.step
            self._send(Report(latest.step, time.time(), latest.metrics))

    def report(self, metrics: Mapping[str, float], *, checkpoint: Callable[[Path], None] | None = None) -> None:
        """Send one report and wait for the word to go on.

        Args:
            metrics: numbers by name; the objective's metric must be among them.
            checkpoint: fills the folder it is given with all that is needed to continue from here, bit for bit.

        Raises:
            TrialStopped: the trial is to end here (pruned, or the sweep stops). Let it pass.
            TrialDivergedError: a metric is NaN or infinite.
            ValueError: more metrics, or longer names, than the study and MLflow can hold for each of many reports.
        """
        _check_size(metrics)
        numbers = {name: _as_number(name, value) for name, value in metrics.items()}
        self.step += 1
        bad = [f"{name}={value}" for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise TrialDivergedError(f"diverged ({', '.join(bad)} at epoch {self.budget.epoch_of(self.step):g})")
        if checkpoint is not None:
            self._save(numbers, checkpoint)
        self._send(Report(self.step, time.time(), numbers))

    def _save(self, metrics: Mapping[str, float], write: Callable[[Path], None]) -> None:
        """Save a checkpoint; where the disk has no room for it, wait until it has."""
        while True:
            try:
                self._checkpoints.save(self.step, metrics, write, attempt=self.attempt)
                return
            except OSError as error:
                folder = self._checkpoints.folder
                if not is_disk_full(error, folder):
                    raise
            self._notify(
                f"{disk_full_message(folder)}: waiting for room for a checkpoint; free some, or stop the sweep"
            )
            time.sleep(_DISK_POLL_INTERVAL_S)


@functools.lru_cache(maxsize=2)
def _load(dataset: AnyDataset) -> Arrays:
    return dataset.load()


def _check_size(metrics: Mapping[str, float]) -> None:
    if len(metrics) > MAX_METRICS:
        raise ValueError(f"a report has {len(metrics)} metrics; {MAX_METRICS} at most")
    longest = max(map(str, metrics), key=len, default="")
    if len(longest) > MAX_METRIC_NAME_CHARS:
        raise ValueError(
            f"a metric's name has {len(longest)} characters ({longest[:20]!r}...); {MAX_METRIC_NAME_CHARS} at most"
        )


def _as_number(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise TypeError(f"metric {name!r} is not a number: {value!r} ({type(value).__name__})") from error
