"""A study of several goals: what it records, which trials it stops, what it proposes, and how it is resumed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from sweeper.core.errors import InputError
from sweeper.core.trials import GoalValue, Report, TrialRecord, Verdict
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]

GOALS = [{"metric": "score"}, {"metric": "parameters", "direction": "minimize"}]
SPACE: dict[str, Any] = {
    "height": {"type": "float", "low": 0.0, "high": 1.0},
    "width": {"type": "int", "low": 1, "high": 64, "log": True},
    "kind": {"type": "categorical", "choices": ["a", "b"]},
    "more": {"type": "float", "low": 0.0, "high": 1.0, "when": {"kind": "a"}},
}
REPORTS = 4


@pytest.fixture
def make(make_sweep: MakeSweep) -> MakeSweep:
    """Return a function that makes a sweep of two goals."""
    declared = {"objective": GOALS, "space": SPACE, "budget": {"trials": 12, "epochs": REPORTS}}
    return lambda **changes: make_sweep(**declared | changes)


def run_trial(study: SweepStudy, row: TrialRecord | None = None, *, reports: int = REPORTS) -> Verdict:
    """Run a trial as `tests.samples:weigh` does: it reports its size once, with the first report."""
    row = study.ask() if row is None else row
    height, width, verdict = row.params["height"], float(row.params["width"]), Verdict.CONTINUE
    for step in range(row.step + 1, reports + 1):
        share = 1 if height < 0.5 and step > 2 else step  # a low one falls again
        size = {"parameters": width} if step == 1 else {}
        metrics = {"score": height * (1 - 1 / (1 + width)) * share / REPORTS, **size}
        verdict = study.report(row.number, Report(step, 1e9 + step, metrics))
        if verdict is Verdict.STOP:
            break
    return verdict


def run_all(study: SweepStudy) -> None:
    while study.has_next():
        run_trial(study)


def check_records(sweep: Sweep) -> None:
    """Check that the owner, a reader, a later owner and Optuna itself know the same values and front."""
    with open_study(sweep) as study:
        run_all(study)
        rows, front = study.rows(), study.leaderboard(front=True)
        assert {row.state for row in rows} == {"COMPLETE", "PRUNED"}
    view = read_study(sweep.name, sweep.storage_url())
    assert view.rows() == rows and view.leaderboard(front=True) == front and 1 < len(front) < len(rows)
    with open_study(sweep) as study:
        assert study.rows() == rows
    for row in rows:
        assert row.others == (GoalValue("parameters", float(row.params["width"]), "minimize"),)
    loaded = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url())
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert loaded.metric_names == ["score", "parameters"]
    assert {trial.number for trial in loaded.best_trials} == {row.number for row in front}
    frame = view.trials
    assert list(frame.columns[:3]) == ["state", "score", "parameters"]
    assert frame["parameters"].to_dict() == {row.number: row.others[0].value for row in rows}
    (summary,) = list_sweeps(sweep.storage_url())
    assert summary.metric == "score" and summary.best == front[0].value


HALVING = {"prune_on": "score", "pruner": {"type": "successive_halving", "min_reports": 1, "reduction_factor": 2}}


def test_all_readers_know_the_same_values_and_front(make: MakeSweep) -> None:
    check_records(make(**HALVING))


PRUNERS: list[dict[str, Any]] = [
    {"type": "median", "n_startup_trials": 1, "min_reports": 1},
    {"type": "percentile", "percentile": 30, "n_startup_trials": 1, "min_reports": 1},
    {"type": "successive_halving", "min_reports": 1, "reduction_factor": 2},
    {"type": "promotion", "min_reports": 1},
    {"type": "threshold", "lower": 0.1},
    {"type": "patient", "patience_reports": 1, "wrapped": {"type": "median", "n_startup_trials": 1}},
]


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: str(pruner["type"]))
def test_trial_is_stopped_by_the_named_metric_alone(
    pruner: dict[str, Any], make_sweep: MakeSweep, make: MakeSweep
) -> None:
    budget = {"trials": 16, "epochs": REPORTS}
    alone = make_sweep(objective=GOALS[0], space=SPACE, budget=budget, pruner=pruner, name="alone")
    both = make(budget=budget, pruner=pruner, prune_on="score", name="both")
    seen = []
    for sweep in (alone, both):
        with open_study(sweep) as study:
            run_all(study)
            seen.append([(row.params, row.state, row.step, row.value, row.reason) for row in study.rows()])
    assert seen[0] == seen[1], "the other goal has changed a decision"
    assert any(state == "PRUNED" for _, state, *_ in seen[0])


@pytest.mark.parametrize("pruner", PRUNERS[:4], ids=lambda pruner: str(pruner["type"]))
def test_good_trial_is_not_stopped_for_its_size(pruner: dict[str, Any], make: MakeSweep) -> None:
    points = [{"height": 0.5, "width": width, "kind": "b"} for width in (1, 2, 4)]
    points.append({"height": 1.0, "width": 64, "kind": "b"})
    sweep = make(budget={"trials": 4, "epochs": REPORTS}, prune_on="score", pruner=pruner, enqueue=points)
    with open_study(sweep) as study:
        run_all(study)
        assert study.row(3).state == "COMPLETE" and study.row(3) in study.leaderboard(front=True)
        assert study.best() == study.row(3)


def test_goal_that_is_minimized_may_prune(make: MakeSweep) -> None:
    pruner = {"type": "successive_halving", "min_reports": 1, "reduction_factor": 2}
    with open_study(make(prune_on="parameters", pruner=pruner, enqueue=[{"width": 8}, {"width": 9}])) as study:
        for width, expected in ((8, Verdict.CONTINUE), (9, Verdict.STOP)):
            number = study.ask().number
            assert study.report(number, Report(1, 1e9, {"score": 0.5, "parameters": width})) is expected
        assert [row.value for row in study.rows()] == [8, 9]
        assert study.row(1).others == (GoalValue("score", 0.5, "maximize"),)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
@pytest.mark.parametrize("pruner", ["none", "promotion"])
def test_samplers_search_for_several_goals(sampler: str, pruner: str, make: MakeSweep) -> None:
    declared = {"prune_on": "score", "pruner": {"type": pruner}, "budget": {"trials": 24, "epochs": REPORTS}}
    sweep = make(**declared, sampler={"type": sampler})
    with open_study(sweep) as study:
        run_all(study)
        points, front = [row.params for row in study.rows()], study.leaderboard(front=True)
        if sampler in ("tpe", "nsga2"):
            assert {row.origin for row in study.rows()} == {
                "random start-up" if sampler == "tpe" else "random",
                sampler,
            }
    assert len(points) == 24 and front
    with open_study(make(**declared, sampler={"type": sampler}, name="again")) as study:
        run_all(study)
        assert [row.params for row in study.rows()] == points, "the seed decides"


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_resumed_sweep_proposes_what_one_run_would_have(sampler: str, make: MakeSweep) -> None:
    declared = {**HALVING, "sampler": {"type": sampler}, "budget": {"trials": 20, "epochs": REPORTS}}
    with open_study(make(**declared, name="whole")) as study:
        run_all(study)
        whole = study.rows()
    for trials in (7, 13, 20):
        with open_study(make(**declared, name="parts")) as study:
            while study.has_next() and len(study.rows()) < trials:
                run_trial(study)
            if trials == 13:  # it is interrupted within a trial
                run_trial(study, study.ask(), reports=1)
    with open_study(make(**declared, name="parts")) as study:
        run_all(study)
        assert [row.params for row in study.rows()] == [row.params for row in whole]
        assert [(row.state, row.value, row.others) for row in study.rows()] == [
            (row.state, row.value, row.others) for row in whole
        ]


def test_last_value_of_a_goal_counts_and_one_that_is_never_reported_fails(make: MakeSweep) -> None:
    with open_study(make()) as study:
        first, second, third = (study.ask().number for _ in range(3))
        for step in range(1, REPORTS + 1):
            study.report(first, Report(step, 1e9, {"score": 0.5, "parameters": 10.0 - step}))
            study.report(second, Report(step, 1e9, {"score": 0.9}))
        assert study.row(first).others[0].value == 6.0
        assert (
            study.row(second).state == "FAIL" and study.row(second).reason == "ended without a report of 'parameters'"
        )
        study.report(third, Report(1, 1e9, {"parameters": 3.0}))
        assert study.row(third).state == "FAIL" and "metric 'score' not reported" in str(study.row(third).reason)
        assert [row.number for row in study.leaderboard(front=True)] == [first]


def test_what_prunes_and_the_goals_may_not_change(make: MakeSweep) -> None:
    with open_study(make()) as study:
        run_trial(study)
    changes: list[dict[str, Any]] = [
        {"prune_on": "score"},
        {"prune_on": "parameters"},
        {"objective": GOALS[0]},
        {"objective": [*GOALS, {"metric": "seconds"}]},
        {"objective": [GOALS[0], {**GOALS[1], "direction": "maximize"}]},
    ]
    for change in changes:
        with pytest.raises(InputError, match="its trials would not compare with new ones"), open_study(make(**change)):
            pass


def test_fork_learns_from_trials_with_the_same_goals(make: MakeSweep, make_sweep: MakeSweep) -> None:
    with open_study(make(**HALVING)) as study:
        run_all(study)
        best = study.row(0) if study.best() is None else study.best()
    with open_study(make(**HALVING, name="fork"), forked="climbing") as fork:
        assert "12 trials of climbing" in " ".join(fork.remarks())
        run_all(fork)
        assert len(fork.rows()) == 12
    single = make_sweep(objective=GOALS[0], space=SPACE, name="single")
    with open_study(single, forked="climbing") as fork:
        assert best is not None and fork.ask().params == best.params, "only the best points are tried first"


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")
def test_all_readers_know_the_same_values_and_front_on_postgresql(make: MakeSweep, postgres: str) -> None:
    check_records(make(**HALVING, storage=postgres))
    gc.collect()  # Optuna leaves connections
