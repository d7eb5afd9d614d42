from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeper.search.budget import Budget
from sweeper.search.pruning.halving import Promotion
from sweeper.search.pruning.promotion import PAUSED, PromotionPruner, expected

RUNGS, REPORTS = [(1, 2), (2, 2)], 4


class Played:
    """A study in memory with a pruner; trials are told by hand."""

    def __init__(self, rungs: Any = RUNGS, direction: str = "maximize", **options: float) -> None:
        self.pruner = PromotionPruner(rungs, REPORTS, **options)
        self.study = optuna.create_study(direction=direction, pruner=self.pruner)
        self.trials: list[optuna.Trial] = []

    def report(self, number: int, value: float) -> bool:
        """Report a value of a trial, a new one if it is the next number; return whether it is paused."""
        if number == len(self.trials):
            self.trials.append(self.study.ask())
        trial = self.trials[number]
        reports = self.study.trials[number].intermediate_values
        trial.report(value, len(reports) + 1)
        if is_paused := trial.should_prune():
            trial.set_user_attr(PAUSED, True)
            self.study.tell(trial, state=TrialState.PRUNED)
            self.pruner.note_end(self.study, number)
        return is_paused

    def revival(self, *, is_last_round: bool = False) -> int | None:
        found = self.pruner.revival(self.study, is_last_round=is_last_round)
        look_ahead, effort = self.pruner._look_ahead, self.pruner._effort
        again = PromotionPruner(self.pruner._declared, REPORTS, look_ahead=look_ahead, effort=effort)
        assert again.revival(self.study, is_last_round=is_last_round) == found, "another process decides otherwise"
        return found


def test_first_trial_waits_for_one_that_is_worse() -> None:
    played = Played()
    assert played.report(0, 0.5) and played.revival() is None
    assert played.report(1, 0.4) and played.revival() == 0


def test_better_one_passes_at_once() -> None:
    played = Played()
    played.report(0, 0.4)
    assert not played.report(1, 0.5) and played.revival() is None


def test_smaller_is_better_where_the_metric_is_minimized() -> None:
    played = Played(direction="minimize")
    played.report(0, 0.5)
    assert not played.report(1, 0.4)


def test_equal_trials_pass_in_their_order() -> None:
    played = Played()
    for number in range(4):
        played.report(number, 0.5)
    assert played.revival() == 0


def test_one_that_is_not_a_number_never_passes() -> None:
    played = Played()
    assert played.report(0, math.nan) and played.report(1, math.nan)
    assert not played.report(2, 0.1)
    assert expected({1: math.nan}, 1, 0.5, 1.0) == math.inf


def test_one_that_has_come_furthest_goes_on_first() -> None:
    played = Played([(1, 2), (2, 2)])
    for number, value in enumerate((0.1, 0.9, 0.2, 0.8)):
        played.report(number, value)  # trials 1 and 3 pass the first rung
    assert played.report(1, 0.9) and not played.report(3, 0.95)
    played.report(4, 0.85)
    played.report(5, 0.05)  # three of six pass the first rung now: 1, 4 and 3
    assert played.report(4, 0.1)
    assert played.revival() is None
    played.report(6, 0.01)
    played.report(7, 0.02)  # four of eight: trial 2 too
    assert played.revival() == 2


def test_last_round_rounds_up() -> None:
    played = Played([(1, 3)])
    played.report(0, 0.5)
    assert played.revival() is None and played.revival(is_last_round=True) == 0


@pytest.mark.parametrize(("effort", "following"), [(5, 0), (4, None)])
def test_last_round_goes_on_until_the_effort_is_spent(effort: int, following: int | None) -> None:
    played = Played([(1, 10)], effort=effort)
    for number in range(2):
        played.report(number, 0.1 * number)
    assert played.revival(is_last_round=True) == 1
    played.pruner.note_revived(1)
    # Of trial 0, one report is made; trial 1 runs, and makes three that are judged.
    assert played.pruner.revival(played.study, is_last_round=True) == following


def test_trial_that_failed_counts_with_the_reports_that_it_made() -> None:
    played = Played([(1, 2)], effort=4)
    played.report(0, 0.4)
    assert not played.report(1, 0.5)
    assert not played.report(1, 0.5)
    assert played.revival(is_last_round=True) is None  # all shares of the rung are given
    played.study.tell(played.trials[1], state=TrialState.FAIL)
    played.pruner.note_end(played.study, 1)
    assert played.revival(is_last_round=True) == 0


@pytest.mark.parametrize(("values", "step", "wanted"), [
    ([0.5], 1, -0.5),
    ([0.5, 0.7], 2, -0.8),  # gained 0.2 since half of the steps, and is credited with half of it
    ([0.5, 0.7, 0.6], 3, -0.8),
    ([0.5, 0.6, 0.7, 0.7], 4, -0.75),
    ([0.7, 0.5], 2, -0.7),
])  # fmt: skip
def test_trial_is_expected_to_go_on_at_half_its_pace(values: list[float], step: int, wanted: float) -> None:
    reports = dict(enumerate(values, 1))
    assert expected(reports, step, 0.5, -1.0) == pytest.approx(wanted)
    assert expected({at: -value for at, value in reports.items()}, step, 0.5, 1.0) == pytest.approx(wanted)


@pytest.mark.parametrize(("losses", "wanted"), [
    ([0.5], 0.5),
    ([0.04, 0.01], 0.005),  # fell to a quarter since half of the steps, and is credited with half of that factor
    ([2.0, 0.5], 0.25),
    ([0.5, 0.0], 0.0),
    ([math.inf, 0.5], 0.5),
])  # fmt: skip
def test_loss_is_expected_to_fall_by_a_factor_and_never_below_zero(losses: list[float], wanted: float) -> None:
    reports = dict(enumerate(losses, 1))
    assert expected(reports, len(losses), 0.5, 1.0) == pytest.approx(wanted)
    negated = {at: -loss for at, loss in reports.items()}
    assert expected(negated, len(losses), 0.5, -1.0) == pytest.approx(wanted)


def test_great_fall_of_a_bad_loss_does_not_outrank_a_good_one() -> None:
    good, bad = {1: 0.07, 2: 0.03}, {1: 3.0, 2: 0.5}
    assert expected(good, 2, 0.5, 1.0) < expected(bad, 2, 0.5, 1.0)


def test_later_reports_do_not_change_a_place() -> None:
    assert expected({1: 0.5, 2: 0.9}, 1, 0.5, -1.0) == expected({1: 0.5}, 1, 0.5, -1.0)


@pytest.mark.parametrize(
    ("options", "budget", "rungs"),
    [
        ({"min_epochs": 0.5}, {"epochs": 8, "reports_per_epoch": 4}, [2, 4, 8]),
        ({"min_epochs": 0.25, "spacing": 3}, {"epochs": 8, "reports_per_epoch": 4}, [1, 3, 9]),
        ({"min_reports": 1}, {"epochs": 2, "reports_per_epoch": 1}, [1]),
        ({}, {"epochs": 4, "reports_per_epoch": 1}, [1, 2]),
    ],
)
def test_rungs_are_at_multiples_of_the_first(options: dict[str, Any], budget: dict[str, Any], rungs: list[int]) -> None:
    assert Promotion(**options).pauses(Budget(trials=20, **budget)) == rungs
