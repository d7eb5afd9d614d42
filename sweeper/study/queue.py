"""The owner's side of a study up to the start of a trial: which trials run next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from sweeper.core.errors import StopReason
from sweeper.core.trials import FreshRun, Listener, Report, TrialRecord
from sweeper.search.history import TriedPoints
from sweeper.search.optuna_internals import storage_of, trial_id
from sweeper.search.pruning.promotion import forget_rungs, note_revived, revival
from sweeper.search.spending import seconds_until
from sweeper.spec import Sweep
from sweeper.study.database import Database
from sweeper.study.lease import Lease
from sweeper.study.retry import RetryPolicy
from sweeper.study.storage import records
from sweeper.study.storage.adding import add_fresh_run
from sweeper.study.storage.cache import UNCOUNTED, OwnerCachedStorage
from sweeper.study.storage.outage import DatabaseOutage, retry_while_unavailable
from sweeper.study.view import FACTS, StudyView

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


logger = logging.getLogger(__name__)


class TrialQueue(StudyView):
    """The part of an owned study that hands out trials: interrupted and failed ones, then paused, then new ones."""

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
        before = {row.number: row for row in self.rows(with_fresh=True)}
        self._read()
        for row in self.rows(with_fresh=True):
            old = before.get(row.number, row)
            if (row.state, row.step, row.attempt) == (old.state, old.step, old.attempt):
                self._keep(old)
            else:
                self._update(row)

    @retry_while_unavailable
    def record_facts(self, facts: Mapping[str, Any]) -> None:
        """Add facts about the sweep to the study; a fact of the same name is replaced."""
        with self._transaction():
            self._study.set_user_attr(FACTS, {**self._facts, **facts})
        self._facts = {**self._facts, **facts}

    def running(self) -> list[TrialRecord]:
        """Return the trials that were handed out and have not ended."""
        return [self.row(number) for number in self._trials]

    def running_numbers(self) -> KeysView[int]:
        """Return their numbers: a view that stays up to date."""
        return self._trials.keys()

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

    def ask(self) -> TrialRecord:
        """Return the next trial to run: interrupted, failed, paused, new or fresh; FAIL if others enqueued nonsense."""
        return self.ask_together(1)[0]

    @retry_while_unavailable
    def ask_together(self, count: int) -> list[TrialRecord]:
        """Return the next trials to run, as many as there are now, up to `count`: one commit is enough for all."""
        asked: list[tuple[optuna.Trial, TrialRecord, TrialRecord | None]] = []
        with self._transaction() as connection:
            while not asked or (len(asked) < count and self.has_next()):
                asked.append(self._ask(connection))
        for trial, row, over in asked:
            self._update(row)
            if over is None:
                self._trials[row.number] = trial
            else:
                self._update(over)
        return [over or row for _, row, over in asked]

    def _ask(self, connection: Any) -> tuple[optuna.Trial, TrialRecord, TrialRecord | None]:
        """Begin one trial; return it, its record, and the record of its end if it cannot be run."""
        due = self.retries.due()
        again = self._paused() if due is None else due
        if again is None:
            fresh = self._fresh_run()
            trial = self._study.ask() if fresh is None else add_fresh_run(self._study, fresh)
            row = TrialRecord(trial.number, "RUNNING", {}, started=datetime.now(UTC), confirms=fresh)
        else:
            trial = records.reopened(self._study, again)
            row = self._next_attempt(again, connection)
            self.retries.waiting.pop(again, None)
            if due is None:
                note_revived(self._study, again)
        trial, row, over = records.begin(trial, row, self.sweep, self._tried.keys() if again is None else None)
        self._keep(row)
        self._tried.add(row.params)
        return trial, row, over

    def _next_attempt(self, number: int, connection: Any) -> TrialRecord:
        """Return a trial's record with its next attempt; record the attempt before if that was lost with its driver."""
        row, before = self.row(number), self.retries.of(number)
        if (lost := self.retries.lost(row)) is not None:
            self._attempts.add(number, lost, connection)
            self.retries.add(number, lost)
        return records.next_attempt(row, before, self._reports.of(number))

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
            if number in self._trials:
                self._leave(number, "it cannot end within the budget")

    def _leave(self, number: int, why: str) -> None:
        """Leave a running trial to a later run with a larger budget."""
        del self._trials[number]
        self.spending.set_aside.add(number)
        self.spending.settle(self.row(number))
        self.announce(f"trial {number} stops: {why}. A larger one continues it")
        notify(self._listeners, replace(self.row(number), reason=f"stopped: {why}"), None)

    def _keep(self, row: TrialRecord) -> None:
        (self._rows if row.confirms is None else self._fresh)[row.number] = row

    def _update(self, row: TrialRecord, report: Report | None = None) -> TrialRecord:
        self._keep(row)
        self.spending.note(row)
        notify(self._listeners, row, report)
        return row


def notify(listeners: Iterable[Listener], row: TrialRecord, report: Report | None) -> None:
    """Tell listeners of a change. One that fails is logged: it only watches, and must not be able to stop the sweep."""
    for listener in listeners:
        try:
            listener.on_trial(row, report)
        except Exception:
            logger.exception("%s failed on trial %d", type(listener).__name__, row.number)


def announce(listeners: Iterable[Listener], message: str) -> None:
    """Tell listeners that a new phase of a sweep has started, or something else about it as a whole."""
    for listener in listeners:
        listener.on_phase(message)


def seconds_of(study: StudyView, row: TrialRecord) -> float:
    """Return how long a trial ran until now, with all attempts.

    If nothing runs it, its last attempt ended when that is recorded to have failed, else at its last report.
    """
    if row.seconds is not None:
        return row.seconds
    if study.is_running:
        return seconds_until(row, datetime.now(UTC))
    ends = [past.ended for past in study.attempts(row.number).get(row.number, ()) if past.attempt == row.attempt]
    ends += [
        datetime.fromtimestamp(report.time, UTC) for report in (study.reports(row.number)[-1:] if row.step else ())
    ]
    return seconds_until(row, max(ends)) if ends else row.spent
