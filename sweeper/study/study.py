"""The owner's side of a study: record the reports of its trials, decide on them, end them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from optuna.trial import TrialState

from sweeper.core.confirmation import McNemar
from sweeper.core.trials import Failure, Report, TrialRecord, Verdict
from sweeper.search.confirming import COMPARED, first_two
from sweeper.search.pruning.promotion import note_end
from sweeper.study.queue import TrialQueue
from sweeper.study.retry import missing_metric
from sweeper.study.storage import records
from sweeper.study.storage.outage import retry_while_unavailable
from sweeper.study.storage.tables import storable


class SweepStudy(TrialQueue):
    """The study of a sweep, opened by its owner: the only process that may write to it.

    It decides what happens to each trial, and knows nothing of Ray: the driver calls `ask`, `report`, `finish` and
    `fail`, and follows the verdict. `open_study` creates one.
    """

    def report(self, number: int, report: Report, *, node: str | None = None) -> Verdict:
        """Record one report of a running trial, and decide whether the trial continues."""
        return self.report_together([(number, report, node)])[0]

    @retry_while_unavailable
    def report_together(self, arrived: Sequence[tuple[int, Report, str | None]]) -> list[Verdict]:
        """Record one report each of several running trials, given with its node, and decide which of them continue.

        One commit, which waits for a disk or a server, is enough for all. A step that is recorded already is not
        recorded again: a trial resumed from a checkpoint reports it twice. The last step of the budget ends the trial.
        """
        metric = self.sweep.objective.metric
        new = [
            (number, report, node)
            for number, report, node in arrived
            if number in self._trials and metric in report.metrics and report.step > self.row(number).step
        ]
        changed: list[tuple[Report, TrialRecord, TrialRecord | None]] = []
        with self._transaction() as connection:
            for number, report, node in new:
                self._reports.add(number, report, connection)
                before, trial = self.row(number), self._trials[number]
                row, over, decision = records.record(trial, before, report, node, self.sweep)
                if decision is not None:
                    self._decisions.add(number, decision, connection)
                changed.append((report, row, over))
        for report, row, over in changed:
            self._update(row, report)
            if over is not None:
                self._close(over)
        self._set_aside([number for number, _, _ in new if number in self._trials])
        for number, report, _ in arrived:
            if number in self._trials and metric not in report.metrics:
                self.fail(number, missing_metric(metric, report.metrics))
            elif number in self._trials and self.row(number).step >= self.sweep.budget.reports:
                self.finish(number)
        return [Verdict.CONTINUE if number in self._trials else Verdict.STOP for number, _, _ in arrived]

    @retry_while_unavailable
    def finish(self, number: int, *, is_pruned: bool = False) -> Verdict:
        """End a trial whose function has returned: COMPLETE with its last values, FAIL if it never reported a goal.

        Args:
            is_pruned: whether the function pruned itself with `optuna.TrialPruned`: the trial is PRUNED then.
        """
        row, trial = self.row(number), self._trials.get(number)
        if not is_pruned and (metric := records.unreported(row, self.sweep)):
            return self.fail(number, Failure("error", f"ended without a report of {metric!r}"))
        if trial is None:
            return Verdict.STOP
        row = records.returned(row, self.sweep.budget, is_pruned=is_pruned)
        with self._transaction():
            records.tell(self._study, trial, row)
        return self._close(row)

    @retry_while_unavailable
    def fail(self, number: int, failure: Failure, *, node: str | None = None) -> Verdict:
        """Record a failed attempt; its kind decides whether the trial is retried or ends as FAIL."""
        row, trial = self.row(number), self._trials.get(number)
        if trial is None:
            return Verdict.STOP
        failure = replace(failure, reason=storable(failure.reason))
        wait = self.retries.retry_delay(number, failure.kind)
        reason = failure.reason if row.attempt == 1 else f"{failure.reason}; attempt {row.attempt} was the last"
        with self._transaction() as connection:
            attempt = records.failed_attempt(replace(row, node=node or row.node), failure)
            self._attempts.add(number, attempt, connection)
            if wait is None:
                row = records.ended(row, TrialState.FAIL, reason)
                records.tell(self._study, trial, row)
        self.retries.add(number, attempt)
        if wait is None:
            return self._close(row, failure)
        del self._trials[number]
        self.spending.settle(row)
        self.retries.waiting[number] = time.monotonic() + wait
        self.announce(f"trial {number}: {failure.reason}; attempt {row.attempt + 1} follows")
        return Verdict.STOP

    @retry_while_unavailable
    def stop_over_budget(self) -> list[int]:
        """Stop all trials at once if the budget is exceeded, and return their numbers. A larger one continues them.

        What they have used since their last report is recorded with the end of their attempts, so that it counts.
        """
        if not self._trials or not self.spending.is_exceeded:
            return []
        failure = Failure("driver", "the budget was used")
        stopped = {number: records.failed_attempt(self.row(number), failure) for number in self._trials}
        with self._transaction() as connection:
            for number, attempt in stopped.items():
                self._attempts.add(number, attempt, connection)
        for number, attempt in stopped.items():
            self.retries.add(number, attempt)
            self._leave(number, "the budget is used")
        return list(stopped)

    def record_compared(self, found: McNemar) -> None:
        """Record how the best model compares with another one: by default, with that of the runner-up."""
        confirmation = self.confirmation()
        if confirmation is None or (pair := first_two(confirmation)) is None:
            return
        found = replace(found, against=found.against or f"trial {pair[1]}")
        others = [each for each in confirmation.compared if each.against != found.against]
        self.record_facts({COMPARED: {"trials": pair, "found": [asdict(each) for each in (*others, found)]}})

    @retry_while_unavailable
    def blame_node(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Stop counting failed attempts, given as (trial, attempt), against their trials: their node caused them."""
        with self._transaction() as connection:
            self._attempts.blame_node(attempts, connection)
        self.retries.load(self._attempts.all())

    def _close(self, row: TrialRecord, failure: Failure | None = None) -> Verdict:
        """Drop a trial whose end is recorded, and notify the listeners."""
        del self._trials[row.number]
        note_end(self._study, row.number)
        self.retries.note_end(failure)
        self._update(row)
        return Verdict.STOP
