"""Plays of a sweep on a virtual clock: what they cost, how far trials come, and which limit ends them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.analysis.forecast.curves import Synthetic
from sweeper.analysis.forecast.forecast import END_S, START_S, Forecast, forecast, rungs_of
from sweeper.analysis.forecast.pace import Estimate
from sweeper.analysis.forecast.play import Machine, Play, TrialCosts
from sweeper.search.space import Point, draw
from sweeper.spec import Sweep

MakeSweep = Callable[..., Sweep]
HALVING = {"type": "promotion", "min_reports": 1}


def costs(sweep: Sweep, seconds: float = 10.0, **more: Any) -> TrialCosts:
    points = [draw(sweep.space, random.Random(seed)) for seed in range(20)]
    return TrialCosts(Estimate(points, [seconds] * 20, sweep.space), **more)


def first(sweep: Sweep) -> list[Point]:
    return [draw(sweep.space, random.Random(seed)) for seed in range(4)]


def curves(sweep: Sweep) -> Callable[[random.Random], Synthetic]:
    budget, direction = sweep.budget, sweep.objective.direction
    return lambda rng: Synthetic(sweep.space, budget.reports, direction, lambda point: 1.0, rng)


def foretold(sweep: Sweep, workers: int = 2, known: TrialCosts | None = None) -> Forecast:
    machine = Machine("here", workers)
    return forecast(
        sweep, machine, first=first(sweep), curves=curves(sweep), costs=known or costs(sweep), max_paused=200
    )


def play(sweep: Sweep, machine: Machine, known: TrialCosts, seed: int = 0) -> Play:
    rng = random.Random(seed)
    made = Play(sweep, machine, first=first(sweep), curves=curves(sweep)(rng), costs=known, rng=rng)
    made.run()
    return made


def test_sweep_without_pruning_costs_all_its_reports(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 6, "epochs": 9})
    found = foretold(sweep)
    assert found.seconds is not None and found.cpu_hours is not None
    assert found.epochs.low == found.epochs.high == 54
    assert found.seconds.likely == pytest.approx(START_S + 270 + END_S, rel=0.1)
    assert found.cpu_hours.likely == pytest.approx(540 / 3600, rel=0.1)
    assert found.seconds.low < found.seconds.likely < found.seconds.high
    assert [(rung.epoch, rung.trials.likely) for rung in found.rungs] == [(9, 6)]
    assert found.gpu_hours is found.cost is found.checkpoint_bytes is None and found.ended_by == ()


def test_start_is_paid_once_by_a_worker_and_compilation_once_for_each_structure(make_sweep: MakeSweep) -> None:
    space = {"height": 1.0, "cell": {"type": "categorical", "choices": ["a", "b"]}}
    sweep = make_sweep(space=space, sampler={"type": "grid"}, budget={"trials": 2, "epochs": 1})
    known = costs(sweep, 0.001, import_s=100.0, structure_s=10.0, trial_s=1.0)
    alone, two = (play(sweep, Machine("here", workers), known) for workers in (1, 2))
    assert alone.clock.now == pytest.approx(100 + 2 * 10 + 2 * 1 if len(structures(alone)) == 2 else 112, abs=0.1)
    assert two.clock.now == pytest.approx(111, abs=0.1)


def structures(made: Play) -> set[object]:
    return {point["cell"] for point in made.points.values()}


def test_pruner_carries_fewer_trials_to_each_rung(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 30, "epochs": 16}, pruner=HALVING, sampler={"type": "tpe"})
    found = foretold(sweep)
    assert [rung.epoch for rung in found.rungs] == [1, 2, 4, 16]
    likely = [rung.trials.likely for rung in found.rungs]
    assert likely[0] == 30 and likely == sorted(likely, reverse=True) and 2 <= likely[-1] <= 8
    assert 0.2 * 480 <= found.epochs.likely < 0.5 * 480


def test_several_goals_are_played_by_the_one_that_prunes(make_sweep: MakeSweep) -> None:
    goals = [{"metric": "size", "direction": "minimize"}, {"metric": "score"}]
    declared: dict[str, Any] = {"budget": {"trials": 30, "epochs": 16}, "sampler": {"type": "nsga2"}}
    alone = foretold(make_sweep(**declared, pruner=HALVING))
    both = foretold(make_sweep(**declared, pruner=HALVING, objective=goals, prune_on="score"))
    assert both.epochs == alone.epochs and both.rungs == alone.rungs
    unpruned = foretold(make_sweep(**declared, pruner={"type": "auto"}, objective=goals))
    assert unpruned.epochs.low == unpruned.epochs.high == 480


@pytest.mark.parametrize(("pruner", "expected"), [
    ({"type": "none"}, [16]),
    ({"type": "successive_halving", "min_epochs": 1, "reduction_factor": 4}, [1, 4, 16]),
    ({"type": "median"}, [2, 4, 8, 12, 16]),
])  # fmt: skip
def test_rungs_are_those_of_the_pruner_or_quarters(
    make_sweep: MakeSweep, pruner: dict[str, Any], expected: list[int]
) -> None:
    assert rungs_of(make_sweep(budget={"trials": 8, "epochs": 16}, pruner=pruner)) == expected


def test_timeout_ends_the_plays_and_is_named(make_sweep: MakeSweep) -> None:
    found = foretold(make_sweep(budget={"trials": 20, "epochs": 9, "timeout": 100}))
    assert found.seconds is not None and found.ended_by == (("budget.timeout", 1.0),)
    assert found.seconds.low == found.seconds.high == 100 + END_S


def test_hours_end_the_plays_as_they_end_a_sweep(make_sweep: MakeSweep) -> None:
    """No trial begins from 90 % on; those that can still end do, and nothing is spent beyond the limit."""
    price = {"cpu_hour": 10.0, "limit": 3.0}
    for limit in ({"cpu_hours": 0.3}, {"cost": price}):
        found = foretold(make_sweep(budget={"trials": 50, "epochs": 9, **limit}))
        assert found.cpu_hours is not None and 0.25 < found.cpu_hours.low <= found.cpu_hours.high <= 0.3 * 1.02
        assert found.ended_by == ((f"budget.{'cpu_hours' if 'cpu_hours' in limit else 'cost.limit'}", 1.0),)
    assert found.cost is not None and found.cost.likely == pytest.approx(10 * found.cpu_hours.likely)


def test_more_workers_need_less_time_and_the_same_hours(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 12, "epochs": 9})
    one, four = foretold(sweep, 1), foretold(sweep, 4)
    assert one.seconds and four.seconds and one.cpu_hours and four.cpu_hours
    assert one.seconds.likely > 3 * four.seconds.likely
    assert one.cpu_hours.likely == pytest.approx(four.cpu_hours.likely, rel=0.1)


def test_trial_that_needs_the_whole_machine_waits_for_it(make_sweep: MakeSweep) -> None:
    space = {"height": 1.0, "wide": {"type": "categorical", "choices": [False, True]}}
    sweep = make_sweep(space=space, budget={"trials": 40, "epochs": 1})
    machine = Machine("here", 4, lambda point: 4.0 if point["wide"] else 1.0)
    made = play(sweep, machine, costs(sweep))
    wide = sum(bool(point["wide"]) for point in made.points.values())
    assert made.clock.now > 0.7 * 10 * (wide + (40 - wide) / 4)
    assert made.clock.now > play(sweep, Machine("here", 4), costs(sweep)).clock.now


def test_spare_cpus_speed_up_the_last_trials(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 3, "epochs": 20})
    alone = play(sweep, Machine("here", 2), costs(sweep)).clock.now
    helped = play(sweep, Machine("here", 2), costs(sweep, spare_gain=0.5)).clock.now
    assert 0.75 * alone < helped < 0.9 * alone


def test_figures_of_a_large_sweep_are_scaled(make_sweep: MakeSweep) -> None:
    found = foretold(make_sweep(budget={"trials": 2000, "epochs": 2}), workers=4)
    assert found.epochs.likely == 4000 and found.seconds is not None
    assert found.seconds.likely == pytest.approx(10 * 1000, rel=0.15)
    assert found.rungs[-1].trials.likely == 2000


def test_checkpoints_of_paused_trials_are_counted_up_to_the_limit(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 30, "epochs": 16}, pruner=HALVING)
    size = Estimate([{"height": 0.5}], [1000.0], sweep.space)
    known = costs(sweep, checkpoint=size)
    few, all_of_them = (
        forecast(sweep, Machine("here", 2), first=[], curves=curves(sweep), costs=known, max_paused=count)
        for count in (5, 200)
    )
    assert few.checkpoint_bytes is not None and all_of_them.checkpoint_bytes is not None
    assert few.checkpoint_bytes.high <= 8000 < all_of_them.checkpoint_bytes.low


def test_same_sweep_has_the_same_forecast(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 20, "epochs": 16}, pruner=HALVING, sampler={"type": "tpe"})
    assert foretold(sweep) == foretold(sweep)


def test_without_costs_only_trials_and_epochs_are_foretold(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    found = forecast(sweep, Machine("here", 2), first=first(sweep), curves=curves(sweep), costs=None, max_paused=200)
    assert found.epochs.likely == 54 and found.seconds is found.cpu_hours is found.cost is None
