"""The sweep's one durable record: an Optuna study that trials are asked from, reported to and told to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from sweeper.core.errors import StopReason
from sweeper.core.trials import Attempt, Failure, Listener, Report, TrialRecord
from sweeper.search.samplers import SamplerRandomState
from sweeper.search.space import suggest
from sweeper.spec import Sweep
from sweeper.study.cache import OwnerCachedStorage
from sweeper.study.database import Database
from sweeper.study.lease import Lease
from sweeper.study.outage import DatabaseOutage, retry_while_unavailable
from sweeper.study.retry import RetryPolicy, missing_metric
from sweeper.study.tables import storable
from sweeper.study.view import FACTS, StudyView, utc

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)


class Verdict(Enum):
    """What a trial is to do after a report."""

    CONTINUE = "continue"
    STOP = "stop"


class SweepStudy(StudyView):
    """The record of a sweep in the hands of its owner, which alone writes to it.

    It decides, and knows nothing of Ray: whatever runs trials calls `ask`, `report`, `finish` and `fail`, and obeys the
    verdict. `open_study` makes one.
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
        self._lease = lease
        self._listeners = tuple(listeners)
        self.outage = partial(DatabaseOutage, database, self.announce, stop_reason)
        self._limit = sweep.trial_limit  # counting the points of a grid takes a while
        self._random = SamplerRandomState(study.sampler)
        self._trials: dict[int, optuna.Trial] = {}
        self.commands = database.commands(sweep.name)
        self.retries = RetryPolicy({}, sweep.budget.max_failures)
        # When each trial that waits for another attempt may have it, and its number in the database.
        self._interrupted: list[tuple[float, int]] = []
        super().__init__(sweep, study, database)
        self.resumed = len(self._interrupted)

    def _read(self) -> list[FrozenTrial]:
        frozen = super()._read()
        self.retries.load(self._attempts.all())
        running = {trial.number: trial._trial_id for trial in frozen if trial.state == TrialState.RUNNING}
        mine = [n for n in self._trials if n in running and not self.retries.has(n, self._rows[n].attempt)]
        self._trials = {number: optuna.Trial(self._study, running[number]) for number in mine}
        due = {trial_id: moment for moment, trial_id in self._interrupted}
        self._interrupted = [(due.get(running[n], 0.0), running[n]) for n in running if n not in mine]
        return frozen

    def refresh(self) -> None:
        """Read again what is on record after a write that failed, or may have."""
        if isinstance(self._study._storage, OwnerCachedStorage):
            self._study._storage.refresh()
        before = self._rows
        self._read()
        self._random.restore(len(self._rows))
        for number, old in before.items():
            row = self._rows[number]
            if (row.state, row.step, row.attempt) == (old.state, old.step, old.attempt):
                self._rows[number] = old
            else:
                self._update(row)

    @property
    def id(self) -> str:
        """The id that tells this study from any other, also from one of the same name in another database."""
        return str(self._facts["id"])

    @property
    def has_displaced_owner(self) -> bool:
        """Whether the sweep was taken from an owner that gave no sign of life, and may still work in its folder."""
        return self._lease.has_displaced

    @retry_while_unavailable
    def record_facts(self, facts: Mapping[str, Any]) -> None:
        with self._database.transaction(self._lease):
            self._study.set_user_attr(FACTS, {**self._facts, **facts})
        self._facts = {**self._facts, **facts}

    def require_lease(self) -> None:
        """Raise LeaseLostError if another process has become the owner."""
        self._lease.require()

    def running(self) -> list[TrialRecord]:
        """Trials handed out and not ended yet."""
        return [self._rows[number] for number in self._trials]

    def has_next(self) -> bool:
        """Whether `ask` has a trial to give now; one that failed has to wait a little."""
        return len(self._rows) < self._limit or any(due <= time.monotonic() for due, _ in self._interrupted)

    def is_exhausted(self) -> bool:
        """Whether every trial of the budget has been handed out."""
        return not self._interrupted and len(self._rows) >= self._limit

    def is_done(self) -> bool:
        """Whether every trial of the budget has ended."""
        return self.is_exhausted() and all(row.state != "RUNNING" for row in self._rows.values())

    @retry_while_unavailable
    def ask(self) -> TrialRecord:
        """The next trial to run: one that was interrupted or failed, as a new attempt, else a new one."""
        due = next((entry for entry in self._interrupted if entry[0] <= time.monotonic()), None)
        lost: Attempt | None = None
        with self._database.transaction(self._lease) as connection:
            if due is None:
                self._random.save(len(self._rows))
                trial = self._study.ask()
                row = TrialRecord(trial.number, "RUNNING", {})
            else:
                trial = optuna.Trial(self._study, due[1])
                row = self._rows.get(trial.number) or TrialRecord(trial.number, "RUNNING", {})
                if not self.retries.has(row.number, row.attempt):
                    lost = self._record(row, Failure("driver", "the sweep was interrupted"), connection)
                row = replace(row, attempt=row.attempt + 1)
                trial.set_user_attr("attempt", row.attempt)
            params = suggest(trial, self.sweep.space)
        if lost is not None:
            self.retries.add(row.number, lost)
        if due is not None:
            self._interrupted.remove(due)
        self._trials[row.number] = trial
        return self._update(replace(row, params=params, started=utc(trial.datetime_start)))

    @retry_while_unavailable
    def report(self, number: int, report: Report, *, node: str | None = None) -> Verdict:
        """Take one report of a running trial into the record and judge it.

        A step that is on record already (a trial continued from a checkpoint) is not recorded again. The last step
        of the budget ends the trial as COMPLETE: the pruner is not asked there.
        """
        row, trial, metric = self._rows[number], self._trials.get(number), self.sweep.objective.metric
        if trial is None:
            return Verdict.STOP
        if metric not in report.metrics:
            return self.fail(number, missing_metric(metric, report.metrics))
        last = self.sweep.budget.reports
        if report.step <= row.step:
            return self.finish(number) if row.step >= last else Verdict.CONTINUE
        value = report.metrics[metric]
        with self._database.transaction(self._lease) as connection:
            if node is not None and node != row.node:
                trial.set_user_attr("node", node)
            self._reports.add(number, report, connection)
            trial.report(value, report.step)
            state, reason = self._judge(trial, report.step)
            if state is not None:
                self._tell(trial, value, state, reason)
        self._update(replace(row, value=value, step=report.step, node=node or row.node), report)
        return Verdict.CONTINUE if state is None else self._close(number, state, reason)

    def _judge(self, trial: optuna.Trial, step: int) -> tuple[TrialState | None, str | None]:
        """How the trial ends with this report, if it does, and why."""
        if step >= self.sweep.budget.reports:
            return TrialState.COMPLETE, None
        if trial.should_prune():
            return TrialState.PRUNED, f"pruned after epoch {self.sweep.budget.epoch_of(step):g}"
        return None, None

    @retry_while_unavailable
    def finish(self, number: int) -> Verdict:
        """The trial ended by itself: COMPLETE with its last value, FAIL if it never reported."""
        if self._rows[number].step == 0:
            return self.fail(number, Failure("error", f"ended without a report of {self.sweep.objective.metric!r}"))
        if (trial := self._trials.get(number)) is None:
            return Verdict.STOP
        with self._database.transaction(self._lease):
            self._tell(trial, self._rows[number].value, TrialState.COMPLETE, None)
        return self._close(number, TrialState.COMPLETE, None)

    @retry_while_unavailable
    def fail(self, number: int, failure: Failure, *, node: str | None = None) -> Verdict:
        """An attempt came to nothing: the trial is tried again, or FAIL, by the kind of failure."""
        row, trial = self._rows[number], self._trials.get(number)
        if trial is None:
            return Verdict.STOP
        failure = replace(failure, reason=storable(failure.reason))
        wait = self.retries.retry_delay(number, failure.kind)
        reason = failure.reason if row.attempt == 1 else f"{failure.reason}; attempt {row.attempt} was the last"
        with self._database.transaction(self._lease) as connection:
            attempt = self._record(replace(row, node=node or row.node), failure, connection)
            if wait is None:
                self._tell(trial, row.value, TrialState.FAIL, reason)
        self.retries.add(number, attempt)
        if wait is None:
            return self._close(number, TrialState.FAIL, reason, failure)
        del self._trials[number]
        self._interrupted.append((time.monotonic() + wait, trial._trial_id))
        self.announce(f"trial {number}: {failure.reason}; attempt {row.attempt + 1} follows")
        return Verdict.STOP

    @retry_while_unavailable
    def blame_node(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Let failed attempts, given by the numbers of trial and attempt, count as lost with their node."""
        with self._database.transaction(self._lease) as connection:
            self._attempts.blame_node(attempts, connection)
        self.retries.load(self._attempts.all())

    def _record(self, row: TrialRecord, failure: Failure, connection: sa.Connection) -> Attempt:
        attempt = Attempt(row.attempt, failure.kind, failure.reason, row.step, row.node, datetime.now(UTC))
        self._attempts.add(row.number, attempt, connection)
        return attempt

    def replay(self) -> None:
        """Tell the listeners of the trials that ended in earlier runs."""
        for row in self.rows():
            if row.state != "RUNNING":
                self._update(row)

    def announce(self, message: str) -> None:
        """Tell the listeners what the sweep does now."""
        for listener in self._listeners:
            listener.on_phase(message)

    def _tell(self, trial: optuna.Trial, value: float | None, state: TrialState, reason: str | None) -> None:
        if reason is not None:
            trial.set_user_attr("reason", reason)
        self._study.tell(trial, value if state == TrialState.COMPLETE else None, state=state, skip_if_finished=True)

    def _close(self, number: int, state: TrialState, reason: str | None, failure: Failure | None = None) -> Verdict:
        """The end of the trial is on record."""
        del self._trials[number]
        self.retries.note_end(failure)
        self._update(replace(self._rows[number], state=state.name, reason=reason, ended=datetime.now(UTC)))
        return Verdict.STOP

    def _update(self, row: TrialRecord, report: Report | None = None) -> TrialRecord:
        self._rows[row.number] = row
        for listener in self._listeners:
            try:
                listener.on_trial(row, report)
            except Exception:  # what watches a sweep must not be able to stop it
                logger.exception("%s failed on trial %d", type(listener).__name__, row.number)
        return row
