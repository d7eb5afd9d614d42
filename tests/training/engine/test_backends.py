"""JAX as the backend, in a process of its own, because a process can have one backend only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sweeper.datasets.catalog import Digits
from sweeper.training import RNNParams, hparams, train_rnn
from sweeper.training.engine.recurrence import CELLS

pytest.importorskip("jax")

_SCRIPT = """
import json, sys
from pathlib import Path
from sweeper.training import RNNParams, train_rnn
from tests.training.conftest import RecordedTrial

for line in sys.stdin:
    params, folder, budget, reports = json.loads(line)
    trial = RecordedTrial(Path(folder), **budget)
    trial.reports = reports or trial.reports
    train_rnn(RNNParams(**params, backend="jax"), trial)
    assert "tensorflow" not in sys.modules
    trial.checkpoint = trial.checkpoints.latest().path
    metrics = train_rnn.evaluate(RNNParams(**params, backend="jax"), trial)
    print(json.dumps([trial.metrics, metrics, str(trial.model)]))
    sys.modules.pop("tensorflow", None)  # Keras imports it to save a model
"""
SMALL = {"units": 6, "batch_size": 32, "learning_rate": 0.01}
CASES: dict[str, dict[str, Any]] = {
    **{cell: {"cell": cell} for cell in CELLS},
    "lstm, deep both ways, normalised": {"layers": 2, "bidirectional": True, "layer_norm": True, "activation": "gelu"},
    "gru, momentum and decay": {
        "cell": "gru", "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.1,
    },
}  # fmt: skip
DROPOUT = {"dropout": 0.3, "recurrent_dropout": 0.3, "bidirectional": True}


@pytest.fixture(scope="module")
def with_jax(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train each case for two epochs in one process; return its metrics, those of its evaluation, and its folder."""
    folder = tmp_path_factory.mktemp("jax")
    cases = {**CASES, "dropout": DROPOUT, "dropout again": DROPOUT, "half": {}}
    lines = [
        json.dumps([{**SMALL, **case}, str(folder / name), {"epochs": 2}, int(name == "half")])
        for name, case in cases.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input="\n".join(lines), capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (*result, folder / name) for name, result in zip(cases, results, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_both_backends_train_the_same_network(case: str, with_jax: dict[str, Any], make_trial: Any) -> None:
    trial = make_trial(epochs=2)
    train_rnn(RNNParams(**{**SMALL, **CASES[case]}), trial)
    for one, other in zip(trial.metrics, with_jax[case][0], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_trial_resumes_on_the_other_backend(with_jax: dict[str, Any], make_trial: Callable[..., Any]) -> None:
    broken, whole = make_trial(str(with_jax["half"][-1]), epochs=2), make_trial("whole", epochs=2)
    broken.resume()
    assert broken.step == 1
    train_rnn(RNNParams(**SMALL), broken)
    train_rnn(RNNParams(**SMALL), whole)
    assert broken.metrics[-1] == pytest.approx(whole.metrics[-1], abs=1e-4)


def test_model_trained_with_jax_loads_in_keras_on_tensorflow(with_jax: dict[str, Any], tensorflow: Any) -> None:
    import keras

    _, metrics, saved, _ = with_jax["lstm, deep both ways, normalised"]
    data = Digits(train=96, validation=32, test=32).load()
    model = keras.saving.load_model(Path(saved, "data/model.keras"), safe_mode=True)
    probabilities = model(data.x_test.astype("float32")).numpy()
    assert (probabilities.argmax(1) == data.y_test).mean() == metrics["test_accuracy"]


def test_dropout_on_jax_depends_on_the_seed_only(with_jax: dict[str, Any]) -> None:
    assert with_jax["dropout"][0] == with_jax["dropout again"][0] != with_jax["lstm"][0]


def test_missing_backend_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hparams, "find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"pip install 'sweeper\[jax\]'"):
        RNNParams(backend="jax")


def test_process_keeps_its_backend(tensorflow: Any, make_trial: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="must be the same in all trials"):
        train_rnn(RNNParams(backend="jax"), make_trial())
