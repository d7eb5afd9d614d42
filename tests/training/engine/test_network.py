"""Comparison of the written-out network with Keras's layers: outputs, gradients and dropout masks."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.datasets.base import LearningTask
from sweeper.training.engine.keras_model import build_network
from sweeper.training.engine.network import Network
from sweeper.training.engine.ops import ACTIVATIONS
from sweeper.training.engine.program import Program, numbers_of
from sweeper.training.engine.recurrence import CELLS
from sweeper.training.engine.shards import Dropout
from sweeper.training.engine.weights import weight_specs
from sweeper.training.hparams import RNNParams

TASK = LearningTask(8, 6, 10)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "deep": {"layers": 3},
    "deep both ways, normalised": {"layers": 2, "bidirectional": True, "layer_norm": True},
    "dropout": {"dropout": 0.3},
    "dense": {"dense": 7, "dense_activation": "gelu"},
    "masking": {"masking": True, "layers": 2},
    "masking both ways": {"masking": True, "bidirectional": True, "layer_norm": True},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "both dropouts, deep both ways": {"dropout": 0.3, "recurrent_dropout": 0.2, "layers": 2, "bidirectional": True},
    **{name: {"activation": name} for name in ACTIVATIONS if name != "tanh"},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_weights_are_those_of_keras_layers(cell: str, option: str, tensorflow: Any) -> None:
    params = RNNParams(cell=cell, units=5, **OPTIONS[option])
    specs, model = weight_specs(params, TASK), build_network(params, TASK)
    assert [(spec.name, spec.shape) for spec in specs] == [(v.name, v.shape) for v in model.trainable_variables]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_losses_gradients_and_masks_are_those_of_keras_layers(
    cell: str, option: str, training: bool, tensorflow: Any
) -> None:
    import numpy as np

    params = RNNParams(cell=cell, units=5, **OPTIONS[option])
    program, model = Program(params, TASK), build_network(params, TASK)
    state, rng = program.initial_state(3), np.random.default_rng(0)
    x, y = rng.integers(0, 256, (4, 8, 6)).astype("uint8"), np.arange(4, dtype="int32")
    x[1, 5:] = x[2, :3] = x[3, 2] = 0  # time steps that masking skips
    # Biases start at zero, where a mistake would not show.
    weights = state.weights + tensorflow.constant(rng.normal(size=len(state.weights)).astype("float32") * 0.1)
    rates = numbers_of(params) if training else None
    ours, loss, _, seeds = program.compiled.gradient(program.unpack(weights), state.seeds, x, y, rates)
    with tensorflow.GradientTape() as tape:
        tape.watch(weights)
        values, pixels = list(program.unpack(weights)), x.astype("float32")
        states = [tensorflow.cast(seed, "int64") for seed in state.seeds[:-1]]  # the last one is of outputs
        logits, after = model.stateless_call(values, states, pixels, training=training)
        theirs = tensorflow.reduce_mean(tensorflow.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    np.testing.assert_allclose(loss, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours, tape.gradient(theirs, weights), rtol=1e-4, atol=1e-6)
    if training:  # without training, Keras draws some masks that it does not use
        assert [seed.numpy().tolist() for seed in seeds[:-1]] == [seed.numpy().tolist() for seed in after]


@pytest.mark.parametrize("option", ["plain", "deep", "dense", "masking"])
@pytest.mark.parametrize("cell", CELLS)
def test_forecasts_and_their_gradients_are_those_of_keras_layers(cell: str, option: str, tensorflow: Any) -> None:
    import numpy as np

    params, task = (
        RNNParams(cell=cell, units=5, activation="relu", **OPTIONS[option]),
        LearningTask(7, 2, 3, forecasts=True),
    )
    program, model = Program(params, task), build_network(params, task)
    state, rng = program.initial_state(3), np.random.default_rng(0)
    x, y = (rng.normal(size=(4, 7, n)).astype("float32") for n in (2, 3))
    x[1, 5:] = 0
    ours, loss, _, _ = program.compiled.gradient(program.unpack(state.weights), state.seeds, x, y, numbers_of(params))
    with tensorflow.GradientTape() as tape:
        tape.watch(state.weights)
        states = [tensorflow.cast(seed, "int64") for seed in state.seeds[:-1]]
        outputs, _ = model.stateless_call(list(program.unpack(state.weights)), states, x, training=True)
        theirs = tensorflow.reduce_mean(tensorflow.square(outputs - y))
    np.testing.assert_allclose(loss, theirs, rtol=1e-5)
    np.testing.assert_allclose(ours, tape.gradient(theirs, state.weights), rtol=1e-4, atol=1e-6)


def test_output_dropout_has_a_new_mask_at_each_time_step(tensorflow: Any) -> None:
    import numpy as np

    network = Network.of(RNNParams(output_dropout=0.25), TASK)
    ones, seed = tensorflow.ones((50, 40, 30)), tensorflow.constant([1, 0])
    dropped, backward, after = network._drop(ones, seed, Dropout({"output_dropout": tensorflow.constant(0.25)}))
    assert set(np.unique(dropped)) == {0.0, np.float32(4 / 3)} and float(np.mean(dropped)) == pytest.approx(1, rel=0.01)
    assert (dropped[0].numpy() != dropped[1].numpy()).any() and after.numpy().tolist() == [1, 1]
    assert (backward(ones)[0].numpy() == dropped.numpy()).all()


FEW_OPTIONS = ["plain", "deep both ways, normalised", "both dropouts, deep both ways", "masking both ways"]


@pytest.mark.parametrize("option", FEW_OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_looped_and_unrolled_steps_give_the_same(
    cell: str, option: str, tensorflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from sweeper.training.engine import recurrence

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (4, 7, 6)).astype("uint8"), np.arange(4, dtype="int32")
    x[1, 5:] = x[2, :3] = 0
    params, found = RNNParams(cell=cell, units=5, **OPTIONS[option]), []
    for unrolled in (7, 0):
        monkeypatch.setattr(recurrence, "_MAX_UNROLLED_STEPS", unrolled)
        recurrence.compiled_recurrence.cache_clear()
        program = Program(params, LearningTask(7, 6, 10))
        state = program.initial_state(3)
        step = tensorflow.function(program.compiled.gradient, autograph=False)
        found.append(step(program.unpack(state.weights), state.seeds, x, y, numbers_of(params)))
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
