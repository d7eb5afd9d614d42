"""Failed trials that are run again by hand, with their numbers, parameters and reports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError

from sweeper.core.errors import InputError
from sweeper.core.trials import Failure, FailureKind, Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.compatibility import record_start
from sweeper.study.open import open_study, read_study
from sweeper.study.retry import failed_trials, group_failures
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]

# The connection of a reader to PostgreSQL warns when it is deleted.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")

BUDGET = {"trials": 3, "epochs": 3}


def run_trial(study: SweepStudy, *, fails: bool = False, steps: int = 3, kind: FailureKind = "error") -> TrialRecord:
    row = study.ask()
    for step in range(row.step + 1, steps + 1):
        study.report(row.number, Report(step, float(step), {"score": 0.5}))
    if fails:
        study.fail(row.number, Failure(kind, f"ValueError: {row.number} is too high (own.py:9)"))
    return study.row(row.number)


def with_failures(sweep: Sweep) -> list[TrialRecord]:
    """Run three trials, of which the first and the last fail after one report; return the first of them."""
    with open_study(sweep) as study:
        return [run_trial(study, fails=fails, steps=1 if fails else 3) for fails in (True, False, True)]


def check_retry(sweep: Sweep) -> None:
    before = with_failures(sweep)
    with open_study(sweep) as study:
        assert study.is_done()
        study.put_back([0, 2])
        assert not study.is_done()
        again = study.ask()
        assert (again.number, again.params, again.step, again.attempt) == (0, before[0].params, 1, 2)
        assert (again.state, again.reason, again.ended) == ("RUNNING", None, None)
        for step in (1, 2, 3):
            study.report(0, Report(step, 10.0 + step, {"score": 0.9}))
        assert (study.row(0).state, study.row(0).value) == ("COMPLETE", 0.9)
        assert [report.time for report in study.reports(0)] == [1.0, 12.0, 13.0]
        assert run_trial(study).number == 2 and study.is_done()
    view = read_study(sweep.name, sweep.storage_url())
    assert [row.state for row in view.rows()] == ["COMPLETE"] * 3
    assert {number: [past.attempt for past in failed] for number, failed in view.attempts().items()} == {0: [1], 2: [1]}
    assert all((row.seconds or 0) >= 0 and row.reason is None for row in view.rows())


def test_failed_trial_runs_again_with_its_number_parameters_and_reports(make_sweep: MakeSweep) -> None:
    check_retry(make_sweep(budget=BUDGET))


def test_failed_trial_runs_again_on_postgresql(make_sweep: MakeSweep, postgres: str) -> None:
    check_retry(make_sweep(budget=BUDGET, storage=postgres))


def test_optuna_changes_no_trial_that_has_ended(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget=BUDGET)
    with_failures(sweep)
    study = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url())
    with pytest.raises(UpdateFinishedTrialError):
        study._storage.set_trial_state_values(study.trials[0]._trial_id, optuna.trial.TrialState.RUNNING)


def test_trial_that_was_put_back_is_to_optuna_as_one_that_never_ended(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget=BUDGET)
    with_failures(sweep)
    with open_study(sweep) as study:
        study.put_back([0])
    trial = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url()).trials[0]
    assert (trial.state.name, trial.datetime_complete, trial.values) == ("RUNNING", None, None)
    assert trial.intermediate_values == {1: 0.5} and trial.user_attrs.keys() == {"started", "origin", "uncounted"}
    study = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url())
    study.tell(0, 0.7)
    assert study.trials[0].value == 0.7


def test_failures_before_a_retry_do_not_count(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 1, "epochs": 3, "max_failures": 0})
    with open_study(sweep) as study:
        assert run_trial(study, fails=True, steps=0, kind="crash").state == "FAIL"
    more = sweep.changed({"budget.max_failures": 1})
    with open_study(more) as study:
        study.put_back([0])
        assert run_trial(study, fails=True, steps=0, kind="crash").state == "RUNNING"
    with open_study(more) as study:
        assert run_trial(study, fails=True, steps=0, kind="crash").state == "FAIL"
        assert [past.attempt for past in study.attempts()[0]] == [1, 2, 3]
        study.put_back([0])
        assert run_trial(study, fails=True, steps=0, kind="crash").state == "RUNNING"


KILLED = """
import os, sys
from sweeper.spec import load_sweep
from sweeper.study.open import open_study
with open_study(load_sweep("sweep.yaml")) as study:
    study.put_back([0, 2])
    os.kill(os.getpid(), 9)
"""


def test_kill_after_a_trial_was_put_back_leaves_an_interrupted_trial(make_sweep: MakeSweep, tmp_path: Path) -> None:
    import json

    sweep = make_sweep(budget=BUDGET)
    with_failures(sweep)
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep.model_dump(mode="json")))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment).returncode == -9
    with open_study(sweep) as study:
        assert study.resumed == 2
        assert [run_trial(study).number for _ in range(2)] == [0, 2]
        assert study.is_done()


def test_retry_puts_back_what_was_asked_for(make_sweep: MakeSweep, tmp_path: Path) -> None:
    from sweeper.core.sweep_folder import SweepFolder

    sweep, place = make_sweep(budget=BUDGET), SweepFolder.of(None, "climbing")
    place.path.mkdir(parents=True)
    with_failures(sweep)
    for wanted, states in ((None, ["FAIL", "COMPLETE", "FAIL"]), ((2,), ["FAIL", "COMPLETE", "RUNNING"])):
        with open_study(sweep) as study:
            record_start(study, sweep, place, {}, tracking_uri="", forked=None, retry=wanted)
            assert [row.state for row in study.rows()] == states
    with open_study(sweep) as study:
        record_start(study, sweep, place, {}, tracking_uri="", forked=None, retry=())
        assert [row.state for row in study.rows()] == ["RUNNING", "COMPLETE", "RUNNING"]


ROWS = [TrialRecord(number, state, {}) for number, state in enumerate(("COMPLETE", "FAIL", "RUNNING", "FAIL"))]


def test_only_failed_trials_can_be_chosen() -> None:
    assert failed_trials("lstm", ROWS) == [1, 3]
    assert failed_trials("lstm", ROWS, [3, 3]) == [3]
    assert failed_trials("lstm", ROWS[:1]) == []
    with pytest.raises(InputError, match="trial 0 of sweep 'lstm' is COMPLETE, and only a failed one .* are: 1, 3"):
        failed_trials("lstm", ROWS, [1, 0])
    with pytest.raises(InputError, match="has no trial 12; its trials are 0 to 3. The failed .* are: 1, 3"):
        failed_trials("lstm", ROWS, [12])
    with pytest.raises(InputError, match="has no trial 0; no trial has started. The failed trials are: none"):
        failed_trials("lstm", [], [0])


def test_failures_of_one_reason_form_a_group() -> None:
    reasons = ["KeyError: 'x' (a.py:3)", "ValueError: 4 is high (a.py:9)", "ValueError: 5 is high (a.py:9)", None]
    rows = [TrialRecord(number, "FAIL", {}, reason=reason) for number, reason in enumerate(reasons)]
    groups = group_failures([*reversed(rows), TrialRecord(9, "COMPLETE", {})])
    assert [[row.number for row in group] for group in groups] == [[1, 2], [0], [3]]
