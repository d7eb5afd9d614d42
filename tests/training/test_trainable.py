from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import InputError, TrialDivergedError
from sweeper.datasets.catalog import Digits, TimeSeries
from sweeper.training import RNNParams, train_rnn, trainable
from sweeper.training.engine import loop
from sweeper.training.engine.optimizers import OPTIMIZERS
from sweeper.training.engine.program import Program
from sweeper.training.engine.recurrence import CELLS
from tests.training.conftest import RecordedTrial

MakeTrial = Callable[..., RecordedTrial]
SMALL = RNNParams(units=8, batch_size=16, learning_rate=0.02)
RANDOM = RNNParams(
    cell="gru", units=6, batch_size=13, dropout=0.2, recurrent_dropout=0.1, optimizer="nadam", schedule="cosine"
)


@pytest.fixture(autouse=True)
def every_report_has_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "CHECKPOINT_SECONDS", 0.0)


def weights_of(trial: RecordedTrial) -> Any:
    import numpy as np

    latest = trial.checkpoints.latest()
    assert latest is not None
    with np.load(latest.path / "state.npz") as saved:
        return saved["weights"]


def in_another_process(folder: Path, params: RNNParams, **budget: Any) -> subprocess.Popen[str]:
    """Start a process that resumes the trial, trains it and prints its metrics."""
    code = """
import json, pathlib, sys
from sweeper.training import RNNParams, train_rnn, trainable
from tests.training.conftest import RecordedTrial
folder, params, budget = sys.argv[1:]
trainable.CHECKPOINT_SECONDS = 0.0
trial = RecordedTrial(pathlib.Path(folder), **json.loads(budget))
trial.resume()
train_rnn(RNNParams(**json.loads(params)), trial)
print(json.dumps(trial.metrics))
"""
    command = [sys.executable, "-W", "error", "-c", code, str(folder), params.model_dump_json(), json.dumps(budget)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)


@pytest.mark.parametrize("cell", CELLS)
def test_cell_learns(cell: str, make_trial: MakeTrial) -> None:
    trial = make_trial(epochs=6)
    train_rnn(SMALL.model_copy(update={"cell": cell, "learning_rate": 0.05}), trial)
    first, *_, last = trial.metrics
    assert last["loss"] < 0.8 * first["loss"]
    assert [report.step for report in trial.sent] == [1, 2, 3, 4, 5, 6]
    assert set(last) == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch"}
    assert last["epoch"] == 6.0
    assert first["parameters"] == weights_of(trial).size, "reported once, as it stays the same"


def test_predicted_classes_are_those_that_validation_counts(make_trial: MakeTrial) -> None:
    trial = make_trial(epochs=3)
    train_rnn(SMALL, trial)
    again = make_trial(epochs=3)
    again.resume()
    right = trainable.predict(SMALL, again) == again.data.y_val
    assert right.mean() == pytest.approx(trial.metrics[-1]["val_accuracy"])
    with pytest.raises(ValueError, match="time_series has no classes to predict"):
        trainable.predict(SMALL, make_trial("other", dataset=TimeSeries()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_learns(optimizer: str, make_trial: MakeTrial) -> None:
    trial = make_trial(epochs=6)
    rate = 0.5 if optimizer == "sgd" else 0.005
    params = SMALL.model_copy(update={"cell": "simple_rnn", "optimizer": optimizer, "learning_rate": rate})
    train_rnn(params, trial)
    assert trial.metrics[-1]["loss"] < trial.metrics[0]["loss"]


def test_same_trial_gives_the_same_bits_in_any_process(make_trial: MakeTrial) -> None:
    process = in_another_process(make_trial("subprocess").checkpoints.folder, RANDOM, epochs=3)
    first, other, second = make_trial("first"), make_trial("other", seed=8), make_trial("second")
    train_rnn(RANDOM, first)
    train_rnn(RANDOM.model_copy(update={"cell": "lstm"}), make_trial("lstm"))
    train_rnn(RANDOM, other)
    thread = threading.Thread(target=train_rnn, args=(RANDOM, second))  # as a worker does
    thread.start()
    thread.join()
    output, errors = process.communicate()
    assert first.metrics == second.metrics == json.loads(output)
    assert first.metrics != other.metrics
    assert [line for line in errors.splitlines() if not line.startswith("E0000")] == []  # TensorFlow, now and then


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_seed_of_the_hyperparameters_replaces_the_seed_of_the_trial(make_trial: MakeTrial, seed: int) -> None:
    one, two = make_trial("one", seed=1), make_trial("two", seed=2)
    params = SMALL.model_copy(update={"seed": seed, "cell": "simple_rnn"})
    train_rnn(params, one)
    train_rnn(params, two)
    assert one.metrics == two.metrics


@pytest.mark.parametrize("stop", [
    pytest.param(1, marks=pytest.mark.long), 3, pytest.param(5, marks=pytest.mark.long),
])  # fmt: skip
def test_resumed_trial_gives_the_same_bits_as_an_uninterrupted_one(make_trial: MakeTrial, stop: int) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(report: Any, meanwhile: Any) -> None:
        if report.step == stop:
            meanwhile()
            raise Interrupted

    budget = {"epochs": 3, "reports_per_epoch": 2}
    whole, broken, rest = make_trial("whole", **budget), make_trial("broken", **budget), make_trial("broken", **budget)
    train_rnn(RANDOM, whole)
    broken._send = interrupt
    with pytest.raises(Interrupted):
        train_rnn(RANDOM, broken)
    rest.resume()
    train_rnn(RANDOM, rest)
    assert rest.metrics == whole.metrics[stop - 1 :]
    assert (weights_of(rest) == weights_of(whole)).all()


@pytest.mark.parametrize(("steps_per_call", "ahead"), [
    (500, 1), (4, 3), (4, 1000),
    pytest.param(500, 3, marks=pytest.mark.long),
    pytest.param(500, 1000, marks=pytest.mark.long),
    pytest.param(4, 1, marks=pytest.mark.long),
])  # fmt: skip
def test_training_ahead_gives_the_same_bits(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch, ahead: int, steps_per_call: int
) -> None:
    monkeypatch.setattr(loop, "STEPS_PER_CALL", steps_per_call)
    waiting, working = make_trial("waiting", epochs=3), make_trial("working", epochs=3, ahead=ahead)
    train_rnn(RANDOM, waiting)
    calls = steps_in_each_call(monkeypatch)
    train_rnn(RANDOM, working)
    assert working.metrics == waiting.metrics
    assert (weights_of(working) == weights_of(waiting)).all()
    assert sum(calls) == 22 and len(calls) > (3 if steps_per_call == 500 else 6)


def steps_in_each_call(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    train = Program.train

    def count(self: Program, *args: Any, **options: Any) -> Any:
        calls.append(len(options["rates"]))
        return train(self, *args, **options)

    monkeypatch.setattr(Program, "train", count)
    monkeypatch.setattr(loop, "AHEAD_SECONDS", 0.0)  # one step in each call
    return calls


@pytest.mark.long
@pytest.mark.parametrize("_round", range(6))
def test_killed_trial_resumes_with_the_same_bits(make_trial: MakeTrial, _round: int) -> None:
    budget, moment = {"epochs": 60, "reports_per_epoch": 2}, random.randint(3, 50)
    whole, broken = make_trial("whole", **budget), make_trial("broken", **budget)
    folder = broken.checkpoints.folder
    process = in_another_process(folder, RANDOM, **budget)
    while process.poll() is None and not list(folder.glob(f"attempt-*{moment:02d}")):
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    output, errors = in_another_process(folder, RANDOM, **budget).communicate()
    train_rnn(RANDOM, whole)
    resumed = json.loads(output)
    assert 2 < len(resumed) < 120, errors
    assert resumed == whole.metrics[-len(resumed) :]
    assert (weights_of(broken) == weights_of(whole)).all()


def test_diverging_trial_raises_with_its_epoch(make_trial: MakeTrial) -> None:
    params = SMALL.model_copy(update={"activation": "linear", "optimizer": "sgd", "learning_rate": 10.0, "layers": 2})
    with pytest.raises(TrialDivergedError, match="at epoch"):
        train_rnn(params, make_trial(epochs=30))


def test_last_report_always_has_a_checkpoint(make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "CHECKPOINT_SECONDS", math.inf)
    trial = make_trial(epochs=4)
    train_rnn(SMALL, trial)
    assert [path.name for path in trial.checkpoints.folder.iterdir()] == ["attempt-001-step-00000004"]


def test_budget_of_steps_ends_within_an_epoch(make_trial: MakeTrial) -> None:
    trial = make_trial(steps=7, report_every=3)
    train_rnn(SMALL, trial)
    assert [metrics["epoch"] for metrics in trial.metrics] == [0.5, 1.0, 7 * 16 / 96]


def test_batch_larger_than_the_data_spans_epochs(make_trial: MakeTrial) -> None:
    trial = make_trial(epochs=4)
    train_rnn(SMALL.model_copy(update={"batch_size": 192}), trial)
    assert [metrics["epoch"] for metrics in trial.metrics] == [2.0, 4.0, 6.0, 8.0]


def test_retraining_makes_the_same_steps_on_training_and_validation_data(make_trial: MakeTrial) -> None:
    params = RANDOM.model_copy(update={"batch_size": 16, "watch_test": True})  # 96 samples to train, 32 to validate
    first, again = make_trial("first"), make_trial("again")
    train_rnn(params, first)
    trainable.retrain(params, again)
    assert [report["learning_rate"] for report in again.metrics] == [
        report["learning_rate"] for report in first.metrics
    ]
    assert [report["epoch"] * 128 for report in again.metrics] == [report["epoch"] * 96 for report in first.metrics]
    assert {"test_loss", "test_accuracy"} <= first.metrics[-1].keys()
    assert not any(name.startswith("test_") for report in again.metrics for name in report)
    assert again.metrics[-1]["loss"] != first.metrics[-1]["loss"]


def test_retraining_reads_no_test_data(make_trial: MakeTrial) -> None:
    whole, blind = make_trial("whole"), make_trial("blind")
    data = whole.data
    blind._data = replace(data, x_test=data.x_test * 0, y_test=data.y_test * 0)
    for trial in (whole, blind):
        trainable.retrain(RANDOM, trial)
    assert whole.metrics == blind.metrics and (weights_of(whole) == weights_of(blind)).all()


def test_evaluation_saves_the_network_that_it_tested(make_trial: MakeTrial) -> None:
    import keras
    import numpy as np

    trial = make_trial()
    train_rnn(RANDOM, trial)
    trial.checkpoint = trial.checkpoints.latest().path  # type: ignore[union-attr]
    metrics = train_rnn.evaluate(RANDOM, trial)  # type: ignore[attr-defined]
    assert isinstance(trial.dataset, Digits) and trial.model is not None
    data = trial.dataset.load()
    model = keras.saving.load_model(trial.model / "data/model.keras", safe_mode=True)
    probabilities = model(data.x_test.astype("float32")).numpy()
    assert (probabilities.argmax(1) == data.y_test).mean() == metrics["test_accuracy"]
    loss = -np.log(probabilities[np.arange(len(data.y_test)), data.y_test]).mean()
    assert loss == pytest.approx(metrics["test_loss"], abs=1e-5)
    example = np.array(json.loads((trial.model / "input_example.json").read_text()))
    assert (example == data.x_test[: len(example)]).all()


def test_forecasts_are_tested_by_their_mean_squared_error(make_trial: MakeTrial) -> None:
    import mlflow
    import numpy as np

    trial = make_trial(dataset=TimeSeries(steps=12, train=96, validation=32, test=32))
    train_rnn(SMALL, trial)
    trial.checkpoint = trial.checkpoints.latest().path  # type: ignore[union-attr]
    metrics = trainable.evaluate(SMALL, trial)
    data, model = trial.data, mlflow.pyfunc.load_model(str(trial.model))
    predicted = model.predict(data.x_test)
    assert float(np.square(predicted - data.y_test).mean()) == pytest.approx(metrics["test_loss"], rel=1e-4)
    np.testing.assert_allclose(model.predict(data.x_test[0, :, 0].tolist()), predicted[:1], rtol=1e-4, atol=1e-6)


def test_evaluation_needs_a_checkpoint_of_the_same_network(make_trial: MakeTrial) -> None:
    trial = make_trial()
    with pytest.raises(ValueError, match="no checkpoint"):
        trainable.evaluate(SMALL, trial)
    train_rnn(SMALL, trial)
    trial.checkpoint = trial.checkpoints.latest().path  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="another network"):
        trainable.evaluate(SMALL.model_copy(update={"units": 5}), trial)


def test_sweep_without_a_dataset_is_refused_with_the_remedy(make_trial: MakeTrial) -> None:
    with pytest.raises(InputError, match="dataset: {type: mnist}"):
        train_rnn(SMALL, make_trial(dataset=None))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_memory_of_a_worker_is_bounded(make_trial: MakeTrial) -> None:
    import psutil

    used, rng = [], random.Random(0)
    for number in range(300):
        params = RNNParams(
            cell=rng.choice(list(CELLS)),
            optimizer=rng.choice(list(OPTIMIZERS)),
            bidirectional=rng.random() < 0.5,
            dropout=rng.choice([0.0, rng.uniform(0.1, 0.5)]),
            units=rng.randint(4, 64),
            batch_size=rng.choice([16, 32, 48]),
        )
        train_rnn(params, make_trial(str(number), epochs=1))
        used.append(psutil.Process().memory_info().rss / 2**20)
    # There are more structures than the cache holds: memory rises until it is full, and no further.
    assert max(used[-50:]) - max(used[50:100]) < 40, used[::25]


CHANGING_CPUS = """
import json, pathlib, sys
from sweeper.training import RNNParams, train_rnn, trainable
from sweeper.training.engine import program, runtime
from tests.training.conftest import RecordedTrial

trainable.CHECKPOINT_SECONDS = 0.0
program.shards_for = lambda params, cpus: cpus  # also for a network as small as this
params = RNNParams(**json.loads(sys.argv[1]))
threads = []

def trial(folder, stop=None, changes=True):
    made = RecordedTrial(pathlib.Path(folder), epochs=3, reports_per_epoch=2)
    made._cpus_at = lambda step: 2 if changes and 2 < step < 6 else 1
    def send(report, meanwhile):
        threads.append(runtime.tensorflow.config.threading.get_inter_op_parallelism_threads())
        made.sent.append(report)
        if made is not whole and meanwhile:
            meanwhile()
        if report.step == stop:
            raise KeyboardInterrupt
    made._send = send
    return made

whole = trial("whole")
broken, rest, alone = trial("broken", 4), trial("broken"), trial("alone", changes=False)
train_rnn(params, whole)
assert threads == [1, 1, 2, 2, 2, 1], threads
assert [report.cpus for report in whole.sent] == threads
try:
    train_rnn(params, broken)
except KeyboardInterrupt:
    rest.resume()
train_rnn(params, rest)
assert rest.metrics == whole.metrics[3:], (rest.metrics, whole.metrics)
train_rnn(params, alone)
assert alone.metrics[:2] == whole.metrics[:2]
assert abs(alone.metrics[-1]["loss"] - whole.metrics[-1]["loss"]) < 1e-4
whole.resume()
print(trainable.evaluate(params, whole)["test_accuracy"])
"""


def test_cpus_may_change_while_a_trial_trains(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", CHANGING_CPUS, RANDOM.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.0 <= float(done.stdout) <= 1.0


def test_trial_with_half_a_cpu_does_not_start_again_for_a_whole_one(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    start = trainable._start

    def count(params: RNNParams, trial: Any, *rest: Any) -> Any:
        starts.append(trial.step)
        return start(params, trial, *rest)

    monkeypatch.setattr(trainable, "_start", count)
    trial = make_trial("half", epochs=3)
    trial._resources = trial._resources.model_copy(update={"cpus": 0.5})
    trial._cpus_at = lambda step: 1 if step > 1 else None
    train_rnn(RANDOM, trial)
    assert starts == [0] and trial.step == 3
