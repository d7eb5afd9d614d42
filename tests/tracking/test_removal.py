from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sweeper.core.errors import TrackingError
from sweeper.spec import Sweep
from sweeper.tracking import delete_runs, lost_model_notes, sync
from sweeper.tracking.client import connect
from sweeper.tracking.pages.view import has_view
from tests.tracking.tools import RecordedStudy, assert_equal, four_trials, history, runs_of, sweep_run, trial_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy

NO_CHECKPOINT = SimpleNamespace(has_any=lambda: False)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_run_of_a_trial_that_is_run_again_is_reopened_and_ends_anew(
    uri: str, make_sweep: Callable[..., Sweep], direction: str
) -> None:
    sweep = make_sweep(budget={"trials": 4, "epochs": 3}, objective={"metric": "score", "direction": direction})
    study = RecordedStudy(sweep)
    study.trial(0, 0.1, state="FAIL", reason="AttributeError: y_vall (buggy.py:9)")
    study.trial(1, 0.4, 0.5, 0.6)
    study.trial(2, 0.5, 0.5, 0.5, state="PRUNED", reason="pruned after epoch 3")
    study.trial(3, 0.5, 0.5, 0.55)
    sync(study, uri)
    before = trial_runs(uri, study)[0]
    assert before.info.status == "FAILED"
    study.change(0, state="RUNNING", reason=None, ended=None, attempt=2)
    sync(study, uri)
    assert_equal(uri, study)
    best = 0.9 if direction == "maximize" else 0.05
    study.report(0, best)
    study.report(0, best)
    study.end(0)
    sync(study, uri)
    assert_equal(uri, study)
    after = trial_runs(uri, study)[0]
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.tags["sweeper.attempt"] == "2" and after.info.end_time > before.info.end_time
    parent = sweep_run(uri, study)
    assert parent.data.metrics["best_score"] == best
    newest = {step: value for step, value, _ in sorted(history(uri, parent, "best_score"), key=lambda point: point[2])}
    assert newest == {0: best, 1: best, 3: best}
    assert sync(study, uri) == 0


def test_curve_of_a_fork_begins_at_its_first_trial(uri: str, study: RecordedStudy) -> None:
    study.facts["history"] = {"sweep": "parent", "trials": 5}
    study.trial(5, 0.1, 0.2, 0.3)
    study.trial(6, 0.1, 0.2, 0.4)
    sync(study, uri)
    assert_equal(uri, study)
    points = history(uri, sweep_run(uri, study), "best_score")
    assert [(step, value) for step, value, _ in points] == [(5, 0.3), (6, 0.4)]


def register(uri: str, study: RecordedStudy, number: int) -> str:
    """Register a version of the model of a trial, without files; return its address."""
    client, run = connect(uri), trial_runs(uri, study)[number]
    client.create_registered_model("digits")
    version = client.create_model_version("digits", f"{run.info.artifact_uri}/model", run.info.run_id)
    return f"models:/digits/{version.version}"


def test_runs_of_one_sweep_are_deleted_and_its_versions_stay(uri: str, make_sweep: Callable[..., Sweep]) -> None:
    study, other = (RecordedStudy(make_sweep(name=name, tracking={"model": "digits"})) for name in ("one", "two"))
    for each in (study, other):
        four_trials(each)
        sync(each, uri)
    version = register(uri, study, 2)
    assert delete_runs(study, uri) == (5, [version])
    assert runs_of(uri, study) == [] and len(runs_of(uri, other)) == 5
    tags = connect(uri).get_experiment_by_name(other.sweep.tracking.experiment).tags
    assert has_view(tags, other.id) and not has_view(tags, study.id)
    assert connect(uri).get_model_version("digits", "1").version
    assert delete_runs(study, uri) == (0, [])


def test_runs_in_a_store_that_does_not_answer_are_not_called_deleted(study: RecordedStudy) -> None:
    with pytest.raises(TrackingError, match="did not delete the runs of 'climbing'"):
        delete_runs(study, "http://127.0.0.1:9")


def test_lost_model_is_found_in_mlflow(uri: str, make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(trainable="tests.samples:count_and_evaluate", tracking={"model": "digits"})
    study = RecordedStudy(sweep)
    four_trials(study)
    study.facts |= {"champion": "ab" * 32, "folder": "/here/sweeps/climbing"}
    sync(study, uri)
    (note,) = lost_model_notes(study, None, lambda number: NO_CHECKPOINT, uri)
    assert note.startswith(
        "The checkpoints and the model of trial 2, the best one, are no longer in /here/sweeps/climbing. "
        "MLflow has no version of the model. `sweeper best climbing` prints its parameters"
    )
    version = register(uri, study, 2)
    (note,) = lost_model_notes(study, None, lambda number: NO_CHECKPOINT, uri)
    assert f"MLflow has the model: {version}." in note
    (note,) = lost_model_notes(study, None, lambda number: NO_CHECKPOINT, "http://127.0.0.1:9")
    assert "MLflow does not answer" in note
    del study.facts["champion"]
    (note,) = lost_model_notes(study, None, lambda number: NO_CHECKPOINT, uri)
    assert note.startswith("Trial 2, the best one, has no checkpoint in /here/sweeps/climbing, so it cannot be tested.")
    assert lost_model_notes(study, {"test_score": 1.0}, lambda number: NO_CHECKPOINT, uri) == ()
    assert lost_model_notes(study, None, lambda number: SimpleNamespace(has_any=lambda: True), uri) == ()


def test_trainable_that_cannot_be_tested_has_lost_nothing(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    assert lost_model_notes(study, None, lambda number: NO_CHECKPOINT, uri) == ()
