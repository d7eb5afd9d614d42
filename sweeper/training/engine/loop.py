"""Training loop of one trial: the order of the samples, the learning rate of each step, metrics and checkpoints."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.training.engine import runtime
from sweeper.training.engine.optimizers import SCHEDULES
from sweeper.training.engine.program import STEPS_PER_CALL, Program, State

if TYPE_CHECKING:
    from sweeper.datasets.base import Arrays
    from sweeper.training.hparams import RNNParams
    from sweeper.worker.trial import Trial

Array = Any
Tensor = Any

_STATE_FILE = "state.npz"

_EVALUATION_BATCH_SIZE = 250
"""With larger batches, XLA is half as fast on a CPU, and TensorFlow no faster."""

AHEAD_SECONDS = 0.05
"""Length of one call that trains ahead, of one step at least: a trial that is stopped frees its worker after it."""

FIRST_TEST_IMAGES = 128
"""Number of test images that the accuracies of E1 and E3 in `search_spaces/baselines` were measured on."""


@dataclass(frozen=True, eq=False)
class DeviceData:
    """A dataset as tensors, its evaluation parts in batches. Pixels stay uint8 and become floats batch by batch."""

    x_train: Tensor
    y_train: Tensor
    validation: tuple[tuple[Tensor, Tensor], ...]
    test: tuple[tuple[Tensor, Tensor], ...]
    first_of_test: tuple[tuple[Tensor, Tensor], ...]


@functools.lru_cache(maxsize=2)
def device_data(arrays: Arrays) -> DeviceData:
    """Turn a dataset into tensors, once per process. On a CPU the training data is not copied."""

    def batches(x: Array, y: Array) -> tuple[tuple[Tensor, Tensor], ...]:
        parts = [slice(start, start + _EVALUATION_BATCH_SIZE) for start in range(0, len(y), _EVALUATION_BATCH_SIZE)]
        return tuple((runtime.tensor(x[part], x.dtype), runtime.tensor(y[part], y.dtype)) for part in parts)

    train = runtime.tensor_in_place(arrays.x_train), runtime.tensor_in_place(arrays.y_train)
    first = batches(arrays.x_test[:FIRST_TEST_IMAGES], arrays.y_test[:FIRST_TEST_IMAGES])
    return DeviceData(*train, batches(arrays.x_val, arrays.y_val), batches(arrays.x_test, arrays.y_test), first)


runtime.to_forget.append(device_data.cache_clear)


@dataclass(frozen=True)
class StepPlan:
    """Gradient steps of a full trial, and after which of them it reports."""

    total: int
    reports: int
    width: float
    """Gradient steps from one report to the next."""

    @classmethod
    def of(cls, trial: Trial, samples: int, batch_size: int) -> StepPlan:
        """Plan the steps of a trial's budget.

        A budget of epochs is divided by its reports as evenly as whole steps allow, with at least one step for each.
        """
        budget = trial.budget
        if budget.steps is not None:
            return cls(budget.steps, budget.reports, budget.epoch_of(1))
        assert budget.epochs is not None
        total = max(round(budget.epochs * samples / batch_size), budget.reports)
        return cls(total, budget.reports, total / budget.reports)

    def step_at(self, report: int) -> int:
        """Return the number of gradient steps after which report number `report` is due."""
        return min(self.total, round(report * self.width))


@dataclass(frozen=True)
class DataOrder:
    """Samples of every batch: a new permutation for each epoch, and batches cut from the sequence of all of them.

    All batches have the same size, so one may contain the end of an epoch and the start of the next. The order depends
    on the seed and the position only, so a checkpoint need not contain it.
    """

    seed: int
    samples: int
    batch_size: int

    def batches(self, first: int, count: int) -> Array:
        """Return the samples of `count` batches from batch number `first` on, `[count, batch_size]`."""
        start, stop = first * self.batch_size, (first + count) * self.batch_size
        epochs = range(start // self.samples, (stop - 1) // self.samples + 1)
        sequence = np.concatenate([_permutation(self.seed, epoch, self.samples) for epoch in epochs])
        offset = epochs[0] * self.samples
        return sequence[start - offset : stop - offset].reshape(count, self.batch_size)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, samples: int) -> Array:
    return np.random.default_rng([seed, epoch]).permutation(samples).astype(np.int32)


@dataclass
class _Interval:
    """The training from one report to the next, as far as it has come."""

    first: int
    step: int
    state: State
    losses: list[float] = field(default_factory=lambda: [0.0])
    """Sums of at most `STEPS_PER_CALL` steps each, also where more calls made them, so that their bits are the same."""
    hits: int = 0

    def is_left(self, stop: int) -> bool:
        return self.step < stop and math.isfinite(self.losses[-1])


class Loop:
    """Training of one trial: its state, its steps, its metrics and its checkpoints.

    Attributes:
        step: gradient steps made until the last report.
        state: what they led to. A call of `train_ahead` leaves both as they are.
    """

    def __init__(self, params: RNNParams, program: Program, data: DeviceData, plan: StepPlan, seed: int) -> None:
        self.step = 0
        self.state = program.initial_state(seed)
        self._params = params
        self._program = program
        self._data = data
        self.plan = plan
        self.order = DataOrder(seed, len(data.y_train), params.batch_size)
        self._interval: _Interval | None = None
        self._seconds_per_step = math.inf

    def advance(self, stop: int) -> dict[str, float]:
        """Train up to gradient step `stop` and validate; return the metrics since the last report."""
        interval, begun = self._begun(), time.monotonic()
        first = interval.step
        while interval.is_left(stop):
            self._train(interval, stop, STEPS_PER_CALL)
        if interval.step > first:
            self._seconds_per_step = (time.monotonic() - begun) / (interval.step - first)
        self.step, self.state, self._interval = interval.step, interval.state, None
        count, loss = interval.step - interval.first, sum(interval.losses)
        return {
            **self._named("", loss / count, interval.hits / (count * self._params.batch_size)),
            **self._named("val_", *self._program.evaluate(self.state.weights, self._data.validation)),
            **(self.test() if self._params.watch_test else {}),
            "learning_rate": learning_rate(self._params, self.step - 1, self.plan.total),
            "epoch": self.step * self._params.batch_size / self.order.samples,
        }

    def train_ahead(self, stop: int) -> bool:
        """Train for `AHEAD_SECONDS` towards gradient step `stop`, while the last report is judged.

        Return whether steps are left. The next call of `advance` continues from here; its metrics are the same bits.
        """
        interval = self._begun()
        if interval.is_left(stop):
            self._train(interval, stop, max(1, int(AHEAD_SECONDS / self._seconds_per_step)))
        return interval.is_left(stop)

    def _begun(self) -> _Interval:
        if self._interval is None:
            self._interval = _Interval(self.step, self.step, self.state)
        return self._interval

    def _train(self, interval: _Interval, stop: int, most: int) -> None:
        """Make the next gradient steps, in one call."""
        made = (interval.step - interval.first) % STEPS_PER_CALL
        if made == 0 and interval.step > interval.first:
            interval.losses.append(0.0)
        steps = range(interval.step, min(stop, interval.step + min(most, STEPS_PER_CALL - made)))
        interval.state, interval.losses[-1], interval.hits = self._program.train(
            interval.state,
            self._data.x_train,
            self._data.y_train,
            first=interval.step,
            indices=self.order.batches(interval.step, len(steps)),
            rates=[learning_rate(self._params, step, self.plan.total) for step in steps],
            loss=interval.losses[-1],
            hits=interval.hits,
        )
        interval.step = steps[-1] + 1

    def test(self) -> dict[str, float]:
        """Return the metrics on the test set.

        With `watch_test`, they include the accuracy on its first images, which some publications report.
        """
        weights, task = self.state.weights, self._program.task
        metrics = self._named("test_", *self._program.evaluate(weights, self._data.test))
        if self._params.watch_test and not task.forecasts:
            metrics[f"test_accuracy_{FIRST_TEST_IMAGES}"] = self._program.evaluate(weights, self._data.first_of_test)[1]
        return metrics

    def test_outputs(self) -> Array:
        """Return the network's outputs for the test set; see `Program.outputs`."""
        return self._program.outputs(self.state.weights, self._data.test)

    def validation_outputs(self) -> Array:
        """Return the network's outputs for the validation set; see `Program.outputs`."""
        return self._program.outputs(self.state.weights, self._data.validation)

    def _named(self, prefix: str, loss: float, accuracy: float) -> dict[str, float]:
        """Name the metrics; forecasts have no accuracy."""
        metrics = {f"{prefix}loss": loss, f"{prefix}accuracy": accuracy}
        return {f"{prefix}loss": loss} if self._program.task.forecasts else metrics

    def weights(self) -> list[Array]:
        """Return the weights in the order of the Keras model."""
        return [np.asarray(part) for part in self._program.unpack(self.state.weights)]

    def example(self, count: int) -> Array:
        """Return the first test samples, in the type of the dataset."""
        return np.asarray(self._data.test[0][0])[:count]

    def save(self, folder: Path) -> None:
        """Write what `restore` needs; the rest follows from the hyperparameters and the seed."""
        state = self.state
        slots: dict[str, Any] = {f"slot_{number}": np.asarray(slot) for number, slot in enumerate(state.slots)}
        seeds: dict[str, Any] = {f"seed_{number}": np.asarray(seed) for number, seed in enumerate(state.seeds)}
        np.savez(folder / _STATE_FILE, step=self.step, weights=np.asarray(state.weights), **slots, **seeds)

    def restore(self, folder: Path) -> None:
        """Resume from a checkpoint, bit for bit.

        Raises:
            ValueError: the checkpoint is of a network with another number of weights.
        """
        with np.load(folder / _STATE_FILE, allow_pickle=False) as saved:
            if saved["weights"].shape != self.state.weights.shape:
                raise ValueError(f"the checkpoint in {folder} belongs to another network")
            self.step, self._interval = int(saved["step"]), None
            self.state = State(
                runtime.tensor(saved["weights"]),
                tuple(runtime.tensor(saved[f"slot_{number}"]) for number in range(len(self.state.slots))),
                tuple(runtime.tensor(saved[f"seed_{number}"], "int32") for number in range(len(self.state.seeds))),
            )


def learning_rate(params: RNNParams, step: int, total: int) -> float:
    """Return the learning rate of one gradient step: a linear warm-up, then the schedule.

    Args:
        step: number of the gradient step; the first is 0.
        total: number of gradient steps of the whole trial.
    """
    warm = round(params.warmup * total)
    if step < warm:
        return params.learning_rate * (step + 1) / (warm + 1)
    progress = (step - warm) / max(total - warm, 1)
    return params.learning_rate * SCHEDULES[params.schedule](progress, params.decay, params.drops)
