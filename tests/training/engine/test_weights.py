from __future__ import annotations

from typing import Any

import pytest

from sweeper.datasets.base import LearningTask
from sweeper.training.engine.initializers import INITIALIZERS
from sweeper.training.engine.recurrence import CELLS
from sweeper.training.engine.weights import derive_seed, initial_weights, weight_specs
from sweeper.training.hparams import RNNParams

TASK = LearningTask(8, 8, 10)


def fresh(params: RNNParams, seed: int = 3) -> list[Any]:
    return initial_weights(weight_specs(params, TASK), params, seed)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_initial_weights_depend_on_hyperparameters_and_seed_only(
    cell: str, bidirectional: bool, tensorflow: Any
) -> None:
    params = RNNParams(cell=cell, bidirectional=bidirectional, units=5, layers=2, layer_norm=True)
    first = fresh(params)
    tensorflow.random.normal([3], seed=1)
    fresh(RNNParams(cell="gru", units=7), seed=1)
    assert all((one == two).all() for one, two in zip(first, fresh(params), strict=True))
    assert any((one != two).any() for one, two in zip(first, fresh(params, seed=4), strict=True))


def test_layers_start_with_different_weights(tensorflow: Any) -> None:
    matrices = [value for value in fresh(RNNParams(cell="simple_rnn", units=8, layers=3)) if value.shape == (8, 8)]
    assert len({value.tobytes() for value in matrices}) == len(matrices) == 6


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializer_serves_inputs_and_recurrent_state(name: str, tensorflow: Any) -> None:
    kernel, recurrent, bias, *_ = fresh(RNNParams(units=6, kernel_initializer=name, recurrent_initializer=name))
    assert kernel.std() > 0 and recurrent.std() > 0
    assert kernel.shape == (8, 24) and recurrent.shape == (6, 24) and bias.shape == (24,)


def test_forget_bias_is_that_of_the_forget_gate_alone(tensorflow: Any) -> None:
    bias = fresh(RNNParams(units=2, forget_bias=3.0))[2]
    assert bias.tolist() == [0, 0, 3, 3, 0, 0, 0, 0]


def test_derived_seeds_differ_by_purpose_and_never_change() -> None:
    assert len({derive_seed(seed, purpose, n) for seed in range(5) for purpose in "ab" for n in range(5)}) == 50
    assert derive_seed(0, "weights", 0) == derive_seed(0, "weights", 0) < 2**31
