"""The script of a trial is plain Keras, short, and trains the same network."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.core.errors import InputError
from sweeper.datasets.base import Dataset
from sweeper.datasets.catalog import Digits, FashionMnist, Mnist, TimeSeries
from sweeper.training.engine.loop import learning_rate
from sweeper.training.engine.weights import weight_specs
from sweeper.training.hparams import RNNParams
from sweeper.training.script import as_script
from sweeper.training.trainable import train_rnn
from tests.training.conftest import RecordedTrial

# Keras 3 reads TensorFlow's variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

VARIANTS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm", "units": 8},
    "gru both ways": {"cell": "gru", "units": 4, "bidirectional": True, "layers": 2, "layer_norm": True},
    "simple_rnn": {"cell": "simple_rnn", "units": 8, "activation": "relu", "kernel_initializer": "he_normal"},
    "dropouts": {"units": 4, "dropout": 0.1, "recurrent_dropout": 0.2, "output_dropout": 0.3, "dense": 6},
    "masked": {"units": 4, "layers": 2, "masking": True},
    "sgd": {"units": 4, "optimizer": "sgd", "momentum": 0.9, "nesterov": True, "clip_norm": 1.0},
    "adamw": {"units": 4, "optimizer": "adamw", "weight_decay": 0.01, "epsilon": 1e-5},
    "rmsprop": {"units": 4, "optimizer": "rmsprop", "momentum": 0.5, "schedule": "linear"},
    "nadam": {"units": 4, "optimizer": "nadam", "schedule": "step", "drops": 3},
    "lion": {"units": 4, "optimizer": "lion", "schedule": "cosine", "warmup": 0.25},
    "bias": {"units": 4, "forget_bias": 2.0, "head_initializer": "normal"},
}


def script(params: dict[str, Any], dataset: Dataset, steps: int = 4) -> str:
    return as_script(RNNParams(**params), dataset, steps=steps, epochs=1, seed=7, title="a trial")


def run(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a script in this process; return its names."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(text, "script", "exec"), names)
    return names


@pytest.mark.parametrize("variant", VARIANTS)
def test_script_of_every_hyperparameter_trains_the_same_network(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, dataset = VARIANTS[variant], Digits(train=64, validation=16, test=16)
    text = script(params | {"batch_size": 16}, dataset)
    assert len(text.splitlines()) <= 80 and "sweeper" not in text
    names = run(text, tmp_path, monkeypatch)
    shapes = [tuple(weight.shape) for weight in names["model"].trainable_variables]
    assert shapes == [spec.shape for spec in weight_specs(RNNParams(**params), dataset.task)]
    assert names["optimizer"].iterations == 4 and (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step"])
def test_learning_rates_are_those_of_the_trial(schedule: str, warmup: float) -> None:
    params = RNNParams(learning_rate=0.01, schedule=schedule, warmup=warmup, drops=2)
    text = as_script(params, Digits(), steps=60, epochs=1, seed=0, title="a trial")
    (block,) = re.findall(r"\n((?:class Schedule|rate = )(?:.|\n)*?)\n\noptimizer", text)
    names: dict[str, Any] = {}
    exec(f"import keras\nimport numpy as np\nSTEPS = 60\n{block}", names)
    rate = names["rate"]
    found = [float(rate(step)) if callable(rate) else rate for step in range(60)]
    assert np.allclose(found, [learning_rate(params, step, 60) for step in range(60)], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("layout", ["rows", "columns", "pixels", "permuted"])
def test_data_is_that_of_the_trial(layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Digits(layout=layout, train=100, test=50)
    text = script({"units": 2, "batch_size": 32}, dataset)
    names = run(text.partition("inputs = ")[0], tmp_path, monkeypatch)
    data = dataset.load()
    for part, known in (("", "train"), ("_val", "val"), ("_test", "test")):
        assert np.array_equal(names[f"x{part}"], getattr(data, f"x_{known}"))
        assert np.array_equal(names[f"y{part}"], getattr(data, f"y_{known}"))


def test_series_are_those_of_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = TimeSeries(train=64, validation=16, test=16)
    names = run(script({"units": 2, "batch_size": 32}, dataset), tmp_path, monkeypatch)
    data = dataset.load()
    assert np.array_equal(names["x_test"], data.x_test) and np.array_equal(names["y_val"], data.y_val)
    assert names["model"].output_shape == (None, 20, 1)


@pytest.mark.parametrize("dataset", [Mnist(train=1000), FashionMnist()], ids=["mnist", "fashion_mnist"])
def test_script_of_downloaded_images_can_be_read(dataset: Mnist | FashionMnist) -> None:
    text = script({}, dataset)
    ast.parse(text)
    assert f"keras.datasets.{dataset.type}.load_data()" in text
    assert ("x, y = x[:1000], y[:1000]" in text) == (dataset.train == 1000)


def test_what_keras_cannot_do_is_refused() -> None:
    with pytest.raises(InputError, match="joint_fans scales two kernels as one"):
        script({"joint_fans": True}, Digits())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_script_trains_to_within_noise_of_the_trial(tmp_path: Path, make_trial: Callable[..., RecordedTrial]) -> None:
    """The noise is that of the difference of two means of five seeds; half the learning rate lies outside of it."""
    params, dataset = RNNParams(cell="gru", units=16, batch_size=32, learning_rate=0.005), Digits()
    steps, trials = round(6 * len(dataset.load().y_train) / params.batch_size), list[float]()
    for seed in range(5):
        trial = make_trial(f"trial-{seed}", dataset=dataset, seed=seed, epochs=6)
        train_rnn(params, trial)
        trials.append(trial.metrics[-1]["val_accuracy"])
    texts = [as_script(params, dataset, steps=steps, epochs=6, seed=seed, title="a trial") for seed in range(5)]
    slower = [text.replace("rate = 0.005", "rate = 0.0025") for text in texts]
    for scripts, is_alike in ((texts, True), (slower, False)):
        found = accuracies(tmp_path, "\n".join(scripts))[5::6]
        noise = float(np.sqrt((np.var(trials, ddof=1) + np.var(found, ddof=1)) / 5))
        gap = float(np.mean(found) - np.mean(trials))
        print(f"\ntrial {np.mean(trials):.4f}, script {np.mean(found):.4f}: {gap:+.4f}, noise {noise:.4f}")
        assert len(found) == 5 and 0 < noise < 0.03 and (abs(gap) <= 2.5 * noise) == is_alike


@pytest.mark.long
def test_script_learns_as_well_as_the_trial(tmp_path: Path) -> None:
    text = as_script(
        RNNParams(cell="gru", units=32, batch_size=32, learning_rate=0.005),
        Digits(),
        steps=20 * 1200 // 32,
        epochs=20,
        seed=0,
        title="a trial",
    )
    accuracy = accuracies(tmp_path, text)[-1]
    assert accuracy > 0.93, "the trial of these parameters has 0.96"


def accuracies(folder: Path, text: str) -> list[float]:
    """Run a script in a process of its own; return the accuracies in validation that it prints."""
    (folder / "script.py").write_text(text)
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=True)
    return [float(found) for found in re.findall(r"val_accuracy: ([\d.]+)", done.stdout)]
