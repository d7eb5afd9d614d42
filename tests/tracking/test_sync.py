from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.spec import Sweep, load_sweep
from sweeper.tracking import sync
from sweeper.tracking.client import connect
from tests.tracking.tools import (
    DATASET,
    RecordedStudy,
    assert_equal,
    four_trials,
    history,
    runs_of,
    sweep_run,
    trial_runs,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


def test_runs_begin_and_end_when_their_trials_did(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    sync(study, uri)
    for number, run in trial_runs(uri, study).items():
        row = study.rows()[number]
        assert row.started is not None and row.ended is not None
        assert run.info.start_time == int(row.started.timestamp() * 1000)
        assert run.info.end_time == int(row.ended.timestamp() * 1000)
        assert run.info.run_name == f"trial-{number:04d}"


def test_sweep_run_has_the_settings_and_the_results(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    sync(study, uri)
    run = sweep_run(uri, study)
    expected = {
        "metric": "score",
        "direction": "maximize",
        "trials": "4",
        "epochs": "3",
        "sampler": "random",
        "seed": "0",
    }
    assert expected.items() <= run.data.params.items()
    counts = {state: run.data.tags[f"sweeper.{state}"] for state in ("complete", "pruned", "fail", "running")}
    assert counts == {"complete": "2", "pruned": "1", "fail": "1", "running": "0"}
    best = trial_runs(uri, study)[2]
    assert (run.data.tags["sweeper.best_trial"], run.data.tags["sweeper.best_run"]) == ("2", best.info.run_id)
    assert [(step, value) for step, value, _ in history(uri, run, "best_score")] == [(0, 0.3), (2, 0.6)]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("mnist", DATASET["digest"][:36])
    assert run.data.tags["sweeper.dataset.digest"] == DATASET["digest"]
    assert [file.path for file in connect(uri).list_artifacts(run.info.run_id)] == ["sweep.yaml"]


def test_best_so_far_waits_for_lower_trials_and_is_reproducible(uri: str, study: RecordedStudy) -> None:
    study.begin(0)
    study.trial(1, 0.9, 0.9, 0.9)
    sync(study, uri)
    assert history(uri, sweep_run(uri, study), "best_score") == []
    for value in (0.1, 0.2, 0.3):
        study.report(0, value)
    study.end(0)
    sync(study, uri)
    sync(study, uri)
    assert [(step, value) for step, value, _ in history(uri, sweep_run(uri, study), "best_score")] == [
        (0, 0.3),
        (1, 0.9),
    ]


def test_sweep_run_ends_as_the_sweep_did(uri: str, make_sweep: Callable[..., Sweep]) -> None:
    def ended(name: str, *states: str) -> str:
        study = RecordedStudy(make_sweep(name=name, budget={"trials": 2, "epochs": 3}))
        for number, state in enumerate(states):
            study.trial(number, 0.5, state=state)
        sync(study, uri)
        run = sweep_run(uri, study)
        return f"{run.info.status} {run.data.tags['sweeper.state']}"

    assert ended("done", "COMPLETE", "PRUNED") == "FINISHED COMPLETE"
    assert ended("hopeless", "FAIL", "FAIL") == "FAILED FAIL"
    assert ended("cut-short", "COMPLETE") == "KILLED STOPPED"
    assert ended("interrupted", "COMPLETE", "RUNNING") == "KILLED STOPPED"


def test_repeated_sync_writes_nothing(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    assert sync(study, uri) > 0
    assert sync(study, uri) == 0
    assert_equal(uri, study)


def test_sync_writes_only_what_is_missing_of_a_trial(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.1, 0.2, state="RUNNING")
    sync(study, uri)
    study.report(0, 0.3)
    study.end(0)
    assert sync(study, uri) == 2 + 1 + 1, "one point with its epoch, one state, one point of the sweep's own curve"
    assert_equal(uri, study)


def test_ended_trial_that_runs_again_is_reopened(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.1, state="FAIL", reason="node lost")
    sync(study, uri)
    study.change(0, state="RUNNING", reason=None, ended=None, attempt=2)
    sync(study, uri)
    assert_equal(uri, study)


def test_new_study_of_the_same_name_gets_its_own_runs(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    sync(study, uri)
    again = RecordedStudy(study.sweep)
    four_trials(again)
    sync(again, uri)
    assert_equal(uri, study)
    assert_equal(uri, again)
    assert {run.info.run_id for run in runs_of(uri, study)}.isdisjoint(run.info.run_id for run in runs_of(uri, again))


def test_reports_that_the_study_has_not_judged_are_not_written(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.1, 0.2, 0.3, state="RUNNING")
    study.change(0, step=2)
    sync(study, uri)
    assert [step for step, _, _ in history(uri, trial_runs(uri, study)[0])] == [1, 2]


def test_sweep_file_stored_with_its_run_can_be_loaded_again(uri: str, make_sweep: Callable[..., Sweep]) -> None:
    study = RecordedStudy(
        make_sweep(
            description='A "test": #1',
            space={
                "cell": {"type": "categorical", "choices": ["gru", "on", "1e-3", None]},
                "units": {"type": "int", "low": 8, "high": 64, "log": True},
                "rate": {"type": "float", "low": 1e-4, "high": 0.1, "log": True, "when": {"cell": "gru"}},
                "layers": 2,
            },
            enqueue=[{"cell": "gru", "units": 16}],
        )
    )
    study.trial(0, 0.5)
    sync(study, uri)
    path = connect(uri).download_artifacts(sweep_run(uri, study).info.run_id, "sweep.yaml")
    assert load_sweep(path) == study.sweep


def test_trial_that_has_ended_takes_three_requests(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.1, 0.2, 0.3)
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("create_run", "log_batch", "log_metric", "log_param", "set_tag", "update_run", "set_terminated"):
            patch.setattr(f"mlflow.MlflowClient.{name}", noted(asked, name))
        sync(study, uri)
    assert_equal(uri, study)
    of_the_trial = asked[1:-2]  # the sweep's own run begins before it, and is written after it
    assert of_the_trial == ["create_run", "log_batch", "set_terminated"]


def noted(asked: list[str], name: str) -> Callable[..., Any]:
    import mlflow

    original = getattr(mlflow.MlflowClient, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(name)
        return original(self, *args, **kwargs)

    return call


@pytest.mark.parametrize("metrics", [999, 1000])
def test_report_with_as_many_metrics_as_one_request_may_have_is_written(
    uri: str, study: RecordedStudy, metrics: int
) -> None:
    study.begin(0)
    study.report(0, 0.5, **{f"m{number}": number / 7 for number in range(metrics - 2)})  # with the value and the epoch
    study.end(0)
    sync(study, uri)
    run = trial_runs(uri, study)[0]
    assert len(run.data.metrics) == metrics and run.data.params and run.data.tags["sweeper.state"] == "COMPLETE"


def test_surplus_run_of_a_trial_is_deleted(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    sync(study, uri)
    client, run = connect(uri), trial_runs(uri, study)[0]
    client.create_run(run.info.experiment_id, tags=run.data.tags)
    parent = sweep_run(uri, study)
    client.create_run(parent.info.experiment_id, tags=parent.data.tags)
    sync(study, uri)
    assert_equal(uri, study)


@pytest.mark.parametrize(
    "is_done", [pytest.param(False, id="refused", marks=pytest.mark.long), pytest.param(True, id="answer lost")]
)
def test_failure_of_any_call_duplicates_and_loses_nothing(
    uri: str, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    import mlflow

    calls = _failing_client(monkeypatch, mlflow, is_done=is_done)
    for fatal in range(100):
        study = RecordedStudy(make_sweep(name=f"sweep-{fatal}", budget={"trials": 2, "epochs": 3}))
        study.trial(0, 0.1, 0.2, 0.3)
        study.trial(1, 0.2, state="PRUNED", reason="pruned after epoch 1")
        calls["left"] = fatal
        sync(study, uri)
        if calls["left"] >= 0:
            assert fatal > 10
            return
        assert_equal(uri, study)
    raise AssertionError("the calls never ended")


def _failing_client(monkeypatch: pytest.MonkeyPatch, mlflow: Any, *, is_done: bool) -> dict[str, int]:
    """Make the n-th call to MLflow fail, before or after it is carried out."""
    calls = {"left": 1_000_000}
    watched = (
        "create_experiment get_experiment_by_name create_run search_runs log_batch log_text log_inputs set_terminated "
        "update_run get_metric_history"
    )
    for name in watched.split():
        original = getattr(mlflow.MlflowClient, name)

        def call(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            calls["left"] -= 1
            if calls["left"] == -1 and not is_done:
                raise ConnectionError("refused")
            answer = _original(self, *args, **kwargs)
            if calls["left"] == -1:
                raise ConnectionError("answer lost")
            return answer

        monkeypatch.setattr(mlflow.MlflowClient, name, call)
    return calls
