"""`budget.reuse`: a trial takes the reports of a finished one that is the same but for the number in its seed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sweeper.analysis.trials import ending
from sweeper.analysis.why import why
from sweeper.cli.main import main
from sweeper.core.trials import Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.reuse import FinishedTrials
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]

FACTS = {"code": "abc", "files": {"own.py": "d1"}, "dataset": {"digest": "d2"}, "versions": {"sweeper": "1"}}
BUDGET = {"trials": 4, "epochs": 4}
POINT = {"height": 0.5}
PROMOTION = {"type": "promotion", "min_epochs": 1, "reduction_factor": 2}


@pytest.fixture
def finished(make_sweep: MakeSweep) -> Callable[..., Sweep]:
    """Return a maker of sweeps whose first trial has a known point and these scores, or is still to come."""

    def make(name: str, *scores: float, facts: dict[str, Any] = FACTS, **changes: Any) -> Sweep:
        sweep = make_sweep(**{"name": name, "budget": BUDGET, "enqueue": [POINT]} | changes)
        with open_study(sweep) as study:
            study.record_facts(facts)
            if scores:
                train(study, study.ask(), scores)
        return sweep

    return make


def train(study: SweepStudy, row: TrialRecord, scores: tuple[float, ...]) -> None:
    for step, score in enumerate(scores, 1):
        study.report(row.number, Report(step, 1e9 + step, {"score": score, "loss": 1 - score}))


def give(sweep: Sweep) -> tuple[bool, TrialRecord]:
    """Give the next trial of a study the reports of a finished one; return whether there is one, and the trial."""
    with open_study(sweep) as study:
        row = study.ask()
        return FinishedTrials(study).give(row), study.row(row.number)


def test_reports_of_a_finished_trial_are_taken_and_marked(finished: Callable[..., Sweep]) -> None:
    finished("first", 0.1, 0.2, 0.3, 0.4)
    sweep = finished("second")
    assert give(sweep)[0]
    study = read_study("second", sweep.storage_url())
    (row,) = study.rows()
    assert (row.state, row.value, row.reused, row.is_added) == ("COMPLETE", 0.4, "first:0", True)
    assert row.origin == "start point; reports of first:0"
    assert row.ended is not None and row.started is not None and row.ended - row.started < timedelta(seconds=30)
    known = read_study("first", sweep.storage_url())
    assert [one.metrics for one in study.reports(0)] == [one.metrics for one in known.reports(0)]
    assert ending(row, sweep) == "trial 0 complete at epoch 4/4, score 0.4000 (taken from first:0)"
    sentences = why(study, row)
    assert sentences[0] == "Trial 0 is complete: it ran to epoch 4, with score 0.4000."
    assert sentences[1] == "Its reports were taken from first:0: no worker trained it."
    assert main(["best", "second", "--storage", sweep.storage_url()]) == 0  # its parameters are of use
    assert study.best() is None and study.remarks() == (
        "trial 0 leads, but was taken from first:0 and not trained here; there is no model",
        "1 of 1 trials took their reports from finished ones (budget.reuse)",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"budget": {"trials": 4, "epochs": 5}},
        {"budget": {"trials": 4, "epochs": 2, "reports_per_epoch": 2}},
        {"trainable": "tests.samples:count_heavily"},
        {"enqueue": [{"height": 0.25}]},
        {"facts": FACTS | {"code": "other"}},
        {"facts": FACTS | {"files": {"own.py": "other"}}},
        {"facts": FACTS | {"dataset": {"digest": "other"}}},
    ],
    ids=["seed", "length", "reports", "trainable", "parameters", "module", "files", "data"],
)
def test_trial_that_differs_is_trained(finished: Callable[..., Sweep], changes: dict[str, Any]) -> None:
    finished("first", 0.1, 0.2, 0.3, 0.4)
    is_given, row = give(finished("second", **changes))
    assert (is_given, row.state, row.reused) == (False, "RUNNING", None)


def test_built_in_code_is_the_same_in_the_same_version_of_sweeper(finished: Callable[..., Sweep]) -> None:
    built_in = FACTS | {"code": "sweeper", "files": {}}
    finished("first", 0.1, 0.2, 0.3, 0.4, facts=built_in)
    assert give(finished("same", facts=built_in))[0]
    assert not give(finished("newer", facts=built_in | {"versions": {"sweeper": "2"}}))[0]


def test_trials_that_did_not_complete_or_were_taken_themselves_are_no_source(finished: Callable[..., Sweep]) -> None:
    finished("short", 0.1, 0.2)
    assert not give(finished("second"))[0]
    finished("third", 0.1, 0.2, 0.3, 0.4)
    for name in ("fourth", "fifth"):
        assert give(finished(name))[1].reused == "third:0"


def test_pruner_judges_the_reports_and_nothing_is_spent(finished: Callable[..., Sweep]) -> None:
    finished("first", 0.1, 0.1, 0.1, 0.1)
    pruner = {"type": "threshold", "lower": 0.5}
    sweep = finished("second", pruner=pruner, budget=BUDGET | {"cpu_hours": 1})
    is_given, row = give(sweep)
    assert is_given and (row.state, row.step, row.reused) == ("PRUNED", 1, "first:0")
    with open_study(sweep) as study:
        assert study.spending.amounts()[0].used < 0.01


def test_same_sweep_takes_from_its_own_trials(finished: Callable[..., Sweep]) -> None:
    sweep = finished("first", 0.1, 0.2, 0.3, 0.4, space={"height": 0.5}, enqueue=[{}])
    is_given, row = give(sweep)
    assert is_given and (row.number, row.value, row.reused) == (1, 0.4, "first:0")


def test_interrupted_trial_with_reports_of_its_own_is_trained_on(finished: Callable[..., Sweep]) -> None:
    sweep = finished("second", 0.7)
    finished("first", 0.1, 0.2, 0.3, 0.4)
    is_given, row = give(sweep)
    assert not is_given and (row.number, row.step, row.attempt) == (0, 1, 2)


def test_paused_trial_takes_the_rest_of_the_same_reports(finished: Callable[..., Sweep]) -> None:
    finished("first", 0.1, 0.2, 0.3, 0.4)
    sweep = finished("second", pruner=PROMOTION)
    assert give(sweep)[1].is_paused
    finished("another", 0.9, 0.9, 0.9, 0.9)
    with open_study(sweep) as study:
        train(study, study.ask(), (0.0,))
        row = study.ask()
        assert (row.number, row.step, row.reused) == (0, 1, "first:0")
        assert FinishedTrials(study).give(row)
        assert study.reports(0)[-1].metrics["score"] == 0.2


def test_paused_trial_whose_source_is_gone_fails(finished: Callable[..., Sweep]) -> None:
    import optuna

    finished("first", 0.1, 0.2, 0.3, 0.4)
    sweep = finished("second", pruner=PROMOTION)
    give(sweep)
    optuna.delete_study(study_name="first", storage=sweep.storage_url())
    with open_study(sweep) as study:
        train(study, study.ask(), (0.0,))
        assert FinishedTrials(study).give(study.ask())
        row = study.row(0)
    assert row.state == "FAIL" and "first:0, is gone or has changed" in str(row.reason)


def test_promoting_a_trial_that_was_not_trained_here_names_the_one_that_was(
    finished: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    finished("first", 0.1, 0.2, 0.3, 0.4)
    sweep = finished("second", tracking={"model": "own"})
    give(sweep)
    for trial in ((), ("0",)):
        code = main(["promote", "second", *trial, "--storage", sweep.storage_url()])
        err = " ".join(capsys.readouterr().err.split())
        assert code == 2 and "trial 0 took its reports from first:0 and was not trained here" in err
        assert "`sweeper promote first:0` promotes the model of that trial" in err
