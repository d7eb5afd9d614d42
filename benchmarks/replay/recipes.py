"""The ways to search that the replay compares, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from benchmarks.replay.search import Search, StudySearch, in_order, nearest
from benchmarks.replay.table import Table

Make = Callable[[Table, list[int], int], Search]
"""Takes the table, the order of its rows, and a seed."""


@dataclass(frozen=True)
class Declared:
    """A recipe of a sweep file: its sampler and its pruner. The sampler `random` takes the rows in their order."""

    pruner: dict[str, Any]
    sampler: dict[str, Any] = field(default_factory=lambda: {"type": "random"})

    def __call__(self, table: Table, order: list[int], seed: int) -> Search:
        sweep = table.sweep(sampler=self.sampler, pruner=self.pruner, seed=seed)
        is_random = sweep.sampler.type == "random"
        return StudySearch(table, sweep, in_order(order) if is_random else nearest(table, sweep.space, order))


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


TPE = {"type": "tpe"}
HALVING = {"type": "successive_halving", "min_epochs": 0.5, "reduction_factor": 3}
PROMOTION = {"type": "promotion"}
AUTO = {"type": "auto"}

RECIPES: dict[str, Make] = {
    "oracle": Oracle,
    "random": Declared({"type": "none"}),
    "one epoch, then the best 2 of 20": OneEpoch,
    "median": Declared({"type": "median"}),
    "hyperband": Declared({"type": "hyperband", "min_epochs": 0.5}),
    "successive_halving": Declared(HALVING),
    "Ray's ASHA": lambda table, order, seed: RayAsha(table, order, seed, grace=table.reports_per_epoch, factor=3),
    "promotion": Declared(PROMOTION),
    "tpe": Declared({"type": "none"}, TPE),
    "tpe + median": Declared({"type": "median"}, TPE),
    "tpe + successive_halving": Declared(HALVING, TPE),
    "auto": Declared(AUTO, AUTO),
}
