"""Spending of a sweep: the CPU- and GPU-hours that its trials have used, their price, and who can still end in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sweeper.core.trials import TrialRecord
from sweeper.search.budget import Budget

CLOSING_SHARE = 0.9
"""Share of a limit from which no new trial begins: what is left is for those that can still end."""

STOPPING_SHARE = 1.02
"""Share of a limit at which even those stop that should have ended. The pace of a trial is not exact."""

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Amount:
    """What is limited, how much of it was used, and the limit; hours, or money. `key` is the limit's key in a file."""

    key: str
    unit: str
    used: float
    limit: float

    @property
    def share(self) -> float:
        return self.used / self.limit

    @property
    def is_nearly_used(self) -> bool:
        """Whether no new trial begins any more."""
        return self.share >= CLOSING_SHARE

    def __str__(self) -> str:
        return f"{self.used:.{max(0, 2 - math.floor(math.log10(self.limit)))}f} of {self.limit:g} {self.unit}"


class Spending:
    """What the trials of a sweep have used of its budget: the seconds of all their attempts, times their resources.

    CPUs that `resources.elastic` lends are not counted, as nothing else would have used them; nor are the starts of Ray
    and the test of the best trial.

    Args:
        resources_of: returns the CPUs and GPUs of a trial with some parameters.
        sign: 1 if the objective is minimized, -1 if it is maximized.
        now: returns the time, in UTC.
    """

    def __init__(
        self,
        budget: Budget,
        resources_of: Callable[[Mapping[str, Any]], tuple[float, float]],
        sign: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.set_aside: set[int] = set()
        """Trials that could not end within the budget."""
        self._budget = budget
        self._resources_of = resources_of
        self._sign = sign
        self._now = now
        self._rates: dict[int, tuple[float, float]] = {}
        self._settled: dict[int, float] = {}  # seconds of each trial that does not run
        self._sums = (0.0, 0.0)  # CPU- and GPU-seconds of those
        self._running: dict[int, TrialRecord] = {}
        self._waiting: dict[int, TrialRecord] = {}  # those that have not ended, and do not run

    def note(self, row: TrialRecord) -> None:
        """Note that a trial runs, how far it is, or that it has ended."""
        if row.state != "RUNNING":
            return self.settle(row, row.seconds or 0.0)
        if row.number not in self._running:
            self._add(row, -self._settled.pop(row.number, 0.0))  # its record counts the attempts before
        self._waiting.pop(row.number, None)
        self._running[row.number] = row

    def settle(self, row: TrialRecord, seconds: float | None = None) -> None:
        """Note that a trial does not run now, with the seconds of all its attempts; by default those until now."""
        self._running.pop(row.number, None)
        if row.state == "RUNNING":
            self._waiting[row.number] = row
        spent = seconds_until(row, self._now()) if seconds is None else seconds
        self._add(row, spent - self._settled.get(row.number, 0.0))
        self._settled[row.number] = spent

    def amounts(self) -> list[Amount]:
        """Return what was used until now of each limit; nothing without one."""
        now, budget = self._now(), self._budget
        if budget.cpu_hours is None and budget.gpu_hours is None and budget.cost is None:
            return []
        cpu, gpu = self._sums
        for row in self._running.values():
            seconds, (cpus, gpus) = seconds_until(row, now), self._rate(row)
            cpu, gpu = cpu + cpus * seconds, gpu + gpus * seconds
        cost, used = budget.cost, iter(self._limited(cpu, gpu))
        limits = [
            ("budget.cpu_hours", "CPU-hours", budget.cpu_hours),
            ("budget.gpu_hours", "GPU-hours", budget.gpu_hours),
            ("budget.cost.limit", cost.currency if cost else "", cost.limit if cost else None),
        ]
        return [Amount(key, unit, next(used), limit) for key, unit, limit in limits if limit is not None]

    @property
    def is_closing(self) -> bool:
        """Whether no new trial begins any more."""
        return any(amount.is_nearly_used for amount in self.amounts())

    @property
    def is_exceeded(self) -> bool:
        """Whether no trial may go on. One that makes few reports, or none, is not stopped at a report in time."""
        return any(amount.share >= STOPPING_SHARE for amount in self.amounts())

    def admits(self, row: TrialRecord) -> bool:
        """Return whether a trial that was paused may go on: while it can end within what the contenders leave."""
        return not self.is_closing or row.number in self.contenders(row)

    def reject(self, numbers: Iterable[int]) -> list[int]:
        """Return which of these trials, once the budget is nearly used, cannot end within it, and set them aside."""
        kept = self.contenders() if self.is_closing else set(numbers)
        rejected = [number for number in numbers if number not in kept]
        self.set_aside.update(rejected)
        return rejected

    def contenders(self, *others: TrialRecord) -> set[int]:
        """Return the trials that can end within what is left, the best first, each after those before it.

        They are those that have not ended, and others. A trial needs its pace until now for the reports that it lacks;
        one without a report has no pace, and cannot.
        """
        now, kept = self._now(), set()
        left = [amount.limit - amount.used for amount in self.amounts()]
        rows = {**self._waiting, **self._running, **{row.number: row for row in others}}
        for row in sorted(rows.values(), key=self._rank):
            if row.number in self.set_aside or not row.step:
                continue
            spent = seconds_until(row, now) if row.number in self._running else self._settled.get(row.number, 0.0)
            seconds, (cpus, gpus) = spent / row.step * (self._budget.reports - row.step), self._rate(row)
            rest = [have - need for have, need in zip(left, self._limited(cpus * seconds, gpus * seconds), strict=True)]
            if min(rest, default=0.0) >= 0:
                left = rest
                kept.add(row.number)
        return kept

    def _rank(self, row: TrialRecord) -> tuple[float, int]:
        value = math.nan if row.value is None else row.value
        return math.inf if math.isnan(value) else self._sign * value, row.number

    def _limited(self, cpu_seconds: float, gpu_seconds: float) -> list[float]:
        """Return what these seconds use of what is limited, in the order of `amounts`."""
        budget, cpu, gpu = self._budget, cpu_seconds / _HOUR_S, gpu_seconds / _HOUR_S
        used = [cpu] * (budget.cpu_hours is not None) + [gpu] * (budget.gpu_hours is not None)
        return used + ([] if budget.cost is None else [budget.cost.of(cpu, gpu)])

    def _rate(self, row: TrialRecord) -> tuple[float, float]:
        if row.number not in self._rates:
            try:
                self._rates[row.number] = self._resources_of(row.params)
            except ValueError:  # the trial cannot run, and fails
                return 0.0, 0.0
        return self._rates[row.number]

    def _add(self, row: TrialRecord, seconds: float) -> None:
        cpus, gpus = self._rate(row)
        self._sums = self._sums[0] + cpus * seconds, self._sums[1] + gpus * seconds


def seconds_until(row: TrialRecord, moment: datetime) -> float:
    """Return the seconds that a running trial has run until a moment, those of earlier attempts included."""
    begun = row.resumed or row.started
    return row.spent + (max(0.0, (moment - begun).total_seconds()) if begun else 0.0)
