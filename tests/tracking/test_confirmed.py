"""MLflow tells fresh runs from trials, and the registry prefers a confirmed mean to a lucky value."""

from __future__ import annotations

import pytest

from sweeper.core.confirmation import Confirmation, Contender
from sweeper.core.trials import FreshRun
from sweeper.tracking import sync
from sweeper.tracking.models.decision import Decision, confirmed_decision, confirmed_tags
from tests.tracking.tools import RecordedStudy, history, sweep_run, trial_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy

CONTENDERS = (Contender(0, 0.5, (0.44, 0.46), 0.05), Contender(1, 0.6, (0.3, 0.32), 0.05))
CONFIRMED = Confirmation(CONTENDERS, 2, is_complete=True, p_value=0.01)


def test_fresh_runs_are_marked_and_counted_nowhere(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.5)
    study.trial(1, 0.6)
    for number, (trial, run) in enumerate([(0, 1), (1, 1), (0, 2), (1, 2)], 2):
        study.begin(number)
        study.change(number, confirms=FreshRun(trial, run, 70 + number))
        study.report(number, 0.9)
        study.end(number)
    study.trial(6, 0.7)  # the search went on
    study.confirmed = CONFIRMED
    sync(study, uri)
    runs, parent = trial_runs(uri, study), sweep_run(uri, study)
    assert len(runs) == 7 and parent.data.tags["sweeper.complete"] == "3"
    assert runs[4].info.run_name == "trial-0000-seed-2"
    assert (runs[4].data.tags["sweeper.confirms"], runs[4].data.tags["sweeper.seed"]) == ("0", "74")
    assert "sweeper.confirms" not in runs[1].data.tags
    assert "trains trial 0 again with a fresh seed" in runs[4].data.tags["mlflow.note.content"]
    assert parent.data.tags["sweeper.best_trial"] == "0", "not trial 6, which is not confirmed"
    confirmed = {name: value for name, value in parent.data.metrics.items() if name.startswith("confirmed")}
    assert confirmed == pytest.approx(
        {"confirmed_score": 0.45, "confirmed_score_low": 0.40, "confirmed_score_high": 0.50}
    )
    assert "Confirmed with 2 fresh seeds: **0.4500 ± 0.05**" in parent.data.tags["mlflow.note.content"]
    assert [(step, value) for step, value, _ in history(uri, parent, "best_score")] == [(0, 0.5), (1, 0.6), (6, 0.7)]
    sync(study, uri)
    assert len(history(uri, sweep_run(uri, study), "confirmed_score")) == 1, "nothing is written twice"


def test_confirmed_trial_takes_the_place_of_a_lucky_one_of_its_sweep() -> None:
    assert confirmed_decision(CONFIRMED, 0, 1, "version 3") == Decision(
        True, "beats version 3, trial 1 of the same sweep: 0.45 with fresh seeds against 0.31"
    )
    assert confirmed_decision(CONFIRMED, 1, 0, "version 3") is None, "it is not the best"
    assert confirmed_decision(CONFIRMED, 0, None, "version 3") is None, "the champion is of another sweep"
    assert confirmed_decision(None, 0, 1, "version 3") is None


def test_version_remembers_the_fresh_runs_that_confirmed_it() -> None:
    assert confirmed_tags(CONFIRMED, 0) == {"sweeper.confirmed": "[0.44, 0.46]"}
    assert confirmed_tags(CONFIRMED, 7) == confirmed_tags(None, 0) == {}
