"""The written-out network against Keras's layers: outputs, gradients and dropout masks."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.training.activations import ACTIVATIONS
from sweeper.training.hparams import RNNParams
from sweeper.training.models import CELLS, build_network
from sweeper.training.network import weight_specs
from sweeper.training.program import Program, numbers_of
from sweeper.training.recurrence import RECURRENCES

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "deep": {"layers": 3},
    "deep both ways, normalised": {"layers": 2, "bidirectional": True, "layer_norm": True},
    "dropout": {"dropout": 0.3},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "both dropouts, deep both ways": {"dropout": 0.3, "recurrent_dropout": 0.2, "layers": 2, "bidirectional": True},
    **{name: {"activation": name} for name in ACTIVATIONS if name != "tanh"},
}


def test_every_cell_is_written_out() -> None:
    assert list(RECURRENCES) == list(CELLS)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_weights_are_those_of_keras_layers(cell: str, option: str, tensorflow: Any) -> None:
    params = RNNParams(cell=cell, units=5, **OPTIONS[option])
    specs, model = weight_specs(params, (8, 6), 10), build_network(params, (8, 6), 10)
    assert [(spec.name, spec.shape) for spec in specs] == [(v.name, v.shape) for v in model.trainable_variables]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_losses_gradients_and_masks_are_those_of_keras_layers(
    cell: str, option: str, training: bool, tensorflow: Any
) -> None:
    import numpy as np

    params = RNNParams(cell=cell, units=5, **OPTIONS[option])
    program, model = Program(params, (8, 6), 10), build_network(params, (8, 6), 10)
    state, rng = program.initial_state(3), np.random.default_rng(0)
    x, y = rng.integers(0, 256, (4, 8, 6)).astype("uint8"), np.arange(4, dtype="int32")
    # Biases start at zero, where a mistake would not show.
    weights = state.weights + tensorflow.constant(rng.normal(size=len(state.weights)).astype("float32") * 0.1)
    rates = numbers_of(params) if training else None
    ours, loss, _, seeds = program.graph.gradient(program.unpack(weights), state.seeds, x, y, rates)
    with tensorflow.GradientTape() as tape:
        tape.watch(weights)
        values, pixels = list(program.unpack(weights)), x.astype("float32")
        states = [tensorflow.cast(seed, "int64") for seed in state.seeds]
        logits, after = model.stateless_call(values, states, pixels, training=training)
        theirs = tensorflow.reduce_mean(tensorflow.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    np.testing.assert_allclose(loss, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours, tape.gradient(theirs, weights), rtol=1e-4, atol=1e-6)
    if training:  # Keras draws some masks in vain else
        assert [seed.numpy().tolist() for seed in seeds] == [seed.numpy().tolist() for seed in after]


@pytest.mark.parametrize("option", ["plain", "deep both ways, normalised", "both dropouts, deep both ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_looped_and_unrolled_steps_are_the_same_function(
    cell: str, option: str, tensorflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from sweeper.training import recurrence

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (4, 7, 6)).astype("uint8"), np.arange(4, dtype="int32")
    params, found = RNNParams(cell=cell, units=5, **OPTIONS[option]), []
    for unrolled in (7, 0):
        monkeypatch.setattr(recurrence, "_UNROLLED_STEPS", unrolled)
        recurrence.compiled.cache_clear()
        program = Program(params, (7, 6), 10)
        state = program.initial_state(3)
        step = tensorflow.function(program.graph.gradient, autograph=False)
        found.append(step(program.unpack(state.weights), state.seeds, x, y, numbers_of(params)))
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
