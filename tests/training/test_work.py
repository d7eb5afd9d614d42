"""What a sample costs to train, by the hyperparameters."""

from __future__ import annotations

import pytest

from sweeper.datasets.base import LearningTask
from sweeper.training.hparams import RNNParams
from sweeper.training.work import work

ROWS = LearningTask(28, 28, 10)

MEASURED = {
    ("simple_rnn", 32, 64): 197_591,
    ("simple_rnn", 128, 128): 53_389,
    ("gru", 32, 64): 62_575,
    ("gru", 128, 128): 12_365,
    ("lstm", 32, 64): 59_936,
    ("lstm", 128, 128): 10_045,
}
"""Images per second on TensorFlow, from docs/performance.md."""


@pytest.mark.parametrize(("network", "images"), MEASURED.items())
def test_work_is_what_was_measured_within_a_third(network: tuple[str, int, int], images: int) -> None:
    cell, units, batch_size = network
    params = RNNParams(cell=cell, units=units, batch_size=batch_size)
    assert work(params, ROWS) == pytest.approx(1e6 / images, rel=0.33)


def test_both_directions_and_more_layers_cost_more() -> None:
    one = work(RNNParams(units=64), ROWS)
    assert work(RNNParams(units=64, bidirectional=True), ROWS) == 2 * one
    assert work(RNNParams(units=64, layers=2), ROWS) > 2 * one
    assert work(RNNParams(units=64), LearningTask(56, 28, 10)) == 2 * one
