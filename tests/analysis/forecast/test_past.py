"""What earlier sweeps in a storage tell about the trials of another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest

from sweeper.analysis.forecast.past import Timed, costs_of_trials, earlier_sweeps, past_curves, timed_trials
from sweeper.core.environment import processor
from sweeper.core.trials import Report, Verdict
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study

MakeSweep = Callable[..., Sweep]
START = datetime(2026, 1, 1, tzinfo=UTC)


def record(
    sweep: Sweep,
    *,
    trials: int = 4,
    seconds: float = 2.0,
    first: float = 5.0,
    slower: Mapping[int, float] = MappingProxyType({}),
) -> None:
    """Record trials that begin one after the other, with the times of a clock that the test sets.

    Args:
        slower: by how much a trial was slowed down, by its number.
    """
    now = START
    with open_study(sweep) as study:
        study.record_facts({"processor": processor()})
        for number in range(trials):
            row = study.ask()
            study._rows[number] = replace(row, started=now)
            study._trials[number].set_user_attr("started", now.timestamp())
            for step in range(1, sweep.budget.reports + 1):
                now += timedelta(seconds=seconds * slower.get(number, 1.0) + (first if step == 1 else 0.0))
                study.report(number, Report(step, now.timestamp(), {"score": row.params["height"] * step}))
            first = 1.0


def test_storage_without_a_database_has_no_earlier_sweeps_and_stays_empty(make_sweep: MakeSweep) -> None:
    from pathlib import Path

    assert earlier_sweeps(make_sweep()) == [] and list(Path().iterdir()) == []


def test_sweep_of_the_same_trainable_and_objective_counts(make_sweep: MakeSweep) -> None:
    record(make_sweep(name="before"))
    record(make_sweep(name="other", trainable="tests.samples:slow_count"))
    record(make_sweep(name="larger", resources={"cpus": 2}))
    record(make_sweep(name="short"), trials=1)
    found = earlier_sweeps(make_sweep(name="now", space={"height": 0.5}))
    assert sorted(view.name for view in found) == ["before", "short"]


def test_few_trials_are_too_few(make_sweep: MakeSweep) -> None:
    record(make_sweep(name="short"), trials=2)
    assert earlier_sweeps(make_sweep(name="now")) == []


def test_pace_and_start_are_told_apart_in_reports_of_the_new_budget(make_sweep: MakeSweep) -> None:
    record(sweep := make_sweep(name="before"))
    view = read_study(sweep.name, sweep.storage_url())
    budget = make_sweep(budget={"trials": 3, "epochs": 4, "reports_per_epoch": 4}).budget
    times = timed_trials(view, budget)
    assert [one.report_s for one in times] == pytest.approx([0.5] * 4)
    assert [one.delay_s for one in times] == pytest.approx([5.0, 1.0, 1.0, 1.0])
    assert [one.is_first for one in times] == [True, False, False, False]


def test_time_in_which_a_trial_was_paused_does_not_count(make_sweep: MakeSweep) -> None:
    pruner = {"type": "promotion", "min_epochs": 1, "reduction_factor": 2}
    sweep = make_sweep(name="before", pruner=pruner, budget={"trials": 6, "epochs": 2})
    now = START.timestamp()
    with open_study(sweep) as study:
        while not study.is_done():
            row, verdict = study.ask(), Verdict.CONTINUE
            now += 60.0  # until a worker is free, and for its import
            for step in range(row.step + 1, 3):
                if verdict == Verdict.CONTINUE:
                    now += 2.0
                    verdict = study.report(row.number, Report(step, now, {"score": row.params["height"] * step}))
        complete = [row for row in study.rows() if row.state == "COMPLETE"]
    was_paused = [row for row in complete if row.resumed is not None]
    assert was_paused, "no trial was paused and went on"
    times = timed_trials(read_study(sweep.name, sweep.storage_url()), sweep.budget)
    assert [one.report_s for one in times] == pytest.approx([2.0] * (len(complete) - len(was_paused)))


def test_curves_are_those_that_were_reported(make_sweep: MakeSweep) -> None:
    record(sweep := make_sweep(name="before"), trials=3)
    view = read_study(sweep.name, sweep.storage_url())
    curve = past_curves([view])[0]
    assert curve.epochs == tuple(range(1, 10)) and curve.values[2] == pytest.approx(3 * curve.params["height"])


def test_delays_are_those_of_workers_structures_and_trials(make_sweep: MakeSweep) -> None:
    lstm, gru, space = {"cell": "lstm"}, {"cell": "gru"}, make_sweep(space={"cell": "lstm"}).space
    timed = [
        Timed(lstm, 1.0, 8.0, True, worker=0),
        Timed(gru, 1.0, 3.0, False, worker=0),
        Timed(lstm, 1.0, 1.0, False, worker=0),
        Timed(gru, 1.0, 8.5, True, worker=1),
        Timed(lstm, 1.0, 3.0, False, worker=1),
    ]
    costs = costs_of_trials(timed, space, lambda point: 1.0)
    assert (costs.trial_s, costs.structure_s, costs.import_s) == (1.0, 2.0, 5.25)
