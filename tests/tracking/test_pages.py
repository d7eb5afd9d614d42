"""What MLflow's UI shows of a sweep: the description of its run, and the saved view with charts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.core.trials import Champion
from sweeper.spec import Sweep
from sweeper.tracking import comparison_link, log_report, sweep_links, sync
from sweeper.tracking.client import connect
from sweeper.tracking.content import EPOCH
from sweeper.tracking.pages.note import outcome_tags
from tests.tracking.tools import RecordedStudy, four_trials, history, sweep_run, trial_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy

MakeSweep = Callable[..., Sweep]
SPACE = {
    "units": {"type": "int", "low": 8, "high": 64},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
    "layers": 2,
}


def note_of(uri: str, study: RecordedStudy) -> str:
    return str(sweep_run(uri, study).data.tags["mlflow.note.content"])


def view_of(uri: str, study: RecordedStudy) -> dict[str, Any]:
    experiment = connect(uri).get_experiment_by_name(study.sweep.tracking.experiment)
    return dict(json.loads(experiment.tags[f"mlflow.sharedViewState.sweeper-{study.id}"]))


def test_description_tells_the_outcome_with_links(uri: str, make_sweep: MakeSweep) -> None:
    study = RecordedStudy(make_sweep(description="Which height is best?", budget={"trials": 4, "epochs": 3}))
    four_trials(study)
    sync(study, uri)
    experiment, best = sweep_run(uri, study).info.experiment_id, trial_runs(uri, study)[2].info.run_id
    view = f"viewStateShareKey=sweeper-{study.id}"
    machine = "workflowType=machine_learning"
    assert note_of(uri, study).split("\n\n") == [
        "Sweep **climbing** is done: 2 complete, 1 pruned, 1 failed.",
        f"Best: **score 0.6000**, [trial 2](#/experiments/{experiment}/runs/{best}?{machine}).",
        f"See: [charts of all trials](#/experiments/{experiment}/runs?{view}&compareRunsMode=CHART&{machine}), "
        f"[table of all trials](#/experiments/{experiment}/runs?{view}&{machine}).",
        "Which height is best?",
    ]


def test_description_names_the_model_its_test_and_the_report(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    champion = Champion("rnn_2", 3, True, 2, "beats version 2: score 0.6 against 0.5", "models:/x", "r", "m")
    outcome = outcome_tags(champion, study.rows()[2], {"test_accuracy": 0.98765})
    sync(study, uri, outcome)
    assert log_report(study, uri, lambda: "<p>old</p>", replace=False)
    assert log_report(study, uri, lambda: "<p>new</p>", replace=True)
    assert not log_report(study, uri, lambda: "<p>other</p>", replace=False)
    run = sweep_run(uri, study)
    assert [link.title for link in sweep_links(study, uri, "http://h")][3] == "the report on it"
    text = note_of(uri, study)
    assert "On the test set: test\\_accuracy 0.9877." in text
    assert "Model: [rnn\\_2 version 3](#/models/rnn_2/versions/3?workflowType=machine_learning), of trial 2" in text
    assert f"runs/{run.info.run_id}/artifacts/report.html?" in text and text.count("report.html") == 1
    sync(study, uri)  # by another process, which knows of neither
    assert note_of(uri, study) == text
    assert outcome_tags(None, study.rows()[2], {}) == {}


def test_description_follows_a_sweep_that_runs_and_stops(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.1, 0.2, 0.3)
    study.trial(1, 0.1, state="RUNNING")
    sync(study, uri)
    assert note_of(uri, study).startswith("Sweep **climbing** has stopped: 1 interrupted, 1 complete.")


def test_view_charts_the_objective_by_epoch_and_by_parameters(uri: str, make_sweep: MakeSweep) -> None:
    study = RecordedStudy(make_sweep(space=SPACE))
    study.begin(0, units=8, optimizer="sgd", momentum=0.5)
    study.report(0, 0.5)
    study.end(0)
    sync(study, uri)
    first = view_of(uri, study)
    links = {link.title: link.url for link in sweep_links(study, uri, "http://h", important=["momentum", "units"])}
    view = view_of(uri, study)
    curves, parallel, one, two = view["compareRunCharts"]
    assert (curves["type"], curves["metricKey"]) == ("LINE", "score")
    assert (curves["xAxisKey"], curves["selectedXAxisMetricKey"]) == ("metric", "epoch")
    assert (parallel["type"], parallel["selectedMetrics"], parallel["showAllRuns"]) == ("PARALLEL", ["score"], True)
    assert parallel["selectedParams"] == ["units", "optimizer"], "those that every run has"
    assert [chart["xaxis"]["key"] for chart in (one, two)] == ["momentum", "units"]
    assert one["yaxis"] == {"key": "score", "type": "METRIC"}
    (section,) = view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {section["uuid"]}
    assert view["columnOrder"][:3] == ["attributes.`Run Name`", "metrics.`score`", "tags.`sweeper.state`"]
    assert view["runsHiddenMode"] == "SHOW_ALL"
    assert [chart["xaxis"]["key"] for chart in first["compareRunCharts"][2:]] == ["units", "optimizer"]
    assert "compareRunsMode=CHART" in links["the trials in charts"]
    assert "viewStateShareKey" in links["the trials in charts"]


def test_epoch_of_each_report_is_a_metric(uri: str, make_sweep: MakeSweep) -> None:
    study = RecordedStudy(make_sweep(budget={"trials": 2, "epochs": 1.5, "reports_per_epoch": 2}))
    study.trial(0, 0.1, 0.2, 0.3)
    study.begin(1)
    study.report(1, 0.5, epoch=7.0)  # its own
    sync(study, uri)
    runs = trial_runs(uri, study)
    assert [value for _, value, _ in history(uri, runs[0], EPOCH)] == [0.5, 1.0, 1.5]
    assert [value for _, value, _ in history(uri, runs[1], EPOCH)] == [7.0]
    steps = RecordedStudy(make_sweep(name="steps", budget={"trials": 1, "steps": 100}))
    steps.trial(0, 0.1)
    sync(steps, uri)
    assert EPOCH not in trial_runs(uri, steps)[0].data.metrics
    sweep_links(steps, uri, "http://h")
    assert view_of(uri, steps)["compareRunCharts"][0]["xAxisKey"] == "step"


def test_saved_view_of_a_user_is_kept_by_a_sync(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.1)
    sync(study, uri)
    run = sweep_run(uri, study)
    connect(uri).set_experiment_tag(run.info.experiment_id, f"mlflow.sharedViewState.sweeper-{study.id}", '{"own": 1}')
    study.trial(1, 0.2)
    sync(study, uri)
    assert view_of(uri, study) == {"own": 1}


def test_comparison_of_trials_and_of_sweeps_opens_their_runs(uri: str, make_sweep: MakeSweep) -> None:
    studies = []
    for name in ("one", "two"):
        studies.append(RecordedStudy(make_sweep(name=name, tracking={"experiment": f"of-{name}"})))
        studies[-1].trial(0, 0.5)
        sync(studies[-1], uri)
    one, two = studies
    ids = [sweep_run(uri, study).info.run_id for study in studies]
    link = comparison_link([(one, None), (two, None)], uri, "http://h")
    assert link.startswith("http://h/#/compare-runs?runs=%5B%22" + f"{ids[0]}%22%2C%20%22{ids[1]}")
    link = comparison_link([(two, 0), (one, 0)], uri, "http://h")
    assert trial_runs(uri, two)[0].info.run_id in link
    experiments = [sweep_run(uri, study).info.experiment_id for study in (two, one)]
    assert link.endswith(
        f"experiments=%5B%22{experiments[0]}%22%2C%20%22{experiments[1]}%22%5D&workflowType=machine_learning"
    )
