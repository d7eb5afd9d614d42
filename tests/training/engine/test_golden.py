"""The two-step RNN of Hands-On Machine Learning, chapter 14, and what else its pages print."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweeper.datasets.catalog import Digits
from sweeper.training import RNNParams
from sweeper.training.engine import recurrence as recurrences
from sweeper.training.engine.loop import device_data
from sweeper.training.engine.ops import no_bias
from sweeper.training.engine.program import Program
from sweeper.training.engine.recurrence import Recurrence

X = [[[0, 1, 2], [9, 8, 7]], [[3, 4, 5], [0, 0, 0]], [[6, 7, 8], [6, 5, 4]], [[9, 0, 1], [3, 2, 1]]]
WX = [
    [0.123814, 0.280421, 0.474035, -0.097329, 0.084595],
    [0.175663, 0.567082, 0.476580, -0.202764, -0.218045],
    [-0.240647, 0.308521, -0.416564, -0.393435, 0.205251],
]
WY = [
    [0.167697, -0.553073, -0.044756, -0.409495, 0.154108],
    [-0.056611, 0.004230, 0.526970, 0.266035, -0.456101],
    [-0.396470, -0.177694, -0.228871, -0.295108, 0.404770],
    [0.261995, -0.072095, -0.323966, -0.191007, 0.277902],
    [-0.526047, -0.300749, -0.327883, -0.438055, 0.355157],
]
# What the book prints for the two time steps.
Y0 = [
    [-0.2964572, 0.82874775, -0.34216955, -0.75720584, 0.19011548],
    [-0.12842922, 0.99981797, 0.84704727, -0.99570125, 0.38665548],
    [0.04731077, 0.99999976, 0.99330056, -0.999933, 0.55339795],
    [0.70323634, 0.99309105, 0.99909431, -0.85363263, 0.7472108],
]
Y1 = [
    [0.51955646, 1.0, 0.99999022, -0.99984968, -0.24616946],
    [-0.70553327, -0.11918639, 0.48885304, 0.08917919, -0.26579669],
    [-0.32477224, 0.99996376, 0.99933046, -0.99711186, 0.10981458],
    [-0.43738723, 0.91517633, 0.97817528, -0.91763324, 0.11047263],
]


def run(*, skips: bool = False, sequences: bool = True) -> Any:
    import numpy as np
    from keras import ops

    x = np.transpose(np.array(X, "float32"), (1, 0, 2))
    valid = np.any(x != 0, axis=-1, keepdims=True).astype("float32") if skips else np.zeros((0, 1, 1), "float32")
    recurrence = Recurrence("simple_rnn", "tanh", steps=2, masked=False, skips=skips, sequences=sequences)
    kernels = ops.convert_to_tensor(x @ np.array(WX, "float32")), ops.convert_to_tensor(np.array(WY, "float32"))
    outputs, _ = recurrence.forward(*kernels, no_bias(), ops.zeros((0, 0, 0)), ops.convert_to_tensor(valid))
    return np.array(outputs)


@pytest.mark.parametrize("unrolled", [True, False])
def test_two_steps_give_what_the_book_prints(unrolled: bool, tensorflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    if not unrolled:
        monkeypatch.setattr(recurrences, "_MAX_UNROLLED_STEPS", 0)
    np.testing.assert_allclose(run(), [Y0, Y1], atol=1e-5)
    np.testing.assert_allclose(run(sequences=False), Y1, atol=1e-5)


def test_past_a_sequences_end_outputs_are_zero_and_the_state_is_that_of_the_last_step(tensorflow: Any) -> None:
    import numpy as np

    outputs, state = run(skips=True), run(skips=True, sequences=False)
    assert (outputs[1, 1] == 0).all()
    np.testing.assert_allclose(state[1], Y0[1], atol=1e-5)
    np.testing.assert_allclose(np.delete(state, 1, 0), np.delete(np.array(Y1), 1, 0), atol=1e-5)


@pytest.mark.parametrize("head, low, high", [("keras", 2.2, 2.5), ("normal", 2.6, math.inf)])
def test_the_loss_before_training_shows_the_head(head: str, low: float, high: float, tensorflow: Any) -> None:
    data = device_data(Digits().load())
    for seed in range(3):
        program = Program(RNNParams(units=128, head_initializer=head), Digits().task)
        loss, _ = program.evaluate(program.initial_state(seed).weights, data.validation)
        assert low < loss < high
