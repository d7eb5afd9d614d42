from __future__ import annotations

import math
from collections.abc import Callable

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from sweeper.core.trials import Failure, Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.storage.reading import read_trials
from sweeper.study.storage.records import record_of

MakeSweep = Callable[..., Sweep]

SPACE = {
    "height": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1},
    "kind": {"type": "categorical", "choices": ["a", "b", None]},
    "width": {"type": "int", "low": 1, "high": 64, "log": True, "when": {"kind": ["a"]}},
    "cell": "lstm",
}


def fill(sweep: Sweep) -> None:
    """Run trials that end in every way, or do not, one with odd values; two start points are left."""
    with open_study(sweep) as study:
        for number in range(8):
            study.ask()
            for step in range(1, 4 if number % 2 else 10):
                study.report(number, Report(step, 1.0, {"score": number + step / 10}), node="here")
        study.fail(1, Failure("error", "it was too high"))
        study.finish(3)
        study.finish(5, is_pruned=True)
    others = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url())
    for value in (math.inf, -math.inf):
        others.add_trial(optuna.trial.create_trial(value=value, intermediate_values={1: value, 2: 0.5, 3: math.nan}))
    others.enqueue_trial({"height": 0.5})
    others.ask()  # by another tool, which has chosen no parameters yet
    others.enqueue_trial({"height": 0.1})


def check(sweep: Sweep) -> None:
    fill(sweep)
    view = read_study(sweep.name, sweep.storage_url())
    stored = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url()).trials
    expected = [record_of(trial, view.sweep) for trial in stored if trial.state != TrialState.WAITING]
    assert list(map(str, view.rows())) == list(map(str, expected))  # NaN equals nothing, but its text does
    assert {row.state for row in view.rows()} == {"COMPLETE", "PRUNED", "FAIL", "RUNNING"}
    whole = read_trials(sweep.name, sqlalchemy.create_engine(sweep.storage_url()), whole=True)
    assert list(map(repr, whole)) == list(map(repr, stored))
    assert view.row(8).value == math.inf and view.row(9).value == -math.inf and len(view.rows()) == 11


def test_records_are_those_that_optuna_reads(make_sweep: MakeSweep) -> None:
    check(make_sweep(space=SPACE, budget={"trials": 20, "epochs": 9}, sampler={"type": "tpe"}))


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")
def test_records_are_those_that_optuna_reads_on_postgresql(make_sweep: MakeSweep, postgres: str) -> None:
    check(make_sweep(space=SPACE, budget={"trials": 20, "epochs": 9}, storage=postgres))
