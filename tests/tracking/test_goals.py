"""MLflow marks the trials on the front of several goals, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.core.trials import GoalValue
from sweeper.spec import Sweep
from sweeper.tracking import sync
from sweeper.tracking.content import front_changes, sweep_params
from sweeper.tracking.pages.view import save_view
from tests.tracking.tools import RecordedStudy, sweep_run, trial_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy

MakeSweep = Callable[..., Sweep]
GOALS = [{"metric": "score"}, {"metric": "parameters", "direction": "minimize"}]


@pytest.fixture
def study(make_sweep: MakeSweep) -> RecordedStudy:
    return RecordedStudy(make_sweep(objective=GOALS, prune_on="score", budget={"trials": 4, "epochs": 1}))


def trial(study: RecordedStudy, number: int, score: float, parameters: float) -> None:
    study.begin(number)
    study.report(number, score, parameters=parameters)
    study.change(number, others=(GoalValue("parameters", parameters, "minimize"),))
    study.end(number)


def marked(uri: str, study: RecordedStudy) -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study.sweep.tracking.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`sweeper.front` = 'true'")
    return sorted(int(run.data.tags["sweeper.trial"]) for run in found)


def test_front_is_marked_and_a_trial_that_falls_off_it_is_not(uri: str, study: RecordedStudy) -> None:
    trial(study, 0, 0.5, 100)
    trial(study, 1, 0.4, 50)
    sync(study, uri)
    assert marked(uri, study) == [0, 1] and sweep_run(uri, study).data.tags["sweeper.front"] == "0, 1"
    trial(study, 2, 0.6, 40)  # betters both
    trial(study, 3, 0.2, 10)
    sync(study, uri)
    assert marked(uri, study) == [2, 3]
    parent = sweep_run(uri, study)
    assert parent.data.tags["sweeper.front"] == "2, 3" and parent.data.tags["sweeper.best_trial"] == "2"
    assert "On the front of 2 goals: trials 2, 3." in parent.data.tags["mlflow.note.content"]
    assert trial_runs(uri, study)[0].data.metrics["parameters"] == 100
    assert parent.data.params["goals"] == "maximize score, minimize parameters"
    assert (parent.data.params["metric"], parent.data.params["prune_on"]) == ("score", "score")


def test_single_goal_has_no_front(uri: str, make_sweep: MakeSweep) -> None:
    study = RecordedStudy(make_sweep(budget={"trials": 1, "epochs": 1}))
    study.trial(0, 0.5)
    sync(study, uri)
    assert not front_changes(study.sweep, study.rows(), set())
    assert "sweeper.front" not in sweep_run(uri, study).data.tags | trial_runs(uri, study)[0].data.tags
    assert {"goals", "prune_on"}.isdisjoint(sweep_params(study.sweep))


def test_view_has_a_column_and_a_chart_for_each_goal(study: RecordedStudy) -> None:
    class Client:
        def set_experiment_tag(self, experiment: str, key: str, text: str) -> None:
            self.saved: dict[str, Any] = json.loads(text)

    client = Client()
    assert save_view(client, "1", "id", study.sweep, "run")  # type: ignore[arg-type]
    assert client.saved["selectedColumns"][:3] == [
        "metrics.`score`",
        "metrics.`parameters`",
        "tags.`sweeper.front`",
    ]
    charts = {chart["displayName"]: chart for chart in client.saved["compareRunCharts"]}
    assert charts["score by parameters"]["xaxis"] == {"key": "parameters", "type": "METRIC"}
