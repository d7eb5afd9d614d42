"""The best trial's model on its way into the folder `champion/`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sweeper.core.files import write_json
from sweeper.core.predictions import Mistake, Predictions
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import TrialRecord
from sweeper.spec import Sweep
from sweeper.tracking import read_evaluation
from sweeper.worker.champion import find_model, known_model, known_test, take_champion
from sweeper.worker.task import WorkerContext

BEST = TrialRecord(7, "COMPLETE", {"height": 0.9}, value=0.9, step=3)


@pytest.fixture
def context(make_sweep: Callable[..., Sweep], tmp_path: Path) -> WorkerContext:
    (tmp_path / "sweep/trials/0007").mkdir(parents=True)
    return WorkerContext(make_sweep(), SweepFolder(tmp_path / "sweep"), study="abc")


def save_model(context: WorkerContext, content: str = "weights", trial: TrialRecord = BEST) -> None:
    models = context.checkpoints(trial.number, trial.params).models
    models.save(trial.step, {}, lambda folder: (folder / "MLmodel").write_text(content) and None)


def test_model_and_metrics_of_the_best_trial_become_the_champion(context: WorkerContext) -> None:
    save_model(context)
    digest = take_champion(context, BEST, {"test_accuracy": 0.8})
    champion = context.folder.champion
    assert (champion / "mlflow_model/MLmodel").read_text() == "weights"
    assert read_evaluation(champion, digest) == (7, {"test_accuracy": 0.8})
    assert known_model(context, BEST, {"champion": digest}) == (champion / "mlflow_model", {"test_accuracy": 0.8})


def test_champion_replaces_the_whole_folder_of_the_one_before(context: WorkerContext, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    context.folder.champion.mkdir()
    (context.folder.champion / "mlflow_model").symlink_to(tmp_path / "precious")
    (context.folder.champion / "old").touch()
    save_model(context)
    take_champion(context, BEST, {})
    assert (tmp_path / "precious").read_text() == "mine"
    assert sorted(path.name for path in context.folder.champion.iterdir()) == ["evaluation.json", "mlflow_model"]


def test_best_trial_without_a_model_leaves_none_of_an_earlier_one(context: WorkerContext) -> None:
    assert take_champion(context, BEST, {}) is None and not context.folder.champion.exists()
    save_model(context)
    take_champion(context, BEST, {})
    better = TrialRecord(8, "COMPLETE", {"height": 1.0}, value=1.0, step=3)
    digest = take_champion(context, better, {})
    assert read_evaluation(context.folder.champion, digest) == (8, {})
    assert [path.name for path in context.folder.champion.iterdir()] == ["evaluation.json"]


def test_damaged_or_foreign_model_is_not_used(context: WorkerContext, caplog: pytest.LogCaptureFixture) -> None:
    save_model(context)
    (file,) = (context.folder.path / "trials/0007/model").glob("*/files/MLmodel")
    file.write_text("other")
    assert find_model(context, BEST) is None
    assert "The model of trial 7 cannot be used: Checkpoint attempt-001-step-00000003 is damaged" in caplog.text
    save_model(context)
    assert find_model(WorkerContext(context.sweep, context.folder, study="other"), BEST) is None


def test_model_travels_through_a_remote_folder(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    url = f"file://{tmp_path}/remote"
    worker = WorkerContext(make_sweep(), SweepFolder(tmp_path / "worker", url), study="abc")
    driver = WorkerContext(make_sweep(), SweepFolder(tmp_path / "driver", url), study="abc")
    (tmp_path / "worker/trials/0007").mkdir(parents=True)
    (tmp_path / "driver").mkdir()
    for content in ("first", "second"):
        save_model(worker, content)
    assert (tmp_path / "remote/trials/0007/model/attempt-001-step-00000003/files/MLmodel").read_text() == "second"
    shutil.rmtree(tmp_path / "worker")
    digest = take_champion(driver, BEST, {"test_accuracy": 0.8})
    for place in ("driver", "remote"):
        assert read_evaluation(tmp_path / place / "champion", digest) == (7, {"test_accuracy": 0.8})
    driver.checkpoints(7).clear()
    assert not (tmp_path / "remote/trials/0007").exists() and not (tmp_path / "driver/trials/0007/model").exists()


PREDICTIONS = Predictions(("a", "b"), ((3, 1), (0, 4)), (Mistake(0, 1, 0.9, "iVBORw0KGgo="),))


def save_predictions(context: WorkerContext, document: object) -> None:
    store = context.checkpoints(BEST.number, BEST.params).predictions
    store.save(BEST.step, {}, lambda folder: write_json(folder / "predictions.json", document))


def test_predictions_of_the_best_trial_are_kept_with_its_metrics(context: WorkerContext) -> None:
    save_model(context)
    save_predictions(context, asdict(PREDICTIONS))
    digest = take_champion(context, BEST, {"test_accuracy": 0.8})
    facts = {"champion": digest}
    assert known_test(context.folder, BEST, facts) == ({"test_accuracy": 0.8}, PREDICTIONS)
    assert read_evaluation(context.folder.champion, digest) == (7, {"test_accuracy": 0.8})
    assert known_test(context.folder, replace(BEST, number=8), facts) == (None, None)
    assert known_test(context.folder, BEST, {}) == (None, None)
    evaluation = context.folder.champion / "evaluation.json"
    evaluation.write_text(evaluation.read_text().replace("0.9", "0.8"))
    assert known_test(context.folder, BEST, facts) == (None, None)
    context.checkpoints(BEST.number).clear()
    assert not context.folder.trial(BEST.number).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"matrix": [[1, 2]]},
        {"matrix": [[1, -1], [0, 1]]},
        {"classes": []},
        {"mistakes": [{"label": 2, "predicted": 0, "probability": 1.0, "picture": ""}]},
        {"mistakes": [{"label": 0, "predicted": 1, "probability": 1.0, "picture": "PHN2Zz4="}]},
        {"mistakes": 5},
    ],
)
def test_predictions_that_do_not_fit_together_are_left_out(context: WorkerContext, changes: dict[str, object]) -> None:
    save_predictions(context, asdict(PREDICTIONS) | changes)
    digest = take_champion(context, BEST, {"test_accuracy": 0.8})
    assert known_test(context.folder, BEST, {"champion": digest}) == ({"test_accuracy": 0.8}, None)
