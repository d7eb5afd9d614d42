"""The forecast of a sweep: what many plays of it came to, as a low, a likely and a high figure of each."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.analysis.forecast.curves import Curves
from sweeper.analysis.forecast.pace import Estimate
from sweeper.analysis.forecast.play import Machine, Play, TrialCosts
from sweeper.search.space import Point
from sweeper.spec import Sweep

START_S, END_S = 4.0, 4.0
"""Seconds from the command to the first trial, without the imports of its worker; and from the last report to the
prompt. Measured by `python -m benchmarks.startup`."""

MIN_PLAYS, MAX_PLAYS, MAX_PLAYED_TRIALS = 10, 40, 200
"""How often a sweep is played, and how many of its trials; the figures of more are scaled."""

PLAYED_TRIALS = 1200
"""Trials of all plays together, as far as the numbers above allow: a second or two."""

SHARES = (0.1, 0.5, 0.9)
"""Share of the plays that stay below the low, the likely and the high figure."""


@dataclass(frozen=True)
class Range:
    """What to expect of a figure: one in ten plays stays below `low`, half below `likely`, nine in ten below `high`."""

    low: float
    likely: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Range:
        return cls(*(float(value) for value in np.quantile(list(values), SHARES)))


@dataclass(frozen=True)
class Rung:
    """How many trials make the report at an epoch, or with a budget of steps at a gradient step."""

    epoch: float
    trials: Range


@dataclass(frozen=True)
class Forecast:
    """What a sweep will come to.

    Attributes:
        epochs: epochs, or gradient steps, of all trials together.
        seconds: wall time, from the command to the prompt; None if the pace of the trials is not known, as all below.
        cpu_hours, gpu_hours: hours of all trials, times the resources of each.
        checkpoint_bytes: most bytes of checkpoints at a time; None if their size is not known.
        cost: money, if the budget has prices.
        ended_by: share of the plays that ended before their last trial, by the key of the budget that ended them.
    """

    plays: int
    epochs: Range
    rungs: tuple[Rung, ...]
    seconds: Range | None = None
    cpu_hours: Range | None = None
    gpu_hours: Range | None = None
    checkpoint_bytes: Range | None = None
    cost: Range | None = None
    ended_by: tuple[tuple[str, float], ...] = ()


def forecast(
    sweep: Sweep,
    machine: Machine,
    *,
    first: Sequence[Point],
    curves: Callable[[random.Random], Curves],
    costs: TrialCosts | None,
    max_paused: int,
) -> Forecast:
    """Play a sweep many times, each time with other curves, and return what the plays came to.

    Args:
        first: the points of the first trials, as the sampler proposes them.
        curves: returns the curves of a play.
        max_paused: paused trials that keep their checkpoints.
    """
    part, scale = _part(sweep)
    count = min(MAX_PLAYS, max(MIN_PLAYS, PLAYED_TRIALS // part.trial_limit))
    until = math.inf if part.budget.timeout is None else part.budget.timeout - START_S
    plays = []
    for number in range(count):
        rng = random.Random(f"{sweep.seed} {number}")
        play = Play(part, machine, first=first, curves=curves(rng), costs=costs, rng=rng, until=until)
        play.run()
        plays.append(play)
    budget = sweep.budget
    each = budget.epoch_of(budget.reports) / budget.reports
    known = Forecast(
        count,
        epochs=Range.of(play.clock.reports * each * scale for play in plays),
        rungs=tuple(_rung(step, plays, sweep, scale) for step in rungs_of(sweep)),
    )
    return known if costs is None else _with_costs(known, sweep, plays, scale, costs, max_paused)


def _part(sweep: Sweep) -> tuple[Sweep, float]:
    """Return a sweep with as many trials as are played, the limits of its budget scaled, and how much more it is."""
    scale, budget = max(1.0, sweep.trial_limit / MAX_PLAYED_TRIALS), sweep.budget
    if scale == 1.0:
        return sweep, scale
    limits = {name: getattr(budget, name) for name in ("timeout", "cpu_hours", "gpu_hours")}
    changed = {name: limit / scale for name, limit in limits.items() if limit is not None}
    if budget.cost is not None and budget.cost.limit is not None:
        changed["cost"] = budget.cost.model_copy(update={"limit": budget.cost.limit / scale})
    played = budget.model_copy(update={"trials": MAX_PLAYED_TRIALS, **changed})
    return sweep.model_copy(update={"budget": played}), scale


def rungs_of(sweep: Sweep) -> list[int]:
    """Return the reports up to which trials are counted: the rungs, or quarters of a trial, and the last."""
    pruner, reports = sweep.chosen_pruner, sweep.budget.reports
    if pruner.type == "none":
        return [reports]
    quarters = [pruner.first(sweep.budget), *(reports * part // 4 for part in (1, 2, 3))]
    return sorted({step for step in pruner.rungs(sweep.budget) or quarters if 0 < step < reports} | {reports})


def _rung(step: int, plays: Sequence[Play], sweep: Sweep, scale: float) -> Rung:
    reached = [scale * sum(last >= step for last in play.steps.values()) for play in plays]
    return Rung(sweep.budget.epoch_of(step), Range.of(reached))


def _with_costs(
    known: Forecast, sweep: Sweep, plays: Sequence[Play], scale: float, costs: TrialCosts, max_paused: int
) -> Forecast:
    hours = [_hours(play, sweep, scale) for play in plays]
    price, timeout, size = sweep.budget.cost, sweep.budget.timeout, costs.checkpoint
    ends = [play.clock.now * scale + START_S for play in plays]
    by_timeout = [timeout is not None and end >= timeout - 1e-6 for end in ends]
    limits = {key for play in plays for key in _used_up(play)}
    by_limit = [(key, sum(key in _used_up(play) for play in plays)) for key in sorted(limits)]
    ended_by = [("budget.timeout", sum(by_timeout)), *by_limit]
    return Forecast(
        known.plays,
        known.epochs,
        known.rungs,
        seconds=Range.of(end + END_S for end in ends),
        cpu_hours=Range.of(cpu for cpu, _ in hours),
        gpu_hours=Range.of(gpu for _, gpu in hours) if any(gpu for _, gpu in hours) else None,
        checkpoint_bytes=None if size is None else Range.of(_kept(play, size, max_paused) for play in plays),
        cost=None if price is None else Range.of(price.of(cpu, gpu) for cpu, gpu in hours),
        ended_by=tuple((key, times / len(plays)) for key, times in ended_by if times),
    )


def _hours(play: Play, sweep: Sweep, scale: float) -> tuple[float, float]:
    """Return the CPU- and GPU-hours of the trials of a play."""
    cpu = gpu = 0.0
    for number, seconds in play.clock.spent.items():
        share = sweep.resources.for_trial(play.points[number])
        cpu, gpu = cpu + share.cpus * seconds, gpu + share.gpus * seconds
    return cpu * scale / 3600, gpu * scale / 3600


def _used_up(play: Play) -> list[str]:
    """Return which limits of the budget in hours or money have ended a play."""
    return [amount.key for amount in play.spending.amounts() if amount.is_nearly_used]


def _kept(play: Play, size: Estimate, max_paused: int) -> float:
    """Return the bytes of the checkpoints at the end of a play: of paused trials, of running ones, and of the best."""
    workers, pauses = play.machine.workers, bool(play.sweep.chosen_pruner.pauses(play.sweep.budget))
    paused = [number for number, step in play.steps.items() if step < play.reports and pauses]
    kept = sorted(paused, key=lambda number: -play.steps[number])[:max_paused]
    others = [number for number in play.steps if number not in paused][: 1 + workers]
    return sum(size.of(play.points[number]) for number in (*kept, *others))
