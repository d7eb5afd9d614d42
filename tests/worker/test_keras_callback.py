"""Keras's own `fit` with the callback of a trial, on TensorFlow, and on JAX in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper import Trial
from sweeper.core.errors import TrialStopped
from sweeper.core.trials import Report
from sweeper.search.budget import Budget
from sweeper.spec import TrialResources
from sweeper.worker import keras_callback
from sweeper.worker.checkpoints import CheckpointStore

X = np.random.default_rng(0).random((64, 4)).astype("float32")
Y = (X.sum(axis=1) > 2).astype("int32")


@pytest.fixture(autouse=True)
def every_epoch_has_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_callback, "CHECKPOINT_INTERVAL_S", 0.0)


class FitTrial(Trial):
    """A trial that keeps its reports, and is stopped at one of them."""

    def __init__(self, folder: Path, *, stop: int = 0, **budget: Any) -> None:
        self.sent: list[Report] = []
        self.stop = stop
        super().__init__(
            number=0,
            seed=1,
            budget=Budget(trials=1, **budget or {"epochs": 4}),
            objective="val_accuracy",
            dataset=None,
            resources=TrialResources(),
            checkpoints=CheckpointStore(folder),
            send=self._keep,
        )

    def _keep(self, report: Report, meanwhile: Callable[[], bool] | None) -> None:
        self.sent.append(report)
        if report.step == self.stop:
            raise TrialStopped


def build(units: int = 8) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    layers = [keras.Input((4,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(2, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(trial: Trial, model: Any, *more: Any, epochs: int = 0, initial_epoch: int | None = None) -> None:
    first = trial.step if initial_epoch is None else initial_epoch
    callbacks = [trial.keras(model), *more]
    options = {"epochs": epochs or trial.reports, "initial_epoch": first, "callbacks": callbacks, "verbose": 0}
    model.fit(X, Y, validation_data=(X, Y), shuffle=False, **options)


def test_each_epoch_is_a_report_with_the_names_of_keras(tmp_path: Path) -> None:
    trial, model = FitTrial(tmp_path / "trial"), build()
    fit(trial, model)
    assert [report.step for report in trial.sent] == [1, 2, 3, 4]
    assert set(trial.sent[0].metrics) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    assert trial.model is None
    trial.end()
    assert trial.model is not None and (trial.model / "data/model.keras").exists()


def test_resumed_fit_gives_what_an_uninterrupted_one_gives(tmp_path: Path) -> None:
    whole, broken, rest = FitTrial(tmp_path / "whole"), FitTrial(tmp_path / "x", stop=2), FitTrial(tmp_path / "x")
    fit(whole, build())
    with pytest.raises(TrialStopped):
        fit(broken, build())
    rest.resume()
    assert rest.step == 2
    fit(rest, build())
    assert [report.metrics for report in rest.sent[1:]] == [report.metrics for report in whole.sent[2:]]


def test_fit_without_its_first_epoch_is_refused_in_a_resumed_trial(tmp_path: Path) -> None:
    trial = FitTrial(tmp_path / "x")
    fit(trial, build())
    resumed = FitTrial(tmp_path / "x")
    (tmp_path / "x/attempt-001-step-00000004").rename(tmp_path / "gone")
    resumed.resume()
    with pytest.raises(ValueError, match="resumes after epoch 3, but fit.. begins after epoch 0; call it with initial"):
        fit(resumed, build(), initial_epoch=0)


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrialStopped):
        fit(FitTrial(tmp_path / "x", stop=1), build())
    resumed = FitTrial(tmp_path / "x")
    resumed.resume()
    with pytest.raises(ValueError, match="belongs to another model"):
        fit(resumed, build(units=9))


def test_fit_ends_after_the_last_report_and_may_end_earlier(tmp_path: Path) -> None:
    import keras

    trial = FitTrial(tmp_path / "long")
    fit(trial, build(), epochs=9)
    assert len(trial.sent) == 4
    early, model = FitTrial(tmp_path / "early", epochs=50), build()
    fit(early, model, keras.callbacks.EarlyStopping("loss", min_delta=10.0, patience=2, restore_best_weights=True))
    assert len(early.sent) < 50
    early.end()
    assert early.model is not None
    saved = keras.saving.load_model(early.model / "data/model.keras")
    assert all((one == other).all() for one, other in zip(saved.get_weights(), model.get_weights(), strict=True))


def test_model_is_not_saved_if_it_is_not_wanted(tmp_path: Path) -> None:
    trial, model = FitTrial(tmp_path / "x"), build()
    model.fit(X, Y, epochs=4, callbacks=[trial.keras(model, save_model=False)], validation_data=(X, Y), verbose=0)
    trial.end()
    assert trial.model is None and len(trial.sent) == 4


@pytest.mark.parametrize("budget", [{"epochs": 2, "reports_per_epoch": 4}, {"steps": 100}])
def test_budget_of_parts_of_epochs_is_refused(tmp_path: Path, budget: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reports once per epoch, but the budget is in"):
        FitTrial(tmp_path / "x", **budget).keras(build())


def test_model_without_a_shape_is_refused_with_the_remedy(tmp_path: Path) -> None:
    import keras

    with pytest.raises(TrialStopped):
        fit(FitTrial(tmp_path / "x", stop=1), build())
    resumed, model = FitTrial(tmp_path / "x"), keras.Sequential([keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    resumed.resume()
    with pytest.raises(ValueError, match="keras.Input|another model"):
        fit(resumed, model)


@pytest.mark.long
def test_callback_works_on_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    code = """
import sys
from collections.abc import Callable
from pathlib import Path
import pytest
from tests.worker import test_keras_callback as tests
tests.keras_callback.CHECKPOINT_INTERVAL_S = 0.0
tests.test_resumed_fit_gives_what_an_uninterrupted_one_gives(Path(sys.argv[1]))
import keras
assert keras.backend.backend() == "jax"
"""
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
