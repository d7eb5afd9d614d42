from __future__ import annotations

from typing import Any

import pytest

from sweeper.training.hparams import RNNParams
from sweeper.training.models import CELLS, build_network, initial_weights
from sweeper.training.program import Program, State, optimizer_numbers, programs

BATCH, STEPS = 16, 3
NARROW = {"units": 4, "batch_size": BATCH}


@pytest.fixture(scope="module")
def samples() -> tuple[Any, Any]:
    import numpy as np

    from sweeper.training import Digits

    data = Digits(train=64).load()
    return np.ascontiguousarray(data.x_train), data.y_train


def train(params: RNNParams, samples: tuple[Any, Any], rates: list[float] | None = None) -> tuple[Program, State]:
    import numpy as np

    rates = rates or [0.05] * STEPS
    program = programs.get(params, (8, 8), 10)
    state, loss, hits = program.train(
        program.initial_state(params, 0),
        *samples,
        first=0,
        indices=np.arange(len(rates) * BATCH).reshape(-1, BATCH),
        rates=rates,
        numbers=optimizer_numbers(params),
    )
    assert 0 < loss < 5 * len(rates) and 0 <= hits <= len(rates) * BATCH
    return program, state


@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_those_of_keras_itself(cell: str, samples: tuple[Any, Any], tensorflow: Any) -> None:
    import keras
    import numpy as np

    params = RNNParams(cell=cell, optimizer="sgd", **NARROW)
    program, state = train(params, samples)
    model = build_network(params, (8, 8), 10, unroll=False)
    for variable, value in zip(model.trainable_variables, initial_weights(model, params, 0), strict=True):
        variable.assign(value)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for start in range(0, STEPS * BATCH, BATCH):
        x, y = (part[start : start + BATCH] for part in samples)
        with tensorflow.GradientTape() as tape:
            error = loss(y, model(x.astype("float32"), training=True))
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(error, [v.value for v in model.trainable_variables]), strict=True
        ):
            variable.assign_sub(0.05 * tensorflow.convert_to_tensor(gradient))
    for ours, variable in zip(program.unpack(state.weights), model.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, variable.numpy(), atol=2e-6)


def test_a_structure_met_before_is_not_traced_again(samples: tuple[Any, Any], tensorflow: Any) -> None:
    params = RNNParams(cell="simple_rnn", optimizer="rmsprop", **NARROW)
    program, _ = train(params, samples)
    changes = {"learning_rate": 0.1, "momentum": 0.5, "epsilon": 0.1, "weight_decay": 0.1, "clip_norm": 1.0}
    again, _ = train(params.model_copy(update={**changes, "seed": 5, "schedule": "cosine"}), samples, [0.2, 0.1])
    program.evaluate(again.initial_state(params, 1).weights, *(part[:9] for part in samples))
    program.evaluate(again.initial_state(params, 1).weights, *samples)
    assert again is program
    assert program._steps.experimental_get_tracing_count() == program._judge.experimental_get_tracing_count() == 1


def test_the_programs_kept_are_few(tensorflow: Any) -> None:
    for units in range(1, 12):
        programs.get(RNNParams(cell="simple_rnn", units=units), (8, 8), 10)
    assert len(programs._programs) == programs.KEEP


def test_weight_decay_leaves_biases_alone(samples: tuple[Any, Any], tensorflow: Any) -> None:
    import numpy as np

    params = RNNParams(cell="simple_rnn", optimizer="adamw", weight_decay=0.5, **NARROW)
    program = programs.get(params, (8, 8), 10)
    ones = tensorflow.ones_like(program.initial_state(params, 0).weights)
    numbers = {**optimizer_numbers(params), "learning_rate": 0.1}
    weights, _ = program._update(ones, 1e-30 * ones, (0 * ones, 0 * ones), 1.0, numbers)
    for part in program.unpack(weights):
        np.testing.assert_allclose(part, 0.95 if len(part.shape) > 1 else 1.0)


@pytest.mark.parametrize("clip_norm, change", [(0.5, 0.5), (100.0, 3.0)])
def test_the_norm_of_the_whole_gradient_is_clipped(clip_norm: float, change: float, tensorflow: Any) -> None:
    params = RNNParams(cell="simple_rnn", optimizer="sgd", clip_norm=clip_norm, **NARROW)
    program = programs.get(params, (8, 8), 10)
    zeros = tensorflow.zeros_like(program.initial_state(params, 0).weights)
    gradient = tensorflow.one_hot(0, zeros.shape[0]) * 3.0
    weights, _ = program._update(zeros, gradient, (zeros,), 1.0, {**optimizer_numbers(params), "learning_rate": 1.0})
    assert float(tensorflow.norm(weights)) == pytest.approx(change)


def test_dropout_differs_from_step_to_step_and_not_from_run_to_run(samples: tuple[Any, Any], tensorflow: Any) -> None:
    params = RNNParams(cell="simple_rnn", dropout=0.5, recurrent_dropout=0.3, **NARROW)
    program, first = train(params, samples)
    _, second = train(params, samples)
    assert (first.weights.numpy() == second.weights.numpy()).all()
    assert all(int(seed[1]) > 0 for seed in first.seeds)
    x, y = (part[:BATCH] for part in samples)
    loss = [
        float(tensorflow.reduce_sum(program._forward(program.model, first.weights, seeds, x, y, training=True)[0]))
        for seeds in (first.seeds, program.initial_state(params, 0).seeds, first.seeds)
    ]
    assert loss[0] == loss[2] != loss[1]
