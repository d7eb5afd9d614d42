from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from pydantic import TypeAdapter, ValidationError

from sweeper.core.schema import dotted_key
from sweeper.search.budget import Budget
from sweeper.search.pruning.pruners import Auto, Pruner

optuna.logging.set_verbosity(optuna.logging.WARNING)

BUDGET = Budget(trials=24, epochs=8, reports_per_epoch=4)
STEPS = Budget(trials=24, steps=1000, report_every=100)


def pruner_of(**declared: Any) -> Any:
    return TypeAdapter(Pruner).validate_python(declared)


def reports_at_which_pruned(
    pruner: Any, curve: Callable[[int], float], *, budget: Budget = BUDGET, complete: int = 6
) -> list[int]:
    """Return the reports at which a trial with this curve is pruned, after complete trials that always reported 1.0."""
    study = optuna.create_study(direction="maximize", pruner=pruner.build(budget), study_name="pruning")
    for _ in range(complete):
        trial = study.ask()
        for step in range(1, budget.reports + 1):
            trial.report(1.0, step)
            trial.should_prune()
        study.tell(trial, 1.0)
    trial = study.ask()
    pruned = []
    for step in range(1, budget.reports):  # the last report is not judged
        trial.report(curve(step), step)
        if trial.should_prune():
            pruned.append(step)
    return pruned


def hopeless(step: int) -> float:
    return 0.1 - step / 1000


@pytest.mark.parametrize(
    ("declared", "first"),
    [
        ({"type": "median"}, 4),
        ({"type": "median", "min_epochs": 0.25}, 1),
        ({"type": "median", "min_epochs": 0.3}, 2),
        ({"type": "median", "min_epochs": 2}, 8),
        ({"type": "median", "min_reports": 7}, 7),
        ({"type": "percentile", "percentile": 50}, 4),
        ({"type": "percentile", "percentile": 50, "min_epochs": 1.5}, 6),
        ({"type": "successive_halving"}, 2),
        ({"type": "successive_halving", "min_epochs": 0.25}, 1),
        ({"type": "successive_halving", "min_epochs": 1}, 4),
        ({"type": "successive_halving", "min_epochs": 1, "min_early_stopping_rate": 1}, 16),
        ({"type": "threshold", "lower": 0.5}, 1),
        ({"type": "threshold", "lower": 0.5, "min_epochs": 2}, 8),
        ({"type": "threshold", "upper": 0.05, "min_reports": 3}, 3),
        ({"type": "patient", "patience_epochs": 1}, 5),
        ({"type": "patient", "patience_reports": 1}, 2),
        ({"type": "patient"}, 9),
        ({"type": "patient", "patience_reports": 2, "wrapped": {"type": "median", "min_reports": 9}}, 9),
    ],
)
def test_bad_trial_stops_at_the_first_report_that_is_judged(declared: dict[str, Any], first: int) -> None:
    pruner = pruner_of(**declared)

    assert reports_at_which_pruned(pruner, hopeless)[:1] == [first]
    assert pruner.first(BUDGET) == first
    assert pruner.problems(BUDGET) == []


@pytest.mark.parametrize(
    ("declared", "first"),
    [
        ({"type": "median"}, 1),
        ({"type": "median", "min_reports": 4}, 4),
        ({"type": "successive_halving", "min_reports": 2, "reduction_factor": 2}, 2),
    ],
)
def test_budget_of_steps_counts_in_reports(declared: dict[str, Any], first: int) -> None:
    pruner = pruner_of(**declared)

    assert reports_at_which_pruned(pruner, hopeless, budget=STEPS)[:1] == [first] == [pruner.first(STEPS)]


@pytest.mark.parametrize("kind", [{"type": "median"}, {"type": "threshold", "lower": 0.5}])
def test_checks_come_at_even_intervals(kind: dict[str, Any]) -> None:
    by_epochs = pruner_of(**kind, min_epochs=1, interval_epochs=2)
    by_reports = pruner_of(**kind, min_reports=1, interval_reports=10)

    assert reports_at_which_pruned(by_epochs, hopeless) == [4, 12, 20, 28]
    assert reports_at_which_pruned(by_reports, hopeless) == [1, 11, 21, 31]


@pytest.mark.parametrize("rung", [1, 4, 16])
def test_halving_judges_at_its_rungs_only(rung: int) -> None:
    pruner = pruner_of(type="successive_halving", min_epochs=0.25, reduction_factor=4)

    def good_until_just_before(step: int) -> float:
        return 2.0 if step <= rung // 4 else 0.0

    assert reports_at_which_pruned(pruner, good_until_just_before)[0] == rung


def test_good_trials_are_never_pruned_and_none_prunes_nothing() -> None:
    assert reports_at_which_pruned(pruner_of(type="none"), hopeless) == []
    for kind in ("median", "percentile", "successive_halving", "hyperband", "patient"):
        assert reports_at_which_pruned(pruner_of(type=kind), lambda step: 1.0 + step) == []


def test_comparison_waits_for_enough_complete_trials() -> None:
    assert reports_at_which_pruned(pruner_of(type="median"), hopeless, complete=4) == []
    assert reports_at_which_pruned(pruner_of(type="median", n_startup_trials=2), hopeless, complete=2) != []
    assert reports_at_which_pruned(pruner_of(type="median", n_min_trials=9), hopeless) == []


def test_short_sweep_has_few_startup_trials() -> None:
    few = Budget(trials=5, epochs=8, reports_per_epoch=4)

    assert reports_at_which_pruned(pruner_of(type="median"), hopeless, budget=few, complete=1) != []


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_is_the_number_of_reports_without_improvement(patience: int) -> None:
    pruner = pruner_of(type="patient", patience_reports=patience)

    def peak_at_five(step: int) -> float:
        return float(min(step, 10 - step))

    assert reports_at_which_pruned(pruner, peak_at_five)[0] == 5 + patience


@pytest.mark.parametrize(
    ("reports", "factor", "brackets"), [(243, 3, 6), (242, 3, 5), (27, 3, 4), (26, 3, 3), (32, 3, 4), (1000, 10, 4)]
)
def test_hyperband_has_the_brackets_of_the_paper(reports: int, factor: int, brackets: int) -> None:
    pruner: Any = pruner_of(type="hyperband", reduction_factor=factor, min_reports=1).build(
        Budget(trials=50, epochs=reports)
    )
    study = optuna.create_study(pruner=pruner)
    pruner._try_initialization(study)

    assert pruner._n_brackets == brackets


def test_hyperband_stops_a_bad_trial_at_its_first_rung() -> None:
    budget = Budget(trials=60, epochs=9)
    study = optuna.create_study(pruner=pruner_of(type="hyperband").build(budget), study_name="hyperband")
    ends = []
    for number in range(60):
        trial = study.ask()
        for step in range(1, 9):
            trial.report(float(number), step)
            if trial.should_prune():
                ends.append(step)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break

    assert set(ends) == {1, 3}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"type": "threshold"}, "a threshold needs lower, or upper, or both"),
        ({"type": "threshold", "lower": 1, "upper": 1}, "lower: 1.0 must be below upper: 1.0"),
        (
            {"type": "median", "min_epochs": 1, "min_reports": 4},
            "min_reports: min_epochs and min_reports are both given; leave one of them out",
        ),
        ({"type": "percentile", "percentile": 101}, "less than or equal to 100"),
        ({"type": "median", "min_epochs": 0}, "greater than 0"),
        ({"type": "successive_halving", "reduction_factor": 1}, "greater than or equal to 2"),
        ({"type": "patient", "wrapped": {"type": "patient"}}, "does not match any of the expected tags"),
    ],
)
def test_impossible_options_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        pruner_of(**declared)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "budget", "key", "message"),
    [
        (
            {"type": "median", "min_epochs": 8},
            BUDGET,
            "min_epochs",
            "judges from report 32 on, but a trial has 32 reports",
        ),
        ({"type": "hyperband", "min_reports": 40}, BUDGET, "min_reports", "judges from report 40 on"),
        ({"type": "patient", "patience_epochs": 9}, BUDGET, "patience_epochs", "judges from report 37 on"),
        ({"type": "median", "min_epochs": 1}, STEPS, "min_epochs", "the budget counts steps; use min_reports"),
        ({"type": "median", "interval_epochs": 1}, STEPS, "interval_epochs", "use interval_reports"),
        (
            {"type": "patient", "wrapped": {"type": "median", "min_epochs": 1}},
            STEPS,
            "wrapped.min_epochs",
            "use min_reports",
        ),
        ({"type": "hyperband", "bootstrap_count": 24}, BUDGET, "bootstrap_count", "would stop all 24 trials"),
    ],
)
def test_options_that_do_not_fit_the_budget_are_reported(
    declared: dict[str, Any], budget: Budget, key: str, message: str
) -> None:
    problem, *more = pruner_of(**declared).problems(budget)

    assert (dotted_key(problem.key), message in problem.message, more) == (key, True, []), problem


def test_one_report_per_trial_is_not_a_problem() -> None:
    once = Budget(trials=3, epochs=1)

    assert [pruner_of(type=kind).problems(once) for kind in ("median", "successive_halving", "patient")] == [[], [], []]


@pytest.mark.parametrize(
    ("budget", "kind"),
    [
        ({"trials": 24, "epochs": 8, "reports_per_epoch": 4}, "promotion"),
        ({"trials": 2000, "epochs": 8}, "promotion"),
        ({"trials": 24, "epochs": 1}, "none"),
        ({"trials": 2, "epochs": 8, "reports_per_epoch": 4}, "none"),
    ],
)
def test_auto_chooses_by_the_budget(budget: dict[str, Any], kind: str) -> None:
    assert Auto().chosen(Budget(**budget)).type == kind
