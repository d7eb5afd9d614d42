"""Progress of a running sweep and its remaining time, estimated from the events that its listeners get."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from math import ceil
from typing import TYPE_CHECKING

from sweeper.cli.report import clean, duration, metric, unit
from sweeper.core.trials import best_trial

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.spec import Sweep


def remaining_reports(ended: Iterable[int], running: Iterable[int], full: int) -> list[float]:
    """Estimate how many more reports a trial will make that has made 0, 1, ... `full` of them.

    Trials that end early end first, so the mean length of the ended trials is too short, most of all at the start.
    Running trials are therefore counted too, as trials that last at least that long (the Kaplan-Meier estimate). Of
    the trials that went past report k or ended there, stay(k) is the share that went past it, and

        remaining(k - 1) = 1 + stay(k) * remaining(k),   remaining(full) = 0.

    Without data trials are assumed to stay: at the start every trial is expected to run in full.
    """
    ends = Counter(min(length, full) for length in ended)
    passed = Counter(min(length, full) for length in running)
    remaining = [0.0] * (full + 1)
    beyond = 0
    for step in range(full, 0, -1):
        stayed = beyond + passed[step]
        known = stayed + ends[step]
        remaining[step - 1] = 1.0 + (stayed / known if known else 1.0) * remaining[step]
        beyond = known
    return remaining


class Progress:
    """Trials of a running sweep: their states, the best one, the work done and the work expected."""

    def __init__(self, sweep: Sweep, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.sweep = sweep
        self.full = sweep.budget.reports
        self.trials = sweep.trial_limit
        self.rows: dict[int, TrialRecord] = {}
        self.best: TrialRecord | None = None
        self._clock = clock
        self._began = clock()
        self._first_report: float | None = None
        self._reports_seen = 0
        self._workers = 0
        self._share = 0.0

    def record(self, row: TrialRecord, report: Report | None) -> None:
        """Record an event of the study."""
        self.rows[row.number] = row
        self._workers = max(self._workers, len(self.running()))
        if report is not None:
            self._reports_seen += 1
            if self._first_report is None:
                self._first_report = self._clock()
        if row.state == "COMPLETE":
            self.best = best_trial([row] if self.best is None else [self.best, row], self.sweep.objective.direction)

    def running(self) -> list[TrialRecord]:
        return [row for row in self.rows.values() if row.state == "RUNNING"]

    def counts(self) -> Counter[str]:
        return Counter(row.state for row in self.rows.values())

    def ended(self) -> int:
        return len(self.rows) - len(self.running())

    def elapsed(self) -> float:
        return self._clock() - self._began

    def share(self) -> float:
        """Return the work done as a share of the work expected. The expectation changes, but the share never falls."""
        made = sum(row.step for row in self.rows.values())
        left, _ = self._work_left()
        self._share = max(self._share, made / (made + left) if made + left else 0.0)
        return self._share

    def seconds_left(self) -> float | None:
        """Estimate the seconds until all trials have ended; None before there are enough reports for an estimate.

        The estimate is the number of expected reports (`remaining_reports`) at the rate of all workers together since
        the first report, so without their start. It is at least what the longest trial needs on one worker, and at
        most what the timeout leaves.
        """
        left, longest = self._work_left()
        if self._first_report is None or self._reports_seen <= 2 * self._workers:
            return None
        seconds_each = (self._clock() - self._first_report) / (self._reports_seen - 1)
        estimate = max(left, longest * self._workers) * seconds_each
        timeout = self.sweep.budget.timeout
        return estimate if timeout is None else min(estimate, max(0.0, timeout - self.elapsed()))

    def summary(self, *, has_ended: bool = False) -> str:
        """Describe the work done, the time elapsed and the time left in one line."""
        left = None if has_ended else self.seconds_left()
        rest = f", about {duration(ceil(left))} left" if left else ""
        return f"{self.share():.0%}, {duration(int(self.elapsed()))} elapsed{rest}"

    def best_so_far(self) -> str:
        """Describe the best trial, as the end of a line; empty if there is none."""
        return f"; best {metric(self.best.value)} (trial {self.best.number})" if self.best else ""

    def position(self, row: TrialRecord) -> str:
        """Describe how far a trial is: epoch 3/9."""
        budget = self.sweep.budget
        return f"{unit(budget).removesuffix('s')} {budget.epoch_of(row.step):g}/{budget.epoch_of(budget.reports):g}"

    def ending(self, row: TrialRecord) -> str:
        """Describe in one line how a trial ended."""
        if row.state == "FAIL":
            return f"trial {row.number} failed: {clean(row.reason or 'unknown reason')}"
        word = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(row.state, row.state)
        value = f"{clean(self.sweep.objective.metric)} {metric(row.value)}"
        counted = f"{self.ended()} of {self.trials} ended"
        return f"trial {row.number} {word} at {self.position(row)}, {value}; {counted}{self.best_so_far()}"

    def _work_left(self) -> tuple[float, float]:
        """Return the expected reports of all trials that have not ended, and of the longest of them."""
        running = [row.step for row in self.running()]
        ended = [row.step for row in self.rows.values() if row.state != "RUNNING"]
        remaining = remaining_reports(ended, running, self.full)
        each = [remaining[min(step, self.full)] for step in running]
        to_come = max(0, self.trials - len(self.rows))
        return sum(each) + to_come * remaining[0], max([*each, remaining[0] if to_come else 0.0], default=0.0)
