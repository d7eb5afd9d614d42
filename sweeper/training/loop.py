"""One trial's way through the data: which samples when, at which learning rate, and what a checkpoint holds."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sweeper.training import runtime
from sweeper.training.hparams import RNNParams
from sweeper.training.program import Program, State, optimizer_numbers
from sweeper.training.schedules import learning_rate

if TYPE_CHECKING:
    from sweeper.spec.budget import Budget
    from sweeper.training.datasets import Arrays

Array = Any
Tensor = Any

_STEPS_PER_CALL = 500
_FILE = "state.npz"
_ALIGNMENT = 64  # of the memory that TensorFlow computes on


@dataclass(frozen=True, eq=False)
class DeviceData:
    """A dataset as tensors, uint8 still: pixels become floats batch by batch."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor


@functools.lru_cache(maxsize=2)
def device_data(arrays: Arrays) -> DeviceData:
    """The tensors of a dataset, made once per process; without a copy if they are computed on where they lie."""
    import tensorflow as tf

    tensor = tf.constant if runtime.has_gpu() else _tensor_in_place
    return DeviceData(*(tensor(getattr(arrays, name)) for name in DeviceData.__dataclass_fields__))


def _tensor_in_place(array: Array) -> Tensor:
    """A tensor in the memory of an array, which both keep alive; nothing writes to either.

    DLPack cannot say that memory is read-only, as what workers share is, so numpy refuses to hand it over as it is.
    """
    import numpy as np
    import tensorflow as tf

    if array.ctypes.data % _ALIGNMENT or not array.flags.c_contiguous:
        return tf.constant(array)
    address = {**array.__array_interface__, "data": (array.ctypes.data, False)}
    alias = np.asarray(SimpleNamespace(__array_interface__=address, owner=array))
    return tf.experimental.dlpack.from_dlpack(alias.__dlpack__())


@dataclass(frozen=True)
class Course:
    """The gradient steps of a full trial and where its reports lie among them."""

    total: int
    reports: int
    width: float

    @classmethod
    def of(cls, budget: Budget, samples: int, batch_size: int) -> Course:
        """With epochs, the reports divide the steps as evenly as whole steps can; each is at least one step long."""
        if budget.steps is not None:
            return cls(budget.steps, budget.reports, budget.epoch_of(1))
        assert budget.epochs is not None
        total = max(round(budget.epochs * samples / batch_size), budget.reports)
        return cls(total, budget.reports, total / budget.reports)

    def step_at(self, report: int) -> int:
        """The gradient steps made when report number `report` is due."""
        return min(self.total, round(report * self.width))


@dataclass(frozen=True)
class DataOrder:
    """The samples of every batch: a fresh permutation per epoch, and batches cut from their unbroken sequence.

    Batches are all of one size, so one may hold the end of an epoch and the start of the next. The order is a function
    of the seed and the position, so a checkpoint need not hold it.
    """

    seed: int
    samples: int
    batch_size: int

    def batches(self, first: int, count: int) -> Array:
        """Indices of the samples of `count` batches from batch `first` on, `[count, batch_size]`."""
        import numpy as np

        start, stop = first * self.batch_size, (first + count) * self.batch_size
        epochs = range(start // self.samples, (stop - 1) // self.samples + 1)
        sequence = np.concatenate([_permutation(self.seed, epoch, self.samples) for epoch in epochs])
        offset = epochs[0] * self.samples
        return sequence[start - offset : stop - offset].reshape(count, self.batch_size)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, samples: int) -> Array:
    import numpy as np

    return np.random.default_rng([seed, epoch]).permutation(samples).astype(np.int32)


class Loop:
    """The state of one trial's training and what moves it on."""

    def __init__(self, params: RNNParams, program: Program, data: DeviceData, course: Course, seed: int) -> None:
        self.step = 0
        self.state = program.initial_state(params, seed)
        self._params = params
        self._program = program
        self._data = data
        self.course = course
        self._order = DataOrder(seed, len(data.y_train), params.batch_size)
        self._numbers = optimizer_numbers(params)

    def advance(self, stop: int) -> dict[str, float]:
        """Train up to gradient step `stop` and validate: the metrics since the last report."""
        import numpy as np

        first, loss, hits = self.step, 0.0, 0
        while self.step < stop and np.isfinite(loss):
            steps = range(self.step, min(stop, self.step + _STEPS_PER_CALL))
            self.state, part_loss, part_hits = self._program.train(
                self.state,
                self._data.x_train,
                self._data.y_train,
                first=self.step,
                indices=self._order.batches(self.step, len(steps)),
                rates=[learning_rate(self._params, step, self.course.total) for step in steps],
                numbers=self._numbers,
            )
            loss, hits, self.step = loss + part_loss, hits + part_hits, steps[-1] + 1
        val_loss, val_accuracy = self._program.evaluate(self.state.weights, self._data.x_val, self._data.y_val)
        count = self.step - first
        return {
            "loss": loss / count,
            "accuracy": hits / (count * self._params.batch_size),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": learning_rate(self._params, self.step - 1, self.course.total),
            "epoch": self.step * self._params.batch_size / self._order.samples,
        }

    def test(self) -> tuple[float, float]:
        """Loss and accuracy on the test set."""
        return self._program.evaluate(self.state.weights, self._data.x_test, self._data.y_test)

    def weights(self) -> list[Array]:
        """The weights in the order of the Keras model."""
        return [part.numpy() for part in self._program.unpack(self.state.weights)]

    def example(self, count: int) -> Array:
        """Some samples as the saved model takes them."""
        return self._data.x_test[:count].numpy().astype("float32")

    def save(self, folder: Path) -> None:
        """Write what `restore` needs: the rest follows from the hyperparameters and the seed."""
        import numpy as np

        state = self.state
        slots = {f"slot_{number}": slot.numpy() for number, slot in enumerate(state.slots)}
        seeds = {f"seed_{number}": seed.numpy() for number, seed in enumerate(state.seeds)}
        np.savez(folder / _FILE, step=self.step, weights=state.weights.numpy(), **slots, **seeds)

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint, bit for bit."""
        import numpy as np
        import tensorflow as tf

        with np.load(folder / _FILE, allow_pickle=False) as saved:
            if saved["weights"].shape != self.state.weights.shape:
                raise ValueError(f"the checkpoint in {folder} belongs to another network")
            self.step = int(saved["step"])
            self.state = State(
                tf.constant(saved["weights"]),
                tuple(tf.constant(saved[f"slot_{number}"]) for number in range(len(self.state.slots))),
                tuple(tf.constant(saved[f"seed_{number}"]) for number in range(len(self.state.seeds))),
            )
