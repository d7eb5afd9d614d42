"""The bridge between a study and Ray Tune: what Tune's hooks do, in the study's words. Knows no Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from sweeper.core.errors import SweeperError
from sweeper.core.trials import Failure, TrialRecord, Verdict
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
"""Trials that are asked for at once, for workers that are about to be free. Reports wait meanwhile."""


ModelsOf = Callable[[TrialRecord], tuple[TrialRecord, TrialRecord | None]]
"""Returns the trial whose model is that of the best one, and the one to compare it with; None if there is none."""


MAX_EVALUATION_ATTEMPTS = 3
"""Attempts at evaluating the best trial, of which each may lose its worker."""


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
        self.evaluation: dict[str, float] | None = None
        self.failed: list[Any] = []
        """Tune's trials whose task is FAIL in the study, and that Tune does not call failed yet."""
        self.has_idle_cpus = False
        """Whether CPUs are free for another trial, and there is none."""
        self._study = study
        self._has_room = has_room
        self._handed_out: dict[AttemptId, Task] = {}
        self._undelivered: dict[AttemptId, tuple[Task, Verdict]] = {}
        self._prepared: list[TrialRecord] = []
        self._must_evaluate, self._models_of = must_evaluate, models_of
        self._is_evaluation_started = False
        self._evaluation_attempts = 0
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
        if self._search and (self._study.running() or not self._study.is_exhausted()):
            return self._next_trial_task()
        return self._evaluation_task() or FINISHED

    def _next_trial_task(self) -> Task | None:
        """Ask the study for a trial, if one is ready and a node has room; fail it if its resources are invalid.

        A trial that takes its reports from a finished one needs no worker.
        """
        running = {(row.number, row.attempt): row for row in self._study.running()}
        self._prepared = [row for row in self._prepared if (row.number, row.attempt) in running]
        waiting = {(row.number, row.attempt) for row in self._prepared}
        self._handed_out = {key: self._handed_out.get(key) or self._task(row) for key, row in running.items()}
        self._handed_out |= {key: task for key, (task, _) in self._undelivered.items()}  # their workers are not free
        has_room = self._has_room({key: task for key, task in self._handed_out.items() if key not in waiting})
        has_next = has_room and (bool(waiting) or self._study.has_next())
        self.has_idle_cpus = has_room and not has_next
        if not has_next:
            return None
        if not waiting:
            stopping = sum(verdict is Verdict.STOP for _, verdict in self._undelivered.values())
            self._prepared = self._study.ask_together(min(1 + stopping, MAX_PREPARED))
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
        return task

    def _evaluation_task(self) -> Task | None:
        """Return the task that evaluates and compares the best trial; None if that is done, running or not wanted."""
        best = self._study.best()
        if best is None or self._is_evaluation_started:
            return None
        must_evaluate, (model, other) = self._must_evaluate(best), self._models_of(best)
        if not must_evaluate and other is None:
            return None
        self._is_evaluation_started = True
        self._evaluation_attempts += 1
        if must_evaluate:
            self._study.announce(f"Evaluating trial {best.number}, the best one, on the test set.")
        rival = None if other is None else (other.number, other.params, other.step)
        task = Task(model.number, model.params, model.attempt, recorded=model.step)
        return replace(task, evaluate=must_evaluate, rival=rival)

    def _task(self, row: TrialRecord) -> Task:
        past = self._study.retries.of(row.number)
        whole_gpu = any(attempt.kind == "gpu" for attempt in past)
        task = Task(row.number, row.params, row.attempt, whole_gpu=whole_gpu, recorded=row.step, cpus=row.cpus)
        return task if row.confirms is None else replace(task, seed=row.confirms.seed)

    def handle_event(self, task: Task, event: Event) -> Verdict:
        """Pass an event of a worker to the study; return whether its task continues. Never blocks."""
        _, known = self._undelivered.pop((task.number, task.attempt), (task, None))
        if event.notice is not None:
            self._log_notice(task.number, event.notice)
            return Verdict.CONTINUE
        self._trials_with_notice.pop(task.number, None)
        if task.is_final:
            if event.failure is not None:
                self._log_failed_evaluation(event.failure)
            self.evaluation = event.evaluation
            if event.compared is not None:
                self._study.record_compared(event.compared)
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

    def _log_failed_evaluation(self, failure: Failure) -> None:
        logger.warning("The best trial could not be evaluated: %s.", failure.reason)

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
        elif self._evaluation_attempts < MAX_EVALUATION_ATTEMPTS:
            self._is_evaluation_started = False
        else:
            self._log_failed_evaluation(failure)

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
