"""One play of a sweep: its trials are proposed, paused and stopped as in a real one, and nobody trains them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna

from sweeper.analysis.forecast.clock import Clock
from sweeper.analysis.forecast.curves import Curves
from sweeper.analysis.forecast.pace import Estimate
from sweeper.analysis.forecast.played import PlayedStudy
from sweeper.analysis.forecast.points import GOOD_SHARE, like_the_good, structure
from sweeper.core.trials import TrialRecord
from sweeper.search.samplers import Random
from sweeper.search.space import Point, draw
from sweeper.spec import Sweep

COMMON_ERROR = 0.08
"""Standard deviation of the logarithm of what slows down or speeds up all trials of a sweep alike."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TrialCosts:
    """What trials cost, in seconds and bytes.

    Attributes:
        pace: seconds of a report.
        import_s: seconds that a worker needs for its first trial in addition, to import packages.
        structure_s: seconds that a worker needs in addition to compile a program for its first trial of a structure.
        trial_s: seconds between two trials of a worker.
        report_s: seconds that a report takes in addition, for the driver.
        spare_gain: how much faster a trial gets by a CPU that nothing else uses: 0.5 is half as fast again.
        checkpoint: bytes of a trial's checkpoints; None if unknown.
    """

    pace: Estimate
    import_s: float = 0.0
    structure_s: float = 0.0
    trial_s: float = 0.0
    report_s: float = 0.0
    spare_gain: float = 0.0
    checkpoint: Estimate | None = None


@dataclass(frozen=True)
class Machine:
    """Where the trials run: how many at a time, and how many of these places a trial takes."""

    name: str
    workers: int
    takes: Callable[[Mapping[str, Any]], float] = lambda point: 1.0
    least: float = 1.0


class Play(PlayedStudy):
    """A sweep that is played once; `run` plays it.

    Args:
        first: the points of the first trials.
        costs: None if they are not known; then each report takes one second.

    Attributes:
        points: the parameters of each trial, by its number.
        steps: the last report of each trial.
        clock: the clock when the sweep has ended.
    """

    def __init__(
        self,
        sweep: Sweep,
        machine: Machine,
        *,
        first: Sequence[Point],
        curves: Curves,
        costs: TrialCosts | None,
        rng: random.Random,
        until: float = math.inf,
    ) -> None:
        declared, count = sweep, sweep.trial_limit
        budget = sweep.budget.model_copy(update={"trials": count})
        played = {"budget": budget, "declared_goals": (sweep.objective,), "pruner": sweep.chosen_pruner}
        super().__init__(sweep.model_copy(update={**played, "sampler": Random()}))  # which asks for nothing
        sampler = declared.chosen_sampler
        self._random_trials = count if sampler.type == "grid" else sampler.random_trials(count)
        self._first, self._curves, self._costs, self._rng = first, curves, costs, rng
        self.points: dict[int, Point] = {}
        self.steps: dict[int, int] = {}
        self._values: dict[int, Sequence[float]] = {}
        self._ended: set[int] = set()
        self._paces: dict[int, float] = {}
        self._error = math.exp(rng.gauss(0.0, COMMON_ERROR))
        self._seen: dict[int, set[object]] = {}
        self.machine, self.reports = machine, sweep.budget.reports
        self._cpus = sweep.resources.for_trial(first[0]).cpus if first and sweep.resources.elastic else 0.0
        takes = lambda number: machine.takes(self.points[number])  # noqa: E731
        self.clock = Clock(self, self, machine.workers, takes=takes, least=machine.least, until=until)
        self.spending = sweep.spending(now=self._now)
        self._is_limited = bool(self.spending.amounts())
        self._rows: dict[int, TrialRecord] = {}

    def run(self) -> None:
        """Play the sweep to its end."""
        for _ in self.clock.run():
            pass

    def next(self) -> tuple[int, int] | None:
        task = super().next()
        if task is not None and self._is_limited:
            row = self._rows.get(task[0]) or TrialRecord(task[0], "RUNNING", self.points[task[0]], started=self._now())
            if row.ended is not None:
                row = replace(row, state="RUNNING", spent=row.seconds or 0.0, resumed=self._now(), ended=None)
            self._note(row)
        return task

    def report(self, number: int, step: int, value: float) -> bool:
        self.steps[number] = step
        goes_on = super().report(number, step, value)
        if not goes_on:
            self._ended.add(number)
        if not self._is_limited:
            return goes_on
        state = "RUNNING" if goes_on else "COMPLETE" if step == self.reports else "PRUNED"
        self._note(replace(self._rows[number], state=state, step=step, value=value))
        if goes_on and self.spending.reject([number]):
            self.spending.settle(self._rows[number])
            return False
        return goes_on

    def _begins_no_more(self) -> bool:
        return super()._begins_no_more() or (self._is_limited and self.spending.is_closing)

    def _admits(self, number: int) -> bool:
        return not self._is_limited or self.spending.admits(self._rows[number])

    def _note(self, row: TrialRecord) -> None:
        row = self._rows[row.number] = row if row.state == "RUNNING" else replace(row, ended=self._now())
        self.spending.note(row)

    def _now(self) -> datetime:
        return _EPOCH + timedelta(seconds=self.clock.now)

    def _choose_params(self, trial: optuna.Trial) -> None:
        number, known = trial.number, [number for number in self._ended if self.steps.get(number)]
        if number < len(self._first):
            point = self._first[number]
        elif len(known) < self._random_trials:
            point = draw(self.sweep.space, self._rng)
        else:
            good = sorted(known, key=self._rank)[: max(1, math.ceil(GOOD_SHARE * len(known)))]
            point = like_the_good([self.points[number] for number in good], self.sweep.space, self._rng)
        self.points[number], self._values[number] = point, self._curves.curve(point)

    def _rank(self, number: int) -> tuple[float, float]:
        """Return the rank of an ended trial as TPE sees it: the longer, the better; of equal length by its value."""
        step, sign = self.steps[number], -1.0 if self.sweep.objective.direction == "maximize" else 1.0
        return -step, sign * self._values[number][step - 1]

    def value(self, place: int, step: int) -> float:
        return self._values[place][step - 1]

    def seconds(self, place: int, step: int, running: int) -> float:
        if self._costs is None:
            return 1.0
        if place not in self._paces:
            error = math.exp(self._rng.gauss(0.0, self._costs.pace.error))
            self._paces[place] = self._costs.pace.of(self.points[place]) * error * self._error
        spare = max(0, self.machine.workers - running) * self._cpus / running
        return self._paces[place] / (1 + self._costs.spare_gain * spare) + self._costs.report_s

    def delay(self, place: int, worker: int) -> float:
        if self._costs is None:
            return 0.0
        seen, kind = self._seen.setdefault(worker, set()), structure(self.points[place])
        seconds = self._costs.trial_s + (0.0 if seen else self._costs.import_s)
        seconds += 0.0 if kind in seen else self._costs.structure_s
        seen.add(kind)
        return seconds
