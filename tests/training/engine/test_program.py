from __future__ import annotations

from typing import Any

import pytest

from sweeper.datasets.base import LearningTask
from sweeper.training.engine import runtime
from sweeper.training.engine.graph import compiled_cache
from sweeper.training.engine.keras_model import KerasNetwork, build_network
from sweeper.training.engine.program import Program, State, numbers_of
from sweeper.training.engine.recurrence import CELLS
from sweeper.training.hparams import RNNParams

BATCH, STEPS = 16, 3
NARROW = {"units": 4, "batch_size": BATCH}

TASK = LearningTask(8, 8, 10)


@pytest.fixture(scope="module")
def samples() -> tuple[Any, Any]:
    import numpy as np

    from sweeper.datasets.catalog import Digits

    data = Digits(train=64).load()
    return np.ascontiguousarray(data.x_train), data.y_train


def train(params: RNNParams, samples: tuple[Any, Any], rates: list[float] | None = None) -> tuple[Program, State]:
    import numpy as np

    rates = rates or [0.05] * STEPS
    program = Program(params, TASK)
    state, loss, hits = program.train(
        program.initial_state(0),
        *samples,
        first=0,
        indices=np.arange(len(rates) * params.batch_size).reshape(-1, params.batch_size),
        rates=rates,
    )
    assert 0 < loss < 5 * len(rates) and 0 <= hits <= len(rates) * params.batch_size
    return program, state


@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_those_of_keras_itself(cell: str, samples: tuple[Any, Any], tensorflow: Any) -> None:
    import keras
    import numpy as np

    params = RNNParams(cell=cell, optimizer="sgd", **NARROW)
    program, state = train(params, samples)
    model = build_network(params, TASK)
    for variable, value in zip(
        model.trainable_variables, program.unpack(program.initial_state(0).weights), strict=True
    ):
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
    params = RNNParams(cell="simple_rnn", optimizer="rmsprop", dropout=0.1, **NARROW)
    program, _ = train(params, samples)
    changes = {"learning_rate": 0.1, "momentum": 0.5, "epsilon": 0.1, "weight_decay": 0.1, "clip_norm": 1.0}
    sizes = {"units": 7, "batch_size": 9, "dropout": 0.4}
    again, _ = train(params.model_copy(update={**changes, **sizes, "seed": 5, "schedule": "cosine"}), samples, [0.2])
    again.evaluate(again.initial_state(1).weights, [tuple(part[:9] for part in samples)])
    program.evaluate(program.initial_state(1).weights, [samples])
    assert again.compiled is program.compiled
    for function in (program.compiled.steps, program.compiled.evaluate_batch):
        assert function.experimental_get_tracing_count() == 1


def test_the_graphs_kept_are_few(tensorflow: Any) -> None:
    for steps in range(1, compiled_cache.MAX_ENTRIES + 3):
        Program(RNNParams(cell="simple_rnn"), LearningTask(steps, 8, 10))
    assert len(compiled_cache) == compiled_cache.MAX_ENTRIES


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "recurrent_dropout": 0.2, "bidirectional": True}])
@pytest.mark.parametrize("cell", CELLS)
def test_keras_layers_make_the_steps_that_the_written_out_network_makes(
    cell: str, options: dict[str, Any], samples: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tensorflow: Any
) -> None:
    import numpy as np

    params = RNNParams(cell=cell, layers=2, **NARROW, **options)
    _, ours = train(params, samples)
    monkeypatch.setattr(runtime, "has_cudnn", lambda: True)
    program, theirs = train(params, samples)
    assert isinstance(program.compiled.network, KerasNetwork)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-5)


def test_lower_precision_is_another_and_close(samples: tuple[Any, Any], tensorflow: Any) -> None:
    params = RNNParams(optimizer="sgd", **NARROW)
    _, full = train(params, samples)
    _, lower = train(params.model_copy(update={"precision": "mixed_bfloat16"}), samples)
    distance = float(tensorflow.norm(full.weights - lower.weights))
    assert 0 < distance < 0.01 * float(tensorflow.norm(full.weights))


def test_weight_decay_leaves_biases_alone(samples: tuple[Any, Any], tensorflow: Any) -> None:
    import numpy as np

    params = RNNParams(cell="simple_rnn", optimizer="adamw", weight_decay=0.5, **NARROW)
    program = Program(params, TASK)
    ones = tensorflow.ones_like(program.initial_state(0).weights)
    numbers = {**numbers_of(params), "learning_rate": 0.1}
    weights, _ = program.compiled.update(ones, 1e-30 * ones, (0 * ones, 0 * ones), program.decayed, 1.0, numbers)
    for part in program.unpack(weights):
        np.testing.assert_allclose(part, 0.95 if len(part.shape) > 1 else 1.0)


@pytest.mark.parametrize("clip_norm, change", [(0.5, 0.5), (100.0, 3.0)])
def test_the_norm_of_the_whole_gradient_is_clipped(clip_norm: float, change: float, tensorflow: Any) -> None:
    params = RNNParams(cell="simple_rnn", optimizer="sgd", clip_norm=clip_norm, **NARROW)
    program = Program(params, TASK)
    zeros = tensorflow.zeros_like(program.initial_state(0).weights)
    gradient = tensorflow.one_hot(0, zeros.shape[0]) * 3.0
    numbers = {**numbers_of(params), "learning_rate": 1.0}
    weights, _ = program.compiled.update(zeros, gradient, (zeros,), program.decayed, 1.0, numbers)
    assert float(tensorflow.norm(weights)) == pytest.approx(change)


def test_dropout_differs_from_step_to_step_and_not_from_run_to_run(samples: tuple[Any, Any], tensorflow: Any) -> None:
    params = RNNParams(cell="simple_rnn", dropout=0.5, recurrent_dropout=0.3, **NARROW)
    program, first = train(params, samples)
    _, second = train(params, samples)
    assert (first.weights.numpy() == second.weights.numpy()).all()
    assert all(int(seed[1]) > 0 for seed in first.seeds[:-1])
    x, y = (part[:BATCH] for part in samples)
    loss = [
        float(program.compiled.gradient(program.unpack(first.weights), seeds, x, y, numbers_of(params))[1])
        for seeds in (first.seeds, program.initial_state(0).seeds, first.seeds)
    ]
    assert loss[0] == loss[2] != loss[1]
