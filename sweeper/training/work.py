"""What a sample costs to train with `train_rnn`, by its hyperparameters: for a forecast of other trials' pace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.training.engine.recurrence import CELLS

if TYPE_CHECKING:
    from sweeper.datasets.base import LearningTask
    from sweeper.training.hparams import RNNParams

PRODUCT_US, UNIT_US, CALL_US = 0.9e-3, 0.04, 100.0
"""Microseconds of one core for a multiplication and its gradients in 28 time steps, for a unit of a gate there, and for
the calls of a batch: as in the table of docs/performance.md, within a quarter. A forecast corrects them."""


def work(params: RNNParams, task: LearningTask) -> float:
    """Return about how many microseconds of a CPU core the training of one sample takes.

    What it costs is in proportion to the samples, so that a forecast may measure it on a part of the data.
    """
    gates, directions = CELLS[params.cell].gates, 2 if params.bidirectional else 1
    total, inputs = 0.0, task.features
    for _ in range(params.layers):
        products = gates * params.units * (params.units + inputs)
        calls = gates * CALL_US / params.batch_size
        total += directions * (PRODUCT_US * products + UNIT_US * gates * params.units + calls)
        inputs = directions * params.units
    return total * task.steps / 28
