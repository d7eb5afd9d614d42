"""Trial, the object that a trainable gets: its seed, budget, data, resources, checkpoint, and `report()`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.errors import InputError, TrialDivergedError, TrialStopped
from sweeper.core.files import disk_full_message, is_disk_full, make_folder, write_json
from sweeper.core.predictions import Predictions
from sweeper.core.trials import Report
from sweeper.datasets.base import load_once
from sweeper.worker.checkpoints import CheckpointStore
from sweeper.worker.manifest import FILES
from sweeper.worker.metrics import check_metric_names, numbers_of

if TYPE_CHECKING:
    from sweeper.datasets.base import Arrays
    from sweeper.datasets.catalog import AnyDataset
    from sweeper.spec import Budget, TrialResources

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.json"

_DISK_POLL_INTERVAL_S = 1.0
"""Seconds from one attempt to save a checkpoint on a full disk to the next."""


class Trial:
    """One trial, as the function that trains it sees it.

    A trainable is any function `train(params, trial)`. It trains from report `trial.step` to report `trial.reports` and
    calls `trial.report()` once for each. A resumed trial starts with `trial.checkpoint` and `trial.step` set. A trial
    that saved no checkpoint starts again from the beginning; no report is recorded twice.

    Attributes:
        number: number of the trial in its sweep; the first is 0.
        seed: seed of everything random in the trial, from 0 to 2**32 - 1. It depends on the sweep's seed and on
            `number` only, so every attempt has the same.
        attempt: 1, and one more after each retry or resume.
        budget: the sweep's `budget`; `budget.epoch_of(step)` converts a report's number into epochs (or gradient steps,
            if the budget is in steps).
        objective: name of the metric that the sweep maximizes or minimizes; of several goals, the one that prunes.
        goals: names of the metrics of all goals. Each report has `objective`; of the others, the last report counts.
        dataset: the sweep's `dataset`, or None.
        data: the dataset's arrays: `x_train`, `x_val` and `x_test` of shape `[samples, steps, features]`, and what
            belongs to each sample in `y_train`, `y_val` and `y_test`. Read-only, as all workers of a node share them.
        resources: what the trial may use: `cpus` (its threads; a report may change them), `gpus` (0.5 is half of one),
            `memory` in GB or None, `accelerator_type`, `custom`.
        reports: number of reports that the budget asks for.
        step: number of reports made so far, 0 at the start of a new trial. `report()` counts it up.
        may_pause: whether the trial may pause after the next report, which should then save a checkpoint.
        checkpoint: folder of the checkpoint to resume from, which belongs to report `step`; None for a new trial.
        model: folder of the MLflow model that this attempt, or the trial in `evaluate`, has saved; None without one.

    Raises:
        InputError: `data` is read, but the sweep names no dataset.

    Example:
        >>> def save(folder, weight):
        ...     (folder / "weight").write_text(str(weight))
        >>> def train(params, trial):
        ...     weight = float((trial.checkpoint / "weight").read_text()) if trial.checkpoint else 0.0
        ...     while trial.step < trial.reports:
        ...         weight += params["learning_rate"] * (1.0 - weight)
        ...         trial.report({"loss": 1.0 - weight}, checkpoint=lambda folder: save(folder, weight))
        >>> train({"learning_rate": 0.5}, trial)  # sweeper makes this call for each trial
        >>> trial.step
        3
    """

    def __init__(
        self,
        *,
        number: int,
        seed: int,
        budget: Budget,
        objective: str,
        dataset: AnyDataset | None,
        resources: TrialResources,
        checkpoints: CheckpointStore,
        send: Callable[[Report, Callable[[], bool] | None], None],
        data: Arrays | None = None,
        attempt: int = 1,
        pauses: Collection[int] = (),
        cpus_at: Callable[[int], int | None] = lambda step: None,
        goals: Collection[str] = (),
        notify: Callable[[str], None] = logger.warning,
    ) -> None:
        self.number, self.seed, self.attempt = number, seed, attempt
        self.budget = budget
        self.objective = objective
        self.goals = frozenset({objective, *goals})
        self.dataset = dataset
        self._resources = resources
        self._cpus_at = cpus_at
        self.reports = budget.reports
        self.step = 0
        self.checkpoint: Path | None = None
        self.model: Path | None = None
        self._pauses = frozenset(pauses)
        self._data = data
        self._checkpoints = checkpoints
        self._send = send
        self._notify = notify
        self._left_out: set[str] = set()
        self._names = set(self.goals)
        self._is_stopped = False
        self._unsaved: Any = None
        self._callback: Any = None

    @property
    def data(self) -> Arrays:
        """Arrays of the sweep's dataset, read-only. If the driver sent none, this process loads them, once."""
        if self._data is None:
            if self.dataset is None:
                raise InputError("the trainable needs a dataset, but the sweep names none; add `dataset` to its file")
            self._data = load_once(self.dataset)
        return self._data

    @property
    def resources(self) -> TrialResources:
        """Return what the trial may use until its next report."""
        cpus = self._cpus_at(self.step + 1)
        return self._resources if cpus is None else self._resources.model_copy(update={"cpus": float(cpus)})

    @property
    def may_pause(self) -> bool:
        """Whether the trial may pause after the next report."""
        return self.step + 1 in self._pauses

    def resume(self, recorded: int | None = None) -> None:
        """Resume from the newest checkpoint, if there is one, and send its report again. Called before the trainable.

        A worker may have died between saving its checkpoint and recording its report. The study ignores a report that
        is recorded already.

        Args:
            recorded: number of reports that are recorded, see `CheckpointStore.latest`.
        """
        latest = self._checkpoints.latest(recorded)
        if findings := self._checkpoints.findings():
            consequence = f"resumes from report {latest.step}" if latest else "has no other checkpoint and starts again"
            self._notify(f"{findings} The trial {consequence}.")
        if latest is not None:
            self.checkpoint, self.step = latest.path, latest.step
            self._send(Report(latest.step, time.time(), latest.metrics), None)

    def report(
        self,
        metrics: Mapping[str, float] | None = None,
        *,
        checkpoint: Callable[[Path], None] | None = None,
        meanwhile: Callable[[], bool] | None = None,
        **named: float,
    ) -> None:
        """Send one report, and wait until the study has recorded and judged it.

        Args:
            metrics: numbers by name, the objective's among them. One that is no goal and not finite is left out.
            checkpoint: writes into the folder it gets every file that is needed to resume from here, bit for bit. It
                may use any names and subfolders, but no links. Without it, the trial resumes from an earlier report.
            meanwhile: trains on for a moment; returns whether it can go on before the next report. Called until the
                answer is there, except where the trial may pause.
            named: metrics too: `report(score=0.5)` is `report({"score": 0.5})`.

        Raises:
            TrialStopped: the trial ends here, because it was pruned or the sweep stops. Do not catch it.
            TrialDivergedError: the metric of a goal is NaN or infinite.
            TypeError: `metrics` is no mapping, or a metric is not a number.
            ValueError: there are more than 1,000 metrics, or a name has more than 250 characters or holds a secret.
        """
        numbers = numbers_of(metrics, named)
        bad = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        if self.goals & bad.keys():
            raise self.diverged(bad)
        if new := [f"{name}={value}" for name, value in bad.items() if name not in self._left_out]:
            self._left_out.update(bad)
            self._notify(f"A metric that is not finite is left out ({', '.join(new)} at {self._next_place()}).")
        numbers = {name: value for name, value in numbers.items() if name not in bad}
        check_metric_names(numbers.keys() - self._names)
        self._names.update(numbers)
        cpus, may_pause = max(1, int(self.resources.cpus)), self.may_pause
        self.step += 1
        if checkpoint is not None:
            self._save(self._checkpoints, numbers, checkpoint)
        try:
            self._send(Report(self.step, time.time(), numbers, cpus), None if may_pause else meanwhile)
        except TrialStopped:
            self._is_stopped = self.step <= self.reports  # not if only a report too many was made
            raise

    def save_model(self, model: Any, example: Any = None) -> None:
        """Save the trained model. That of the best trial is logged in MLflow, registered, and may become the champion.

        Args:
            model: a model of Keras, scikit-learn, PyTorch, XGBoost or LightGBM; or a folder with an MLflow model, or
                with any other files. It replaces the one that was saved before.
            example: some inputs, which MLflow shows beside the model.

        Raises:
            TrialStopped: the trial was pruned, or the sweep stops.
            TypeError: it is no such model.
        """
        from sweeper.tracking import save_model

        if self._is_stopped:  # as in a `finally`: its checkpoints are deleted, and nobody would delete the model
            raise TrialStopped
        self._unsaved = None
        make_folder(self._checkpoints.folder)
        self.model = self._save(self._checkpoints.models, {}, lambda folder: save_model(model, folder, example)) / FILES

    def save_predictions(self, predictions: Predictions) -> None:
        """Save what the model predicted for the test set. The report on the sweep shows those of the best trial."""
        make_folder(self._checkpoints.folder)
        store = self._checkpoints.predictions
        self._save(store, {}, lambda folder: write_json(folder / PREDICTIONS_FILE, asdict(predictions)))

    def keras(self, model: Any, *, save_model: bool = True) -> Any:
        """Return a callback for Keras's `fit` that reports each epoch, saves checkpoints and resumes from one.

        Call `model.fit(..., epochs=trial.reports, initial_epoch=trial.step, callbacks=[trial.keras(model)])`.

        Args:
            save_model: whether the model is saved when the trainable returns, as `save_model` does.

        Raises:
            ValueError: the budget asks for reports within an epoch.
        """
        from sweeper.worker.keras_callback import make_callback

        if self._callback is None:  # a second one would restore the checkpoint again
            self._callback = make_callback(self, self._save_at_end if save_model else lambda model: None)
        return self._callback

    def _save_at_end(self, model: Any) -> None:
        self._unsaved = model

    def end(self, returned: Any = None) -> None:
        """Save what the callback of `keras` has trained, or a model that the trainable has returned and not saved."""
        if returned is not None and self._unsaved is None and self.model is None:
            from sweeper.tracking import can_save

            self._unsaved = returned if can_save(returned) else None
        if self._unsaved is not None:
            self.save_model(self._unsaved)

    def diverged(self, metrics: Mapping[str, float]) -> TrialDivergedError:
        """Return the error to raise instead of the next report when training cannot recover.

        Args:
            metrics: those that are not finite.
        """
        values = ", ".join(f"{name}={value}" for name, value in metrics.items())
        return TrialDivergedError(f"diverged ({values} at {self._next_place()})")

    def _next_place(self) -> str:
        unit = "epoch" if self.budget.steps is None else "step"
        return f"{unit} {self.budget.epoch_of(self.step + 1):g}"

    def _save(self, store: CheckpointStore, metrics: Mapping[str, float], write: Callable[[Path], None]) -> Path:
        """Save a checkpoint or a model; while the disk is full, wait and try again."""
        while True:
            try:
                return store.save(max(1, self.step), metrics, write, attempt=self.attempt)
            except OSError as error:
                folder = self._checkpoints.folder
                if not is_disk_full(error, folder):
                    raise
            self._notify(
                f"The trial cannot save its checkpoint ({disk_full_message(folder)}) and waits. "
                "Free some space, or stop the sweep."
            )
            time.sleep(_DISK_POLL_INTERVAL_S)
