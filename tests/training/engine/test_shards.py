from __future__ import annotations

from typing import Any

import pytest

from sweeper.datasets.base import LearningTask
from sweeper.training.engine.program import Program, State
from sweeper.training.engine.shards import Dropout, Rows, shards_for, split
from sweeper.training.hparams import RNNParams

TASK, FORECASTS = LearningTask(6, 5, 10), LearningTask(6, 5, 1, forecasts=True)
EVERYTHING = {"dropout": 0.3, "recurrent_dropout": 0.2, "output_dropout": 0.1, "masking": True, "layer_norm": True,
              "bidirectional": True, "layers": 2, "dense": 8, "dense_activation": "tanh"}  # fmt: skip


def samples(task: LearningTask) -> tuple[Any, Any]:
    import numpy as np

    draw = np.random.default_rng(0)
    x = draw.random((33, task.steps, task.features), np.float32)
    x[:, -1] *= draw.random((33, 1)) < 0.5  # for the mask
    if task.forecasts:
        return x, draw.random((33, task.steps, 1), np.float32)
    return x, draw.integers(0, 10, 33, np.int32)


def train(params: RNNParams, task: LearningTask, cpus: int) -> tuple[Program, State, float, int]:
    import numpy as np

    program = Program(params, task, cpus)
    indices = np.arange(3 * params.batch_size).reshape(3, -1)
    state, loss, hits = program.train(
        program.initial_state(1), *samples(task), first=0, indices=indices, rates=[0.05] * 3
    )
    return program, state, loss, hits


@pytest.mark.parametrize(("cell", "options", "task", "shards"), [
    ("lstm", {}, TASK, 2),
    pytest.param("lstm", EVERYTHING, TASK, 3, marks=pytest.mark.long),
    pytest.param("gru", EVERYTHING, TASK, 2, marks=pytest.mark.long),
    ("simple_rnn", EVERYTHING, FORECASTS, 3),
])  # fmt: skip
def test_shards_make_the_steps_of_the_whole_batch(
    cell: str,
    options: dict[str, Any],
    task: LearningTask,
    shards: int,
    monkeypatch: pytest.MonkeyPatch,
    tensorflow: Any,
) -> None:
    import numpy as np

    params = RNNParams(cell=cell, optimizer="sgd", units=4, batch_size=11, **options)
    _, whole, loss, hits = train(params, task, 1)
    monkeypatch.setattr("sweeper.training.engine.program.shards_for", lambda params, cpus: cpus)
    program, sharded, its_loss, its_hits = train(params, task, shards)
    assert program.compiled.shards == shards
    np.testing.assert_allclose(sharded.weights, whole.weights, atol=1e-6)
    assert its_loss == pytest.approx(loss, rel=1e-5) and its_hits == hits
    for ours, theirs in zip(sharded.seeds, whole.seeds, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_shards_evaluate_as_the_whole_batch(monkeypatch: pytest.MonkeyPatch, tensorflow: Any) -> None:
    import numpy as np

    params = RNNParams(units=4, batch_size=11)
    whole = Program(params, TASK)
    monkeypatch.setattr("sweeper.training.engine.program.shards_for", lambda params, cpus: cpus)
    sharded, weights = Program(params, TASK, 4), whole.initial_state(1).weights
    batches = [samples(TASK)]
    assert sharded.evaluate(weights, batches) == pytest.approx(whole.evaluate(weights, batches))
    np.testing.assert_allclose(sharded.outputs(weights, batches), whole.outputs(weights, batches), atol=1e-6)


@pytest.mark.parametrize(("total", "shards"), [(11, 2), (7, 3), (3, 4), (128, 8)])
def test_rows_of_all_shards_are_the_batch(total: int, shards: int) -> None:
    batch = list(range(total))
    parts = [rows.of(batch) for rows in split(total, shards) if rows]
    assert len(parts) == shards and sum(parts, []) == batch
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_mask_of_some_rows_is_cut_from_the_mask_of_all(tensorflow: Any) -> None:
    import numpy as np

    rates, seed = {"dropout": tensorflow.constant(0.5)}, tensorflow.constant([3, 0])
    whole = Dropout(rates).mask((2, 9, 4), "dropout", seed)
    part = Dropout(rates, Rows(4, 9, 9)).mask((2, 5, 4), "dropout", seed)
    np.testing.assert_array_equal(part, whole[:, 4:])


@pytest.mark.parametrize(("cell", "units", "batch_size", "cpus", "shards"), [
    ("lstm", 512, 256, 1, 1),
    ("lstm", 128, 128, 2, 2),
    ("lstm", 128, 128, 8, 8),
    ("lstm", 512, 2, 8, 2),  # a sample is not divided
    ("lstm", 16, 32, 2, 1),  # small networks would lose
    ("simple_rnn", 32, 64, 2, 1),
    ("simple_rnn", 64, 64, 2, 2),
    ("gru", 32, 32, 8, 2),
])  # fmt: skip
def test_each_cpu_has_a_shard_if_it_is_large_enough(
    cell: str, units: int, batch_size: int, cpus: int, shards: int
) -> None:
    assert shards_for(RNNParams(cell=cell, units=units, batch_size=batch_size), cpus) == shards
