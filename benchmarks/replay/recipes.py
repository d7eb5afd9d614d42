"""The ways to search that the replay compares, by name."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from benchmarks.replay.search import StudySearch
from benchmarks.replay.table import Table
from sweeper.analysis.forecast.clock import Search

Make = Callable[[Table, list[int], int], Search]
"""Takes the table, the order of its rows, and a seed."""


@dataclass(frozen=True)
class Declared:
    """A recipe of a sweep file: its sampler and its pruner. The sampler `random` takes the rows in their order."""

    pruner: dict[str, Any]
    sampler: dict[str, Any] = field(default_factory=lambda: {"type": "random"})

    def __call__(self, table: Table, order: list[int], seed: int) -> Search:
        return StudySearch(table, table.sweep(sampler=self.sampler, pruner=self.pruner, seed=seed), order)


class Oracle:
    """Trains the truly best rows, and nothing else."""

    def __init__(self, table: Table, order: list[int], seed: int) -> None:
        self._left = iter(table.ranking)

    def next(self) -> tuple[int, int] | None:
        place = next(self._left, None)
        return None if place is None else (place, 0)

    def report(self, place: int, step: int, value: float) -> bool:
        return True

    def fail(self, place: int) -> None:
        """Do nothing: the next one is trained."""


class LookingOracle:
    """Trains each row to promotion's first rung, in order, and to the end only if it is the truly best of them so far.

    No recipe that looks at every row for as long can need less, however well it judges.
    """

    def __init__(self, table: Table, order: list[int], seed: int) -> None:
        self._rank = {place: rank for rank, place in enumerate(table.ranking)}
        self._look, self._reports, self._left = table.reports // 16, table.reports, iter(order)
        self._worst = round(0.1 * len(table.rows))

    def next(self) -> tuple[int, int] | None:
        place = next(self._left, None)
        return None if place is None else (place, 0)

    def report(self, place: int, step: int, value: float) -> bool:
        if step == self._look:
            if self._rank[place] >= self._worst:
                return False
            self._worst = self._rank[place]
        return step < self._reports

    def fail(self, place: int) -> None:
        """Do nothing: it is not among the best."""


class OneEpoch:
    """One epoch of each, then the best of every `of` to the end: no cleverness at all."""

    def __init__(self, table: Table, order: list[int], seed: int, *, of: int = 20, keep: int = 2) -> None:
        self._sign = -1 if table.direction == "maximize" else 1
        self._epoch, self._left = table.reports_per_epoch, iter(order)
        self._of, self._keep, self._reports = of, keep, table.reports
        self._seen: list[tuple[float, int]] = []
        self._waiting: list[int] = []

    def next(self) -> tuple[int, int] | None:
        if self._waiting:
            return self._waiting.pop(0), self._epoch
        place = next(self._left, None)
        return None if place is None else (place, 0)

    def report(self, place: int, step: int, value: float) -> bool:
        if step == self._epoch:
            self._seen.append((self._sign * value, place))
            if len(self._seen) == self._of:
                self._waiting += [place for _, place in sorted(self._seen)[: self._keep]]
                self._seen = []
        return step < self._reports and step != self._epoch

    def fail(self, place: int) -> None:
        """Do nothing: it is not among the best."""


class RayAsha:
    """The stopping rule of Ray Tune's ASHA, by its own class."""

    def __init__(self, table: Table, order: list[int], seed: int, *, grace: int, factor: int) -> None:
        from ray.tune.schedulers.async_hyperband import _Bracket

        self._bracket = _Bracket(grace, table.reports, factor, 0)
        self._sign = 1 if table.direction == "maximize" else -1
        self._left, self._reports = iter(order), table.reports

    def next(self) -> tuple[int, int] | None:
        place = next(self._left, None)
        return None if place is None else (place, 0)

    def report(self, place: int, step: int, value: float) -> bool:
        if step == self._reports:
            return False
        trial = SimpleNamespace(trial_id=str(place))
        return bool(self._bracket.on_result(trial, step, self._sign * value) != "STOP")

    def fail(self, place: int) -> None:
        """Do nothing: it has no report to be compared with."""


class SyneAsha:
    """The stopping rule of Syne Tune's ASHA: the rule of `Bracket` in its schedulers/asha.py, version 0.14."""

    def __init__(self, table: Table, order: list[int], seed: int, *, grace: int, factor: int) -> None:
        rungs = int(math.log(table.reports / grace) / math.log(factor) + 1)
        self._rungs: dict[int, list[float]] = {grace * factor**rung: [] for rung in range(rungs)}
        self._sign = -1 if table.direction == "maximize" else 1
        self._factor, self._left, self._reports = factor, iter(order), table.reports

    def next(self) -> tuple[int, int] | None:
        place = next(self._left, None)
        return None if place is None else (place, 0)

    def report(self, place: int, step: int, value: float) -> bool:
        if step == self._reports or step not in self._rungs:
            return step != self._reports
        insort(self._rungs[step], self._sign * value)
        better = bisect_left(self._rungs[step], self._sign * value)
        return better / len(self._rungs[step]) <= 1 / self._factor

    def fail(self, place: int) -> None:
        """Do nothing: it has no report to be compared with."""


TPE = {"type": "tpe"}
HALVING = {"type": "successive_halving", "min_epochs": 0.5, "reduction_factor": 3}
PROMOTION = {"type": "promotion"}
AUTO = {"type": "auto"}

HYPERBAND = {"type": "hyperband", "min_epochs": 0.5}
PLAIN = {"type": "promotion", "first_factor": 3, "spacing": 3, "look_ahead": 0, "effort": 0}


def _asha(kind: type[RayAsha] | type[SyneAsha], table: Table, order: list[int], seed: int) -> Search:
    return kind(table, order, seed, grace=table.reports_per_epoch, factor=3)


RECIPES: dict[str, Make] = {
    "oracle": Oracle,
    "oracle that must look": LookingOracle,
    "random": Declared({"type": "none"}),
    "one epoch, then the best 2 of 20": OneEpoch,
    "median": Declared({"type": "median"}),
    "hyperband": Declared(HYPERBAND),
    "successive_halving": Declared(HALVING),
    "Ray's ASHA": partial(_asha, RayAsha),
    "Syne Tune's ASHA": partial(_asha, SyneAsha),
    "promotion": Declared(PROMOTION),
    "tpe": Declared({"type": "none"}, TPE),
    "tpe + median": Declared({"type": "median"}, TPE),
    "tpe + hyperband": Declared(HYPERBAND, TPE),
    "tpe + successive_halving": Declared(HALVING, TPE),
    "auto": Declared(AUTO, AUTO),
    "plain promotion": Declared(PLAIN),
    "promotion, last values": Declared(PROMOTION | {"look_ahead": 0}),
    "promotion, 1 of 3 at each rung": Declared(PROMOTION | {"first_factor": 3}),
    "promotion, rungs times 3": Declared(PROMOTION | {"spacing": 3}),
    "promotion, no effort": Declared(PROMOTION | {"effort": 0}),
    "promotion from 1/4 epoch on": Declared(PROMOTION | {"min_epochs": 0.25}),
    "promotion from 1 epoch on": Declared(PROMOTION | {"min_epochs": 1}),
}
"""The last ones leave out or change a part of promotion, each on its own."""
