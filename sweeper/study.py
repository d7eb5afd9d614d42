"""The sweep's one durable record: an Optuna study that trials are asked from, reported to and told to."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.records import Lease, Reports
from sweeper.redaction import redact
from sweeper.spec import Sweep
from sweeper.spec.space import suggest
from sweeper.storage import Store
from sweeper.trial import Report

logger = logging.getLogger(__name__)

_FACTS = "facts"
"""The study's user attribute for what was found out about the sweep's surroundings."""


class Verdict(Enum):
    """What a trial is to do after a report."""

    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True)
class TrialRow:
    """One trial as the study knows it; `step` is its last report, times are UTC."""

    number: int
    state: str
    params: dict[str, Any]
    value: float | None = None
    step: int = 0
    attempt: int = 1
    node: str | None = None
    reason: str | None = None
    started: datetime | None = None
    ended: datetime | None = None


class Listener(Protocol):
    """Is told of each change while a sweep runs. Called by the driver between trials: return at once."""

    def on_trial(self, row: TrialRow, report: Report | None) -> None:
        """A trial started (no report yet), reported, was taken up again, or ended."""

    def on_phase(self, message: str) -> None:
        """The sweep as a whole goes on to something else."""


class SweepStudy:
    """The trials of one sweep: what they are, what they reported, how they ended.

    Only the owner (see `open_study`) asks and tells. Decisions are made here and know nothing of Ray: whatever runs
    trials calls `ask`, `report`, `finish`, `fail` and `retry`, and obeys the verdict.
    """

    def __init__(
        self,
        sweep: Sweep,
        study: optuna.Study,
        store: Store,
        *,
        listeners: Sequence[Listener] = (),
        lease: Lease | None = None,
    ) -> None:
        self.sweep = sweep
        self.name = sweep.name
        self._lease = lease
        self._study = study
        self._store = store
        self._reports = Reports(store.engine, sweep.name)
        self._listeners = tuple(listeners)
        self._limit = sweep.trial_limit  # counting the points of a grid takes a while
        self._trials: dict[int, optuna.Trial] = {}
        frozen = study.get_trials(deepcopy=False)
        self._rows = {trial.number: _row(trial, sweep) for trial in frozen if trial.state != TrialState.WAITING}
        self._interrupted = [trial._trial_id for trial in frozen if trial.state == TrialState.RUNNING]
        self.resumed = len(self._interrupted)

    @property
    def facts(self) -> dict[str, Any]:
        """What was found out about the sweep's surroundings: the dataset and its digest, versions."""
        return dict(self._study.user_attrs.get(_FACTS, {}))

    @property
    def folder(self) -> Path:
        """Where the sweep writes what is not in a database."""
        return Path(self.facts.get("folder", f"sweeps/{self.name}"))

    def record_facts(self, facts: Mapping[str, Any]) -> None:
        self._study.set_user_attr(_FACTS, {**self.facts, **facts})

    def rows(self) -> list[TrialRow]:
        """All trials that have started, by number."""
        return [self._rows[number] for number in sorted(self._rows)]

    def row(self, number: int) -> TrialRow:
        return self._rows[number]

    def reports(self, number: int) -> list[Report]:
        """Every report of a trial, in order."""
        return self._reports.of(number)

    def best(self) -> TrialRow | None:
        """The COMPLETE trial with the best value; the first of equals."""
        complete = [row for row in self.rows() if row.state == "COMPLETE"]
        return min(complete, key=self._loss, default=None)

    def leaderboard(self) -> list[TrialRow]:
        """COMPLETE trials by value, then the others by how far they came."""
        order = {"COMPLETE": 0, "RUNNING": 1, "PRUNED": 2, "FAIL": 3}

        def rank(row: TrialRow) -> tuple[float, ...]:
            reached = 0 if row.state == "COMPLETE" else -row.step
            return (order[row.state], reached, self._loss(row), row.number)

        return sorted(self._rows.values(), key=rank)

    def is_lost(self) -> bool:
        """Whether another process has become the owner; nothing may be written then."""
        return self._lease is not None and self._lease.lost.is_set()

    def running(self) -> int:
        """Trials handed out and not ended yet."""
        return len(self._trials)

    def is_exhausted(self) -> bool:
        """Whether every trial of the budget has been handed out."""
        return not self._interrupted and len(self._rows) >= self._limit

    def is_done(self) -> bool:
        """Whether every trial of the budget has ended."""
        return self.is_exhausted() and all(row.state != "RUNNING" for row in self._rows.values())

    def ask(self) -> TrialRow:
        """The next trial to run: one that was interrupted, as a new attempt, else a new one."""
        with self._store.transaction():
            row = self._take_up()
        return self._update(row)

    def _take_up(self) -> TrialRow:
        if self._interrupted:
            trial = optuna.Trial(self._study, self._interrupted.pop(0))
            row = self._rows.get(trial.number) or TrialRow(trial.number, "RUNNING", {})
            attempt = row.attempt + 1
            trial.set_user_attr("attempt", attempt)
        else:
            trial, attempt = self._study.ask(), 1
            row = TrialRow(trial.number, "RUNNING", {})
        self._trials[trial.number] = trial
        return replace(
            row, params=suggest(trial, self.sweep.space), attempt=attempt, started=_utc(trial.datetime_start)
        )

    def report(self, number: int, report: Report, *, node: str | None = None) -> Verdict:
        """Take one report of a running trial into the record and judge it.

        A step that is on record already (a trial continued from a checkpoint) is not recorded again. The last step
        of the budget ends the trial as COMPLETE: the pruner is not asked there.
        """
        row, trial, metric = self._rows[number], self._trials.get(number), self.sweep.objective.metric
        if trial is None:
            return Verdict.STOP
        if metric not in report.metrics:
            return self.fail(number, _missing(metric, report.metrics))
        last = self.sweep.budget.reports
        if report.step <= row.step:
            return self.finish(number) if row.step >= last else Verdict.CONTINUE
        value = report.metrics[metric]
        with self._store.transaction() as connection:
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

    def finish(self, number: int) -> Verdict:
        """The trial ended by itself: COMPLETE with its last value, FAIL if it never reported."""
        if self._rows[number].step == 0:
            return self.fail(number, f"ended without a report of {self.sweep.objective.metric!r}")
        return self._end(number, TrialState.COMPLETE, None)

    def fail(self, number: int, reason: str) -> Verdict:
        """The trial cannot go on: FAIL, with the reason in one line, without secrets."""
        return self._end(number, TrialState.FAIL, redact(reason)[:1000])

    def retry(self, number: int, reason: str) -> TrialRow:
        """The worker of a trial died and the trial goes on elsewhere: the next attempt."""
        row = self._rows[number]
        self._trials[number].set_user_attr("attempt", row.attempt + 1)
        logger.warning("trial %d: %s; attempt %d", number, redact(reason), row.attempt + 1)
        return self._update(replace(row, attempt=row.attempt + 1))

    def replay(self) -> None:
        """Tell the listeners of the trials that ended in earlier runs."""
        for row in self.rows():
            if row.state != "RUNNING":
                self._update(row)

    def announce(self, message: str) -> None:
        """Tell the listeners what the sweep does now."""
        for listener in self._listeners:
            listener.on_phase(message)

    def _end(self, number: int, state: TrialState, reason: str | None) -> Verdict:
        trial = self._trials.get(number)
        if trial is None:
            return Verdict.STOP
        with self._store.transaction():
            self._tell(trial, self._rows[number].value, state, reason)
        return self._close(number, state, reason)

    def _tell(self, trial: optuna.Trial, value: float | None, state: TrialState, reason: str | None) -> None:
        if reason is not None:
            trial.set_user_attr("reason", reason)
        self._study.tell(trial, value if state == TrialState.COMPLETE else None, state=state, skip_if_finished=True)

    def _close(self, number: int, state: TrialState, reason: str | None) -> Verdict:
        """The end of the trial is on record."""
        del self._trials[number]
        self._update(replace(self._rows[number], state=state.name, reason=reason, ended=datetime.now(UTC)))
        return Verdict.STOP

    def _update(self, row: TrialRow, report: Report | None = None) -> TrialRow:
        self._rows[row.number] = row
        for listener in self._listeners:
            try:
                listener.on_trial(row, report)
            except Exception:  # what watches a sweep must not be able to stop it
                logger.exception("%s failed on trial %d", type(listener).__name__, row.number)
        return row

    def _loss(self, row: TrialRow) -> float:
        if row.value is None:
            return float("inf")
        return -row.value if self.sweep.objective.direction == "maximize" else row.value


def _row(trial: FrozenTrial, sweep: Sweep) -> TrialRow:
    try:
        params = suggest(trial, sweep.space)
    except ValueError:  # its driver died between two parameters; the rest is drawn when the trial is taken up
        params = dict(trial.params)
    step = max(trial.intermediate_values, default=0)
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        params=params,
        value=trial.intermediate_values.get(step) if trial.value is None else trial.value,
        step=step,
        attempt=trial.user_attrs.get("attempt", 1),
        node=trial.user_attrs.get("node"),
        reason=trial.user_attrs.get("reason"),
        started=_utc(trial.datetime_start),
        ended=_utc(trial.datetime_complete),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def _missing(metric: str, got: Mapping[str, float]) -> str:
    near = difflib.get_close_matches(metric, list(got), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"metric {metric!r} not reported; got: {', '.join(list(got)[:10]) or 'nothing'}.{hint}"
