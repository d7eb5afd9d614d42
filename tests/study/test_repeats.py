"""A sampler does not propose a point of a finite space again while others are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]

TWELVE = {
    "height": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
    "width": {"type": "int", "low": 1, "high": 4},
}
SAMPLERS = [{"type": "tpe", "n_startup_trials": 3}, {"type": "random"}, {"type": "grid"}, {"type": "qmc"}]


def run_trials(sweep: Sweep, count: int) -> list[tuple[Any, ...]]:
    """Run so many more trials; return the points of all."""
    with open_study(sweep) as study:
        for _ in range(count):
            row = study.ask()
            study.report(row.number, Report(1, 1.0, {"score": row.params["height"]}))
        return [tuple(row.params.values()) for row in study.rows()]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["type"])
def test_every_point_is_run_once_before_one_is_repeated(make_sweep: MakeSweep, sampler: dict[str, Any]) -> None:
    """The sampler sees that the height is all that counts, and would run the best point over and over."""
    sweep = make_sweep(space=TWELVE, sampler=sampler, budget={"trials": 12, "epochs": 1}, pruner={"type": "none"})
    assert len(set(run_trials(sweep, 5))) == 5
    points = run_trials(sweep, 7)  # also over a resume
    assert len(points) == 12 and len(set(points)) == 12


def test_points_are_repeated_once_all_were_run(make_sweep: MakeSweep) -> None:
    budget = {"trials": 20, "epochs": 1}
    sweep = make_sweep(space=TWELVE, sampler={"type": "tpe", "n_startup_trials": 3}, budget=budget)
    points = run_trials(sweep, 20)
    assert len(set(points[:12])) == 12 and len(points) == 20
    with open_study(sweep) as study:
        origins = [row.origin for row in study.rows()]
    assert origins[12:] == ["tpe"] * 8, "the sampler is free again"


def test_start_point_is_run_although_it_was_before(make_sweep: MakeSweep) -> None:
    twice = [{"height": 0.5, "width": 2}, {"height": 0.5, "width": 2}]
    budget = {"trials": 4, "epochs": 1}
    points = run_trials(make_sweep(space=TWELVE, sampler={"type": "random"}, budget=budget, enqueue=twice[:1]), 4)
    assert points[0] == (0.5, 2) and len(set(points)) == 4


def test_endless_space_may_repeat_what_chance_repeats(make_sweep: MakeSweep) -> None:
    space = {"height": {"type": "float", "low": 0.0, "high": 1.0}, "width": {"type": "int", "low": 1, "high": 1}}
    sweep = make_sweep(space=space, sampler={"type": "random"}, budget={"trials": 6, "epochs": 1})
    assert len(set(run_trials(sweep, 6))) == 6
