"""What changes when a sweep is resumed: the number of its trials, its sampler, its pruner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest

from sweeper.core.trials import Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]
STEPPED = {"height": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.125}}


class Phases:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Do nothing: only messages count here."""

    def on_phase(self, message: str) -> None:
        self.messages.append(message)


def run_trials(study: SweepStudy, count: int) -> list[TrialRecord]:
    found = []
    for _ in range(count):
        row = study.ask()
        for step in range(1, study.sweep.budget.reports + 1):
            if study.row(row.number).state == "RUNNING":
                study.report(row.number, Report(step, float(step), {"score": row.params["height"]}))
        found.append(study.row(row.number))
    return found


def budget(trials: int) -> dict[str, Any]:
    return {"trials": trials, "epochs": 4}


def test_total_below_what_has_started_is_reached_already(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget=budget(5))) as study:
        run_trials(study, 5)
    phases = Phases()
    with open_study(make_sweep(budget=budget(3)), listeners=[phases]) as study:
        assert study.is_done() and study.sweep.budget.trials == 5
    assert phases.messages == ["budget.trials is 3, and 5 trials have started already; no other one will."]
    assert list_sweeps(make_sweep().storage_url())[0].trials == 5


def test_total_may_shrink_to_what_has_started(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget=budget(9))) as study:
        run_trials(study, 3)
        study.ask()
    phases = Phases()
    with open_study(make_sweep(budget=budget(2)), listeners=[phases]) as study:
        assert phases.messages[-1] == "Resuming with budget.trials: 9 -> 4."
        assert not study.is_done() and study.ask().number == 3 and study.is_exhausted()


def test_changed_sampler_and_pruner_are_on_record_by_trial(make_sweep: MakeSweep) -> None:
    first = make_sweep()
    with open_study(first) as study:
        run_trials(study, 2)
        assert "eras" not in study.facts
    second = make_sweep(sampler={"type": "tpe"}, pruner={"type": "median"})
    phases = Phases()
    with open_study(second, listeners=[phases]) as study:
        run_trials(study, 1)
    assert phases.messages == ["Resuming with sampler: random -> tpe, pruner: none -> median."]
    with open_study(first) as study:
        pass
    with open_study(second) as study:
        view = read_study("climbing", first.storage_url())
        assert [(era["from"], era["sampler"]["type"]) for era in view.facts["eras"]] == [(0, "random"), (2, "tpe")]
    with open_study(make_sweep(pruner={"type": "median"})) as study:
        run_trials(study, 1)
    assert read_study("climbing", first.storage_url()).remarks() == (
        "Sampler and pruner were random and none for trials 0 to 1, tpe and median for trials 2 to 2, and random and "
        "median from trial 3 on",
    )


def test_new_sampler_sees_the_trials_that_ran_under_another(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget=budget(40))) as study:
        run_trials(study, 30)
    model = make_sweep(budget=budget(40), sampler={"type": "tpe", "n_startup_trials": 5})
    with open_study(model) as study:
        assert sum(row.params["height"] > 0.7 for row in run_trials(study, 8)) >= 6


def test_grid_runs_what_another_sampler_has_left(make_sweep: MakeSweep) -> None:
    grid = make_sweep(space=STEPPED, sampler={"type": "grid"}, budget=budget(99))
    drawn = make_sweep(space=STEPPED, sampler={"type": "random"}, budget=budget(99))
    with open_study(grid) as study:
        assert study.trial_limit == 9
        found = run_trials(study, 3)
    with open_study(drawn) as study:
        assert study.trial_limit == 99
        found += run_trials(study, 4)
    different = {row.params["height"] for row in found}
    with open_study(grid.changed({"sampler.seed": 5})) as study:
        assert study.trial_limit == 7 + 9 - len(different)
        found += run_trials(study, 9 - len(different))
        assert study.is_done()
    assert {row.params["height"] for row in found} == {index / 8 for index in range(9)}
    assert list_sweeps(grid.storage_url())[0].state == "done"


def test_successive_halving_compares_with_trials_of_another_pruner(make_sweep: MakeSweep) -> None:
    halving = {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2}
    with open_study(make_sweep(budget=budget(20))) as study:
        run_trials(study, 8)
        low = study.ask()
    sweep = make_sweep(budget=budget(20), pruner=halving, enqueue=[])
    with open_study(sweep) as study:
        study.ask()
        study.report(low.number, Report(1, 1.0, {"score": -1.0}))
        assert study.row(low.number).state == "PRUNED"
    stored = optuna.load_study(study_name="climbing", storage=sweep.storage_url())
    marks = [trial.system_attrs for trial in stored.trials]
    assert [len(mark) for mark in marks] == [3] * 8 + [1]
    with open_study(make_sweep(budget=budget(20), pruner=halving | {"min_epochs": 2})) as study:
        trials = optuna.load_study(study_name="climbing", storage=sweep.storage_url()).trials
        assert [trial.system_attrs.get("completed_rung_0") for trial in trials] == [
            *(trial.intermediate_values[2] for trial in trials[:8]),
            None,
        ]


@pytest.mark.parametrize("kind", ["random", "tpe", "qmc", "cmaes"])
def test_each_sampler_may_follow_each_other(make_sweep: MakeSweep, kind: str) -> None:
    space = STEPPED | {"width": {"type": "int", "low": 1, "high": 3}}
    for after in ("grid", "random", "tpe", "qmc", "cmaes"):
        name = f"{kind}-{after}"
        for sampler in (kind, after, kind):
            with open_study(make_sweep(name=name, space=space, sampler={"type": sampler}, budget=budget(40))) as study:
                run_trials(study, 2)
        assert len(read_study(name, make_sweep().storage_url()).rows()) == 6
