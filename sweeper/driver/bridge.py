"""The bridge between a study and Ray Tune: what Tune's hooks do, in the study's words. Knows no Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from sweeper.core.errors import SweeperError
from sweeper.core.trials import Failure, TrialRecord, Verdict
from sweeper.driver.evaluation import BestTrialTests, ModelsOf
from sweeper.driver.stop import Control
from sweeper.study.reuse import FinishedTrials
from sweeper.study.study import SweepStudy
from sweeper.worker.task import Event, Task

logger = logging.getLogger(__name__)


AttemptId = tuple[int, int]
"""(number of the trial, number of the attempt)"""


FINISHED = "FINISHED"
"""Value that a searcher of Tune returns when there is nothing left to run."""


MAX_PREPARED = 8
"""Trials that are asked for at once, for workers that are or will soon be free. Reports wait meanwhile."""


class TuneBridge:
    """State that Tune's hooks share: the study, which decides, and the first error of a hook.

    An exception in a hook would abort Tune halfway. It is kept instead, the run stops, and `tune_trials` raises it.
    """

    def __init__(
        self,
        study: SweepStudy,
        *,
        has_room: Callable[[Mapping[AttemptId, Task]], bool],
        must_evaluate: Callable[[TrialRecord], bool],
        control: Control,
        models_of: ModelsOf = lambda best: (best, None),
        search: bool = True,
    ) -> None:
        self.error: BaseException | None = None
        self.failed: list[Any] = []
        """Tune's trials whose task is FAIL in the study, and that Tune does not call failed yet."""
        self.has_idle_cpus = False
        """Whether CPUs are free for another trial, and there is none."""
        self.has_arrived: Callable[[], bool] = lambda: False
        """Returns whether events have arrived that were not handled yet."""
        self.tests = BestTrialTests(study, must_evaluate=must_evaluate, models_of=models_of, may_be_early=search)
        self._study = study
        self._has_room = has_room
        self._handed_out: dict[AttemptId, Task] = {}  # never changed in place: `has_room` sees a change at once
        self._undelivered: dict[AttemptId, tuple[Task, Verdict]] = {}
        self._prepared: list[TrialRecord] = []
        self._owed: set[AttemptId] = set()  # verdicts to deliver before trials are asked for again
        self._is_owed_known = False
        self._has_looked = True  # whether an event was handled since trials were asked for
        self._places = 0  # tasks that were handed out when there was last no room
        self._most_running = 0
        self._control = control
        self._search = search
        self._trials_with_notice: dict[int, set[str]] = {}
        may_reuse = study.sweep.budget.reuse or any(row.reused for row in study.rows())
        self._finished = FinishedTrials(study) if may_reuse and search else None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickle as None: Tune pickles its hooks into snapshots, and no sweep is ever restored from one."""
        return type(None), ()

    def next_task(self) -> Task | str | None:
        """Return the next task, None if there is none now, or `FINISHED`. Blocks while the sweep is paused."""
        if self.wait_or_stop():
            return FINISHED
        if self._is_searching():
            return self._next_trial_task()
        return self.tests.next_task() or FINISHED

    def _is_searching(self) -> bool:
        return self._search and bool(self._study.running_numbers() or not self._study.is_exhausted())

    @property
    def evaluation(self) -> dict[str, float] | None:
        """Metrics of the best trial on the test set; None before the search is over, and if there are none."""
        return None if self._is_searching() else self.tests.metrics()

    def _next_trial_task(self) -> Task | None:
        """Ask the study for a trial, if one is ready and a node has room; fail it if its resources are invalid.

        A trial that takes its reports from a finished one needs no worker. A worker that no trial will need any more
        evaluates the best one so far.
        """
        self._update_handed_out()
        self._most_running = max(self._most_running, len(self._handed_out))
        has_room = self._has_room(self._handed_out)
        has_next = has_room and (bool(self._prepared) or self._study.has_next())
        self.has_idle_cpus = has_room and not has_next
        if not has_room:
            self._places = len(self._handed_out)
        elif not has_next:
            return self._early_test_task()
        if not has_next or not (self._prepared or self._prepare()):
            return None
        row = self._prepared.pop(0)
        if row.state == "FAIL":  # it was enqueued with a value outside the space
            return None
        if self._finished is not None and self._finished.give(row):
            return None
        task = self._task(row)
        try:
            task.trial_resources(self._study.sweep.resources)
        except ValueError as error:
            self._study.fail(task.number, Failure("error", str(error)))
            return None
        self._handed_out = {**self._handed_out, (task.number, task.attempt): task}
        return task

    def _update_handed_out(self) -> None:
        """Find the tasks whose workers are not free: of trials that run, and of those that have a verdict to learn.

        Tune asks after each event, so nothing is read while their number stays the same.
        """
        running = self._study.running_numbers()
        current = [row for row in self._prepared if row.number in running]
        self._prepared = [row for row in current if row.attempt == self._study.row(row.number).attempt]
        stopping = sum(verdict is Verdict.STOP for _, verdict in self._undelivered.values())
        expected = len(running) - len(self._prepared) + stopping
        if len(known := self._handed_out) != expected:  # some have ended
            is_taken = (key for key in known if key[0] in running or key in self._undelivered)
            self._handed_out = {key: known[key] for key in is_taken}
        if len(self._handed_out) != expected:  # and some have another attempt
            rows = {(row.number, row.attempt): row for row in map(self._study.row, running)}
            waiting = {(row.number, row.attempt) for row in self._prepared}
            self._handed_out = {key: known.get(key) or self._task(rows[key]) for key in rows.keys() - waiting}
            self._handed_out |= {key: task for key, (task, _) in self._undelivered.items()}

    def _prepare(self) -> bool:
        """Ask the study for the next trials, as many as there are free workers; return whether there are any.

        What has arrived goes first: an event is handled if there is one, and those verdicts are delivered that were
        known at the last request, and those that let a trial continue and are known now. So a report waits for
        `MAX_PREPARED` proposals once; and trials begin even if reports never cease to arrive.
        """
        if not self._is_owed_known:
            continuing = {key for key, (_, verdict) in self._undelivered.items() if verdict is Verdict.CONTINUE}
            self._owed, self._is_owed_known = self._owed | continuing, True
        self._owed &= self._undelivered.keys()
        if self._owed or (not self._has_looked and self.has_arrived()):
            return False
        stopping = sum(verdict is Verdict.STOP for _, verdict in self._undelivered.values())
        free = max(1, self._places - len(self._handed_out))
        self._owed, self._is_owed_known, self._has_looked = {*self._undelivered}, False, False
        self._prepared = self._study.ask_together(min(free + stopping, MAX_PREPARED))
        return True

    def _early_test_task(self) -> Task | None:
        """Return the task that tests the best trial so far, for a worker that no trial will need any more."""
        has_free_worker = len(self._handed_out) < self._most_running
        return self.tests.early_task() if has_free_worker and self._study.is_exhausted() else None

    def _task(self, row: TrialRecord) -> Task:
        past = self._study.retries.of(row.number)
        whole_gpu = any(attempt.kind == "gpu" for attempt in past)
        task = Task(row.number, row.params, row.attempt, whole_gpu=whole_gpu, recorded=row.step, cpus=row.cpus)
        return task if row.confirms is None else replace(task, seed=row.confirms.seed)

    def handle_event(self, task: Task, event: Event) -> Verdict:
        """Pass an event of a worker to the study; return whether its task continues. Never blocks."""
        self._has_looked = True
        _, known = self._undelivered.pop((task.number, task.attempt), (task, None))
        if event.notice is not None:
            self._log_notice(task.number, event.notice)
            return Verdict.CONTINUE
        self._trials_with_notice.pop(task.number, None)
        if task.is_final:
            self.tests.end(task.number, event, is_searching=self._is_searching())
            return Verdict.STOP
        if task.attempt != self._study.row(task.number).attempt:  # this attempt counts as lost; a newer one runs
            return Verdict.STOP
        if known is not None:
            return known
        if event.failure is not None:
            if self.error is not None:  # the failure is the sweep's, and not the trial's
                return Verdict.STOP
            return self._study.fail(task.number, event.failure)
        if event.is_pruned:
            return self._study.finish(task.number, is_pruned=True)
        if event.report is not None:
            return self._study.report(task.number, event.report, node=event.node)
        return self._study.finish(task.number)

    def record_together(self, arrived: Sequence[tuple[Task, Event]]) -> None:
        """Record the reports among these events at once; `handle_event` returns their verdicts. Never blocks."""
        reports = [
            (task, event.report, event.node)
            for task, event in arrived
            if event.report is not None and not task.is_final and self._is_current(task)
        ]
        verdicts = self._study.report_together([(task.number, report, node) for task, report, node in reports])
        for (task, _, _), verdict in zip(reports, verdicts, strict=True):
            self._undelivered[task.number, task.attempt] = task, verdict

    def _is_current(self, task: Task) -> bool:
        """Return whether this attempt of the task counts: not if it counts as lost, and a newer one runs."""
        return (task.number, task.attempt) not in self._undelivered and (
            task.attempt == self._study.row(task.number).attempt
        )

    def _log_notice(self, number: int, notice: str) -> None:
        """Log a trial's notice, unless it repeats: a trial that waits for disk space sends one at each attempt."""
        logged, kind = self._trials_with_notice.setdefault(number, set()), notice.partition("(")[0]
        if kind not in logged:
            logger.warning("trial %d: %s", number, notice)
        logged.add(kind)

    def has_failed(self, task: Task) -> bool:
        """Return whether the study calls the trial of a task FAIL."""
        return not task.is_final and self._study.row(task.number).state == "FAIL"

    def handle_lost_worker(self, task: Task, failure: Failure, node: str | None = None) -> None:
        """Record that a task lost its worker, on the node with this host name. Never blocks."""
        self._undelivered.pop((task.number, task.attempt), None)
        if self.is_stopping():  # the worker was killed because the run stops; the next run resumes the trial
            return
        if not task.is_final:
            self._study.fail(task.number, failure, node=node)
        else:
            self.tests.lose(task.number, failure, is_searching=self._is_searching())

    def stop_over_budget(self) -> list[int]:
        """Stop all trials if the budget is exceeded; return their numbers."""
        return self._study.stop_over_budget()

    def blame_node(self, attempts: list[tuple[int, int]]) -> None:
        """Stop counting failed attempts against their trials, given as (trial number, attempt number)."""
        self._study.blame_node(attempts)

    def wait_or_stop(self) -> bool:
        """Return whether the run has to stop. Blocks while the sweep is paused: the only place where it does."""
        try:
            return self.error is not None or self._control.wait_or_stop()
        except SweeperError as error:
            self.error = error
            return True

    def is_stopping(self) -> bool:
        """Return at once whether the run has to stop."""
        return self.error is not None or self._control.is_stopping()


_T = TypeVar("_T")


def capture_errors(fallback: Any) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Decorate a hook so that its first exception is kept in its bridge, and it returns `fallback`."""

    def decorate(hook: Callable[..., _T]) -> Callable[..., _T]:
        @wraps(hook)
        def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return hook(self, *args, **kwargs)
            except Exception as error:
                self.bridge.error = self.bridge.error or error
                return fallback

        return guarded

    return decorate
