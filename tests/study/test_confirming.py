"""A sweep that confirms its best trials, as its study decides; without Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest

from sweeper.core.confirmation import McNemar
from sweeper.core.trials import Failure, FreshRun, Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]

CONFIRM = {"top": 2, "seeds": 3}
LUCKY = {0: 0.2, 1: 0.9, 2: 0.8}
"""Values in the search. Trial 1 was lucky: with a fresh seed it has 0.7 or less."""


def value_of(row: TrialRecord) -> float:
    if row.confirms is None:
        return LUCKY[row.number] if row.number in LUCKY else 0.1
    return {1: 0.7, 2: 0.78}.get(row.confirms.trial, 0.2) + row.confirms.run / 1000


def run_all(study: SweepStudy, limit: int = 100) -> list[TrialRecord]:
    """Run what the study hands out, one after the other; return the records as they began."""
    begun = []
    while study.has_next() and len(begun) < limit:
        row = study.ask()
        begun.append(row)
        for step in range(row.step + 1, study.sweep.budget.reports + 1):
            study.report(row.number, Report(step, float(step), {"score": value_of(row)}))
    return begun


def make(make_sweep: MakeSweep, **others: Any) -> Sweep:
    settings: dict[str, Any] = {"budget": {"trials": 3, "epochs": 2}, "pruner": {"type": "none"}, "confirm": CONFIRM}
    return make_sweep(**settings | others)


def test_fresh_runs_follow_the_search_and_are_no_trials_of_it(make_sweep: MakeSweep) -> None:
    sweep = make(make_sweep)
    with open_study(sweep) as study:
        begun = run_all(study)
        assert study.is_exhausted() and study.is_done()
        fresh = [row.confirms for row in begun if row.confirms is not None]
        assert [(each.trial, each.run) for each in fresh] == [(1, 1), (2, 1), (1, 2), (2, 2), (2, 3)]
        assert len({each.seed for each in fresh}) == 5
        assert all(row.params == study.row(row.confirms.trial).params for row in begun if row.confirms)
        assert len(study.rows()) == 3 and len(study.rows(with_fresh=True)) == 8
        best = study.best()
        assert best is not None and best.number == 2, "the confirmed mean counts, and not the luckiest run"
    view = read_study(sweep.name, sweep.storage_url())
    assert len(view.trials) == 3 and set(view.curves["trial"]) == {0, 1, 2}
    (summary,) = list_sweeps(sweep.storage_url())
    assert (summary.counts, summary.state, summary.best) == ({"COMPLETE": 3}, "done", 0.8)


def test_fresh_runs_are_not_pruned(make_sweep: MakeSweep) -> None:
    pruner = {"type": "median", "n_startup_trials": 1, "min_epochs": 1}
    with open_study(make(make_sweep, pruner=pruner)) as study:
        run_all(study)
        assert {row.state for row in study.rows(with_fresh=True) if row.confirms} == {"COMPLETE"}


def test_confirmation_that_was_interrupted_is_resumed_with_the_same_seeds(make_sweep: MakeSweep) -> None:
    sweep, whole = make(make_sweep), make(make_sweep, name="whole")
    with open_study(whole) as study:
        expected = [row.confirms for row in run_all(study)]
    seen: list[FreshRun | None] = []
    for _ in range(8):  # each time one trial is begun and left, and another one run
        with open_study(sweep) as study:
            seen += [row.confirms for row in run_all(study, 1) if row.attempt == 1]
            if study.has_next():
                row = study.ask()
                seen += [row.confirms] if row.attempt == 1 else []
    with open_study(sweep) as study:
        seen += [row.confirms for row in run_all(study) if row.attempt == 1]
        assert study.is_done() and study.best() == study.row(2)
    assert seen == expected


def test_failed_fresh_run_is_retried_and_then_drops_its_trial(make_sweep: MakeSweep) -> None:
    with open_study(make(make_sweep)) as study:
        run_all(study, 3)
        lost = study.ask()
        study.fail(lost.number, Failure("node", "its node was lost"))
        again = study.ask()
        assert (again.number, again.attempt, again.confirms) == (lost.number, 2, lost.confirms)
        study.fail(again.number, Failure("error", "ValueError"))
        run_all(study)
        found = study.confirmation()
        assert found is not None and [each.dropped for each in found.contenders] == ["", "run 1 failed"]
        assert study.is_done() and study.best() == study.row(2)
    with open_study(make(make_sweep)) as study:
        study.put_back([lost.number])
        run_all(study)
        found = study.confirmation()
        assert found is not None and found.is_complete and "failed" not in found.contenders[1].dropped


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes", "grid"])
def test_search_continues_after_a_confirmation(make_sweep: MakeSweep, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    space = {name: {"type": "int", "low": 1, "high": 4} for name in ("height", "width")}
    settings: dict[str, Any] = {"space": space, "sampler": {"type": sampler}}
    with open_study(make(make_sweep, **settings)) as study:
        first = run_all(study)
    with open_study(make(make_sweep, **settings, budget={"trials": 7, "epochs": 2})) as study:
        assert study.confirmation() is None, "the search goes on"
        more = run_all(study, 4)
        assert [row.confirms for row in more] == [None] * 4
        points = [tuple(row.params.values()) for row in study.rows()]
        assert len(points) == len(set(points)) == 7
        assert more[0].number == first[-1].number + 1
        run_all(study)
        assert study.is_done()


def test_samplers_and_pruners_see_a_fresh_run_as_a_trial_without_a_report(make_sweep: MakeSweep) -> None:
    sweep = make(make_sweep)
    with open_study(sweep) as study:
        run_all(study)
        seen = study._study.get_trials(deepcopy=False)
        assert [trial.number for trial in seen] == list(range(8))
        assert all(trial.state.name == "FAIL" and not trial.intermediate_values for trial in seen[3:])
    stored = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url()).trials
    assert all(trial.state.name == "COMPLETE" for trial in stored)


def test_paused_trials_keep_their_rungs(make_sweep: MakeSweep) -> None:
    """A search with promotion is confirmed, and then goes on: the rungs are those of the trials of the search."""
    pruner = {"type": "promotion", "min_epochs": 1, "reduction_factor": 2}
    counts = []
    for name, confirm in (("plain", None), ("confirmed", CONFIRM)):
        settings: dict[str, Any] = {"name": name, "confirm": confirm, "pruner": pruner}
        with open_study(make(make_sweep, **settings, budget={"trials": 4, "epochs": 4})) as study:
            run_all(study)
            assert study.is_done()
        with open_study(make(make_sweep, **settings, budget={"trials": 8, "epochs": 4})) as study:
            while study.has_next() and len(study.rows()) < 8:
                run_all(study, 1)
            counts.append([(row.state, row.step) for row in study.rows()])
    assert counts[0] == counts[1]


def test_setting_stays_when_a_file_without_it_resumes_the_sweep(make_sweep: MakeSweep) -> None:
    with open_study(make(make_sweep)) as study:
        run_all(study)
    with open_study(make(make_sweep, confirm=None)) as study:
        assert study.sweep.confirm is not None and study.best() == study.row(2)
    with open_study(make(make_sweep, confirm={"top": 3, "seeds": 3})) as study:
        assert [(row.confirms.trial, row.confirms.run) for row in run_all(study) if row.confirms] == [(0, 1), (0, 2)]


def test_fork_learns_nothing_from_fresh_runs(make_sweep: MakeSweep) -> None:
    with open_study(make(make_sweep)) as study:
        run_all(study)
    with open_study(make(make_sweep, name="fork", confirm=None), forked="climbing") as fork:
        assert len(fork._history) == 3


def test_test_of_two_models_counts_for_these_two_trials_only(make_sweep: MakeSweep) -> None:
    sweep = make(make_sweep)
    with open_study(sweep) as study:
        study.record_compared(McNemar("", 100, 8, 2))
        assert study.confirmation() is None, "the search goes on, and nothing is recorded"
        run_all(study)
        study.record_compared(McNemar("", 100, 8, 2))
        study.record_compared(McNemar("model version 1", missing="it is gone"))
        study.record_compared(McNemar("", 100, 9, 2))
    found = read_study(sweep.name, sweep.storage_url()).confirmation()
    assert found is not None and found.best is not None and found.best.trial == 2
    assert found.compared == (McNemar("model version 1", missing="it is gone"), McNemar("trial 1", 100, 9, 2))
    with open_study(make(make_sweep, confirm={"top": 1, "seeds": 2})) as study:
        run_all(study)
        changed = study.confirmation()
        assert changed is not None and changed.is_complete and changed.compared == ()


def test_fresh_runs_count_against_the_budget(make_sweep: MakeSweep) -> None:
    budget = {"trials": 3, "epochs": 2, "cpu_hours": 1e-9}
    with open_study(make(make_sweep)) as study:
        run_all(study, 3)
    with open_study(make(make_sweep, budget=budget)) as study:
        assert not study.has_next() and study.is_exhausted() and not study.is_done()
