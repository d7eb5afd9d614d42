"""Every private name of Optuna's pruners that sweeper uses, as of Optuna 5.0: one function each.

`tests/search/test_optuna_internals.py` fails when a name moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from optuna.pruners import BasePruner, HyperbandPruner, _percentile, _successive_halving
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial


def best_value(trial: FrozenTrial, direction: StudyDirection) -> float:
    """Return the best value that a trial has reported, as Optuna's percentile pruner computes it; NaN if all are NaN.

    Optuna 5.0. The public `PercentilePruner.prune` collects the values of all trials for each verdict;
    `IncrementalPercentilePruner` keeps them and must not differ in the rest.
    """
    return float(_percentile._get_best_intermediate_result_over_steps(trial, direction))


def is_first_of_interval(trial: FrozenTrial, step: int, *, warmup: int, interval: int) -> bool:
    """Return whether a step is the first of its interval that the trial has reported, as Optuna's pruners decide.

    Optuna 5.0. The public pruners decide this inside `prune` only; see `best_value`.
    """
    return _percentile._is_first_in_interval_step(step, trial.intermediate_values.keys(), warmup, interval)


def rung_marks(reports: Mapping[int, float], *, first: int, factor: int) -> dict[str, float]:
    """Return the marks that SuccessiveHalvingPruner leaves on a trial with these reports: its value at each rung.

    Optuna 5.0. The pruner compares the trials that have a mark in their system attributes, and sets it only where it
    judges. Trials that ran without it, or with other rungs, need marks to be compared. There is no public way.

    Args:
        reports: the values that the trial reported, by step.
        first: the step of the first rung.
        factor: the step of each rung, divided by that of the rung before.
    """
    marks: dict[str, float] = {}
    step = first
    while later := [number for number in reports if number >= step]:
        marks[_successive_halving._completed_rung_key(len(marks))] = reports[min(later)]
        step *= factor
    return marks


def is_rung_mark(attribute: str) -> bool:
    """Return whether a system attribute of a trial is a mark that SuccessiveHalvingPruner or HyperbandPruner left."""
    return attribute.startswith(_successive_halving._completed_rung_key(0).removesuffix("0"))


def rungs_passed(trial: FrozenTrial) -> int:
    """Return at how many rungs SuccessiveHalvingPruner or HyperbandPruner has compared a trial.

    Optuna 5.0. The pruners return a verdict only, and one report may reach several rungs. There is no public way.
    """
    return _successive_halving._get_current_rung(trial)


def values_at_rung(trials: Iterable[FrozenTrial], rung: int) -> list[tuple[FrozenTrial, float]]:
    """Return the trials that were compared at a rung, which is counted from 0, with their values there.

    Optuna 5.0. See `rungs_passed`.
    """
    key = _successive_halving._completed_rung_key(rung)
    return [(trial, trial.system_attrs[key]) for trial in trials if key in trial.system_attrs]


def bracket_of(pruner: BasePruner, study: Study, trial: FrozenTrial) -> int:
    """Return the bracket, counted from 0, in which HyperbandPruner compares a trial; it must have judged a report.

    Optuna 5.0. The pruner hands its samplers the study of a bracket and does not say which one. There is no public way.
    """
    return cast(HyperbandPruner, pruner)._get_bracket_id(study, trial)
