from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.core.errors import InputError
from sweeper.core.trials import Report, TrialRecord
from sweeper.search.history import FORKED_FROM
from sweeper.spec import Sweep
from sweeper.study.compatibility import check_environment, record_dataset
from sweeper.study.open import list_sweeps, open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]

# The connection of a reader to PostgreSQL warns when it is deleted.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")

STEPPED = {"height": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.125}}
HALVING = {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2}


class Phases:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Do nothing: only messages count here."""

    def on_phase(self, message: str) -> None:
        self.messages.append(message)


def run_trial(study: SweepStudy) -> TrialRecord:
    row = study.ask()
    for step in range(1, study.sweep.budget.reports + 1):
        if study.row(row.number).state == "RUNNING":
            study.report(row.number, Report(step, float(step), {"score": row.params["height"]}))
    return study.row(row.number)


def run_sweep(sweep: Sweep, trials: int = 6, **options: Any) -> list[TrialRecord]:
    with open_study(sweep, **options) as study:
        study.record_facts(check_environment(study, allow_code_change=False))
        return [run_trial(study) for _ in range(trials)]


def stored(sweep: Sweep) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=sweep.name, storage=sweep.storage_url()).trials


def test_fork_has_the_trials_of_its_parent_as_history_only(make_sweep: MakeSweep) -> None:
    parents = run_sweep(make_sweep(pruner=HALVING))
    assert {row.state for row in parents} == {"COMPLETE", "PRUNED"}
    budget = {"trials": 2, "epochs": 9}
    fork = make_sweep(name="fork", pruner=HALVING, budget=budget, enqueue=[{"height": 1.0}])
    phases = Phases()
    own = run_sweep(fork, 2, forked="climbing", listeners=[phases])
    assert phases.messages == ["Learning from 6 trials of climbing, which are not counted, shown or run again here."]
    history = stored(fork)[:6]
    assert [trial.user_attrs[FORKED_FROM] for trial in history] == [f"climbing:{number}" for number in range(6)]
    for parent, trial in zip(stored(make_sweep()), history, strict=True):
        assert (trial.state, trial.params, trial.value) == (parent.state, parent.params, parent.value)
        assert trial.intermediate_values == parent.intermediate_values
        assert trial.system_attrs == parent.system_attrs
        assert (trial.datetime_start, trial.datetime_complete) == (parent.datetime_start, parent.datetime_complete)

    view = read_study("fork", fork.storage_url())
    assert [row.number for row in view.rows()] == [row.number for row in own] == [6, 7]
    best = view.best()
    assert best is not None and best.number >= 6 and len(view.leaderboard()) == 2
    (remark,) = view.remarks()
    assert remark.startswith("the sampler also knows 6 trials of climbing (the best has 0.")
    summary = next(summary for summary in list_sweeps(fork.storage_url()) if summary.name == "fork")
    assert (sum(summary.counts.values()), summary.trials, summary.state) == (2, 2, "done")
    with open_study(fork) as study:
        assert study.is_done() and not study.has_next()


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_fork_draws_other_points_and_draws_them_again_when_resumed(make_sweep: MakeSweep, sampler: str) -> None:
    parents = run_sweep(make_sweep(sampler={"type": sampler}))
    whole = make_sweep(name="whole", sampler={"type": sampler})
    points = [row.params for row in run_sweep(whole, 4, forked="climbing")]
    assert not [point for point in points if point in [row.params for row in parents]]
    other = make_sweep(name="other", sampler={"type": sampler})
    assert points != [row.params for row in run_sweep(other, 4, forked="climbing")]
    optuna.delete_study(study_name="whole", storage=whole.storage_url())
    run_sweep(whole, 2, forked="climbing")
    with open_study(whole) as study:
        assert [run_trial(study).params for _ in range(2)] == points[2:]


def test_fork_and_changed_pruner_on_postgresql(make_sweep: MakeSweep, postgres: str) -> None:
    parent = make_sweep(storage=postgres)
    parents = run_sweep(parent, 4)
    fork = make_sweep(name="fork", storage=postgres, pruner=HALVING, enqueue=[{"height": 0.0}])
    assert run_sweep(fork, 1, forked="climbing")[0].state == "PRUNED"
    for trial, row in zip(stored(fork), parents, strict=False):
        assert (trial.params, trial.value) == (row.params, row.value) and len(trial.intermediate_values) == 9
        assert len(trial.system_attrs) == 4
    with open_study(fork.changed({"pruner": {"type": "none"}})) as study:
        assert not [trial for trial in stored(fork)[:5] if "completed_rung_0" in trial.system_attrs]
        assert run_trial(study).state == "COMPLETE"


def test_start_points_that_the_parent_has_run_are_not_run_again(make_sweep: MakeSweep) -> None:
    run_sweep(make_sweep(enqueue=[{"height": 0.25}, {"height": 0.5}]), 2)
    fork = make_sweep(name="fork", enqueue=[{"height": 0.25}, {"height": 0.75}])
    assert [row.params["height"] for row in run_sweep(fork, 2, forked="climbing")][0] == 0.75
    assert [trial.params["height"] for trial in stored(fork)].count(0.25) == 1


def test_fork_of_a_grid_runs_the_points_that_are_left(make_sweep: MakeSweep) -> None:
    grid = make_sweep(space=STEPPED, sampler={"type": "grid"}, budget={"trials": 5, "epochs": 1})
    run_sweep(grid, 5)
    fork = make_sweep(name="fork", space=STEPPED, sampler={"type": "grid"}, budget={"trials": 99, "epochs": 1})
    run_sweep(fork, 4, forked="climbing")
    assert len({trial.params["height"] for trial in stored(fork)}) == 9
    with open_study(fork) as study:
        assert study.is_done() and study.trial_limit == 4


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "cmaes"])
def test_fork_repeats_no_point_of_a_small_space(make_sweep: MakeSweep, sampler: str) -> None:
    space = STEPPED | {"width": {"type": "int", "low": 1, "high": 3}}
    parents = run_sweep(make_sweep(space=space, sampler={"type": sampler}), 6)
    fork = make_sweep(name="fork", space=space, sampler={"type": sampler}, budget={"trials": 12, "epochs": 9})
    found = [row.params for row in run_sweep(fork, 6, forked="climbing")]
    with open_study(fork) as study:
        found += [run_trial(study).params for _ in range(6)]
        assert [row.params for row in study.rows()] == found
    assert not [point for point in found if point in [row.params for row in parents]]
    again = make_sweep(name="again", space=space, sampler={"type": "random"}, budget={"trials": 50, "epochs": 9})
    assert len(run_sweep(again, 50, forked="fork")) == 50


def test_sampler_of_a_fork_learns_from_its_history(make_sweep: MakeSweep) -> None:
    model = {"type": "tpe", "n_startup_trials": 4}
    run_sweep(make_sweep(sampler=model, budget={"trials": 30, "epochs": 1}), 30)
    fork = make_sweep(name="fork", sampler=model, budget={"trials": 6, "epochs": 1})
    assert sum(row.params["height"] > 0.7 for row in run_sweep(fork, 6, forked="climbing")) >= 5


def test_median_pruner_of_a_fork_compares_with_its_history(make_sweep: MakeSweep) -> None:
    median = {"type": "median", "n_startup_trials": 3, "min_epochs": 1}
    run_sweep(make_sweep(), 6)
    fork = make_sweep(name="fork", pruner=median, enqueue=[{"height": 0.0}])
    assert run_sweep(fork, 1, forked="climbing")[0].state == "PRUNED"


def test_history_of_a_fork_is_history_of_its_own_fork(make_sweep: MakeSweep) -> None:
    run_sweep(make_sweep(), 2)
    run_sweep(make_sweep(name="fork"), 2, forked="climbing")
    last = make_sweep(name="last")
    assert [row.number for row in run_sweep(last, 1, forked="fork")] == [4]
    sources = [trial.user_attrs.get(FORKED_FROM) for trial in stored(last)]
    assert sources == ["climbing:0", "climbing:1", "fork:2", "fork:3", None]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"budget": {"trials": 6, "epochs": 3}}, "another length of a trial"),
        ({"objective": {"metric": "cost"}}, "another objective"),
        ({"dataset": {"type": "digits"}}, "another dataset"),
        ({"trainable": "tests.samples:descend"}, "another trainable"),
    ],
)
def test_only_points_are_taken_over_where_values_do_not_compare(
    make_sweep: MakeSweep, change: dict[str, Any], reason: str
) -> None:
    parents = run_sweep(make_sweep(), 4)
    phases = Phases()
    with open_study(make_sweep(name="fork", **change), forked="climbing", listeners=[phases]) as study:
        assert [study.ask().number for _ in range(4)] == [0, 1, 2, 3]
        tried = [row.params["height"] for row in study.rows()]
    best = sorted((row.params["height"] for row in parents), reverse=True)
    assert tried[:3] == best[:3] and tried[3] not in best
    assert f"({reason})" in phases.messages[0]


def test_pruned_trials_need_the_same_reports_to_be_history(make_sweep: MakeSweep) -> None:
    parents = run_sweep(make_sweep(pruner=HALVING))
    fork = make_sweep(name="fork", budget={"trials": 6, "epochs": 9, "reports_per_epoch": 2})
    with open_study(fork, forked="climbing"):
        pass
    complete = [row.number for row in parents if row.state == "COMPLETE"]
    assert [trial.user_attrs[FORKED_FROM] for trial in stored(fork)] == [f"climbing:{number}" for number in complete]
    assert all(trial.value is not None and not trial.intermediate_values for trial in stored(fork))


def test_points_of_a_space_with_one_parameter_more_are_tried_first(make_sweep: MakeSweep) -> None:
    parents = run_sweep(make_sweep(), 3)
    space = {"height": {"type": "float", "low": 0.0, "high": 1.0}, "width": {"type": "int", "low": 1, "high": 9}}
    with open_study(make_sweep(name="fork", space=space), forked="climbing") as study:
        first = study.ask()
    assert first.number == 0 and first.params["height"] == max(row.params["height"] for row in parents)


def test_fork_with_history_keeps_the_code_and_the_data_of_its_parent(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def train(params, trial):\n    trial.report({'score': 0.5})\n"
    (tmp_path / "own.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    parent = make_sweep(trainable="own:train")
    with open_study(parent) as study:
        study.record_facts(check_environment(study, allow_code_change=False))
        record_dataset(study, {"name": "digits", "source": "here", "digest": "a" * 64})
        run_trial(study)
    with open_study(make_sweep(trainable="own:train", name="fork"), forked="climbing") as study:
        with pytest.raises(InputError, match="began with digits from here, and the data differs"):
            record_dataset(study, {"name": "mnist", "source": "there", "digest": "b" * 64})
        check_environment(study, allow_code_change=False)
        study.ask()
    (tmp_path / "own.py").write_text(code.replace("0.5", "0.6"))
    with open_study(make_sweep(trainable="own:train", name="fork")) as study:
        with pytest.raises(InputError, match="--allow-code-change"):
            check_environment(study, allow_code_change=False)
    phases = Phases()
    with open_study(make_sweep(trainable="own:train", name="new"), forked="climbing", listeners=[phases]) as study:
        check_environment(study, allow_code_change=False)
        assert study.ask().number == 0
    assert "(another code of own:train (own.py))" in phases.messages[0]


def test_refused_fork_leaves_nothing(make_sweep: MakeSweep) -> None:
    run_sweep(make_sweep(), 2)
    with pytest.raises(InputError, match="no disk"), open_study(make_sweep(name="fork"), forked="climbing"):
        raise InputError("no disk")
    assert [summary.name for summary in list_sweeps(make_sweep().storage_url())] == ["climbing"]
