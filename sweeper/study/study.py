"""The owner's side of a study: hand out trials, record their reports, end them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.errors import StopReason
from sweeper.core.trials import Attempt, Failure, FreshRun, Listener, Report, TrialRecord, Verdict, announce, notify
from sweeper.search.history import TriedPoints, origin_of, suggest_untried
from sweeper.search.optuna_internals import storage_of, trial_id
from sweeper.search.pruning.promotion import forget_rungs, note_end, note_revived, revival
from sweeper.spec import Sweep
from sweeper.study import records
from sweeper.study.database import Database
from sweeper.study.lease import Lease
from sweeper.study.retry import RetryPolicy, missing_metric
from sweeper.study.storage.adding import add_fresh_run
from sweeper.study.storage.cache import UNCOUNTED, OwnerCachedStorage
from sweeper.study.storage.outage import DatabaseOutage, retry_while_unavailable
from sweeper.study.storage.tables import storable
from sweeper.study.view import FACTS, StudyView, seconds_of


class SweepStudy(StudyView):
    """The study of a sweep, opened by its owner: the only process that may write to it.

    It decides what happens to each trial, and knows nothing of Ray: the driver calls `ask`, `report`, `finish` and
    `fail`, and follows the verdict. `open_study` creates one.
    """

    def __init__(
        self,
        sweep: Sweep,
        study: optuna.Study,
        database: Database,
        lease: Lease,
        *,
        listeners: Sequence[Listener] = (),
        stop_reason: Callable[[], StopReason | None] = lambda: None,
    ) -> None:
        self.require_lease = lease.require  # raises LeaseLostError if another process has become the owner
        self.has_displaced_owner = lease.has_displaced  # the process that had it may still write to the folder
        self._transaction = partial(database.transaction, lease)
        self._listeners = tuple(listeners)
        self.announce = partial(announce, self._listeners)
        self.outage = partial(DatabaseOutage, database, self.announce, stop_reason)
        self._trials: dict[int, optuna.Trial] = {}
        self.commands = database.commands(sweep.name)
        self.retries = RetryPolicy({}, sweep.budget.max_failures)
        self.spending = sweep.spending()
        super().__init__(sweep, study, database)
        self.resumed = len(self.retries.waiting)  # trials that an earlier run left unfinished
        self._set_aside()

    def _read(self) -> list[FrozenTrial]:
        frozen = super()._read()
        forget_rungs(self._study)
        self._tried = TriedPoints(self.sweep.space, self._history, self._rows.values())
        self.retries.load(self._attempts.all())
        self.retries.uncounted = {t.number: t.user_attrs[UNCOUNTED] for t in frozen if UNCOUNTED in t.user_attrs}
        running = {trial.number: trial_id(trial) for trial in frozen if trial.state == TrialState.RUNNING}
        held = [n for n in self._trials if n in running and not self.retries.has(n, self.row(n).attempt)]
        self._trials = {number: optuna.Trial(self._study, running[number]) for number in held}
        due, left = self.retries.waiting, running.keys() - {*held} - self.spending.set_aside
        self.retries.waiting = {number: due.get(number, 0.0) for number in sorted(left)}
        for row in self.rows(with_fresh=True):
            if row.number in held:
                self.spending.note(row)
            else:
                self.spending.settle(row, seconds_of(self, row))
        return frozen

    def refresh(self) -> None:
        """Read the study again after a write that failed or whose outcome is unknown."""
        if isinstance(storage := storage_of(self._study), OwnerCachedStorage):
            storage.refresh()
        before = {**self._rows, **self._fresh}
        self._read()
        for number, old in before.items():
            row, rows = self.row(number), self._rows if old.confirms is None else self._fresh
            is_same = (row.state, row.step, row.attempt) == (old.state, old.step, old.attempt)
            rows[number] = old if is_same else self._update(row)

    @retry_while_unavailable
    def record_facts(self, facts: Mapping[str, Any]) -> None:
        """Add facts about the sweep to the study; a fact of the same name is replaced."""
        with self._transaction():
            self._study.set_user_attr(FACTS, {**self._facts, **facts})
        self._facts = {**self._facts, **facts}

    def running(self) -> list[TrialRecord]:
        """Return the trials that were handed out and have not ended."""
        return [self.row(number) for number in self._trials]

    def has_next(self) -> bool:
        """Return whether `ask` has a trial now; a trial whose attempt failed is handed out after its delay."""
        may_begin = len(self._rows) < self.trial_limit and not self.spending.is_closing
        is_searching = self.retries.due() is not None or may_begin or self._paused() is not None
        return is_searching or self._fresh_run() is not None

    def is_exhausted(self) -> bool:
        """Return whether every trial of the budget was handed out and none waits for another attempt or to go on."""
        return not self.retries.waiting and not self.has_next()

    def _paused(self) -> int | None:
        """Return the number of the paused trial that continues now; None if none does."""
        is_last_round = len(self._rows) >= self.trial_limit or self.spending.is_closing
        number = revival(self._study, is_last_round=is_last_round)
        return number if number is not None and self.spending.admits(self._rows[number]) else None

    def _fresh_run(self) -> FreshRun | None:
        """Return the run with a fresh seed that is next; None before the search is over, and if there is none now."""
        is_over = not self.spending.is_closing and revival(self._study, is_last_round=True) is None
        return next(iter(found.missing), None) if is_over and (found := self.confirmation()) else None

    def is_done(self) -> bool:
        """Return whether every trial of the budget has ended, and the best are confirmed if the sweep asks for it."""
        are_enough = len(self._rows) >= self.trial_limit and revival(self._study, is_last_round=True) is None
        have_ended = are_enough and all(row.state != "RUNNING" for row in self._rows.values())
        return have_ended and ((found := self.confirmation()) is None or found.is_complete)

    @retry_while_unavailable
    def ask(self) -> TrialRecord:
        """Return the next trial to run: interrupted, failed, paused, new or fresh; FAIL if others enqueued nonsense."""
        due = self.retries.due()
        again = self._paused() if due is None else due
        fresh = self._fresh_run() if again is None else None
        lost: Attempt | None = None
        with self._transaction() as connection:
            if is_new := again is None:
                trial = self._study.ask() if fresh is None else add_fresh_run(self._study, fresh)
                row = TrialRecord(trial.number, "RUNNING", {}, started=datetime.now(UTC), confirms=fresh)
            else:
                trial, row = records.reopened(self._study, again), self.row(again)
                if (lost := self.retries.lost(row)) is not None:
                    self._attempts.add(again, lost, connection)
                row = records.next_attempt(row, self.retries.of(again), self._reports.of(again))
            problem = records.problem_of_enqueued(trial, self.sweep)
            tried = self._tried.keys() if is_new else ()
            trial, params = (trial, {}) if problem else suggest_untried(trial, self.sweep.space, tried)
            origin = origin_of(trial, self.sweep.chosen_sampler) if is_new else row.origin
            row = replace(row, params=params, origin=origin)
            records.begin(trial, row)
            over = records.ended(row, TrialState.FAIL, problem) if problem else None
            if over is not None:
                records.tell(self._study, trial, over)
        if lost is not None:
            self.retries.add(row.number, lost)
        self.retries.waiting.pop(row.number, None)
        if due is None and again is not None:
            note_revived(self._study, again)
        self._tried.add(params)
        if over is None:
            self._trials[row.number] = trial
        row = self._update(row)
        return row if over is None else self._update(over)

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
        """End a trial whose function has returned: COMPLETE with its last value, FAIL if it never reported.

        Args:
            is_pruned: whether the function pruned itself with `optuna.TrialPruned`: the trial is PRUNED then.
        """
        row, trial = self.row(number), self._trials.get(number)
        if row.step == 0 and not is_pruned:
            return self.fail(number, Failure("error", f"ended without a report of {self.sweep.objective.metric!r}"))
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
    def blame_node(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Stop counting failed attempts, given as (trial, attempt), against their trials: their node caused them."""
        with self._transaction() as connection:
            self._attempts.blame_node(attempts, connection)
        self.retries.load(self._attempts.all())

    @retry_while_unavailable
    def put_back(self, numbers: Sequence[int]) -> None:
        """Run failed trials again: `ask` returns them, and their failures so far do not count any more."""
        with self._transaction():
            for number in numbers:
                records.reopened(self._study, number).set_user_attr(UNCOUNTED, self.row(number).attempt)
        self._read()

    def _set_aside(self, reported: Sequence[int] = ()) -> None:
        """Leave to a later run, with a larger budget, what cannot end within this one: of what waits, and reported."""
        for number in self.spending.reject((*self.retries.waiting, *reported)):
            self.retries.waiting.pop(number, None)
            if self._trials.pop(number, None) is not None:
                self.spending.settle(self.row(number))
                self.announce(f"trial {number} stops: it cannot end within the budget. A larger one continues it")

    def _close(self, row: TrialRecord, failure: Failure | None = None) -> Verdict:
        """Drop a trial whose end is recorded, and notify the listeners."""
        del self._trials[row.number]
        note_end(self._study, row.number)
        self.retries.note_end(failure)
        self._update(row)
        return Verdict.STOP

    def _update(self, row: TrialRecord, report: Report | None = None) -> TrialRecord:
        (self._rows if row.confirms is None else self._fresh)[row.number] = row
        self.spending.note(row)
        notify(self._listeners, row, report)
        return row
