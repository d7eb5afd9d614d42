"""How far a running sweep is, and how long it may still take, counted from what its listeners are told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sweeper.core.trials import best_trial

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.spec import Sweep


def remaining_reports(ended: Iterable[int], running: Iterable[int], full: int) -> list[float]:
    """How many more reports to expect of a trial that has made 0, 1, ... `full` of them.

    Trials that end early end first, so the mean length of those that have ended is too short, most of all at the
    start. The running ones are therefore counted too, as trials known to last at least that long (the Kaplan-Meier
    estimate): of the trials known to have gone past report k or to have ended there, stay(k) is the share that went
    past it, and

        remaining(k - 1) = 1 + stay(k) * remaining(k),   remaining(full) = 0.

    Where nothing is known, trials are taken to stay: at the start every trial is expected to run in full.
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
    """The trials of a running sweep, by state; the best one; the work done and the work to expect."""

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

    def see(self, row: TrialRecord, report: Report | None) -> None:
        """Take in what a listener is told."""
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
        """The work done as a share of all that is expected; what is expected changes, the share never falls."""
        made = sum(row.step for row in self.rows.values())
        left, _ = self._work_left()
        self._share = max(self._share, made / (made + left) if made + left else 0.0)
        return self._share

    def seconds_left(self) -> float | None:
        """How long the trials may still take; None before enough reports have come to tell.

        The reports to expect (`remaining_reports`), at the rate at which all workers together have reported since the
        first report (so without their start); but no less than the longest trial needs on its one worker, and no
        more than the timeout leaves.
        """
        left, longest = self._work_left()
        if self._first_report is None or self._reports_seen <= 2 * self._workers:
            return None
        seconds_each = (self._clock() - self._first_report) / (self._reports_seen - 1)
        estimate = max(left, longest * self._workers) * seconds_each
        timeout = self.sweep.budget.timeout
        return estimate if timeout is None else min(estimate, max(0.0, timeout - self.elapsed()))

    def _work_left(self) -> tuple[float, float]:
        """Reports to expect of all trials that have not ended, and of the one among them that makes most."""
        running = [row.step for row in self.running()]
        ended = [row.step for row in self.rows.values() if row.state != "RUNNING"]
        remaining = remaining_reports(ended, running, self.full)
        each = [remaining[min(step, self.full)] for step in running]
        to_come = max(0, self.trials - len(self.rows))
        return sum(each) + to_come * remaining[0], max([*each, remaining[0] if to_come else 0.0], default=0.0)
