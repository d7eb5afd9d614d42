"""What the hooks of Tune do, in the study's words: the next task, an event, a worker lost. Knows no Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from sweeper.core.errors import SweeperError
from sweeper.core.trials import Failure, TrialRecord
from sweeper.driver.stop import Control
from sweeper.study.study import SweepStudy, Verdict
from sweeper.worker.task import Event, Task

logger = logging.getLogger(__name__)


FINISHED = "FINISHED"
"""What a searcher of Tune says when all is done."""


MAX_EVALUATION_ATTEMPTS = 3
"""Workers that the evaluation of the best trial may take with it."""


class TuneBridge:
    """What the hooks of Tune share: the study that decides, and the first error of a hook.

    An exception in a hook would abort Tune in the middle of things; it is kept, the run stops, and it is raised then.
    """

    def __init__(
        self,
        study: SweepStudy,
        *,
        has_room: Callable[[list[Task]], bool],
        must_evaluate: Callable[[TrialRecord], bool],
        control: Control,
        search: bool = True,
    ) -> None:
        self.error: BaseException | None = None
        self.evaluation: dict[str, float] | None = None
        self.failed: list[Any] = []  # Tune's trials
        self._study = study
        self._has_room = has_room
        self._must_evaluate = must_evaluate
        self._is_evaluated = False
        self._evaluations = 0
        self._control = control
        self._search = search
        self._noticed: set[int] = set()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Nothing of it goes into Tune's snapshots of itself: no sweep is ever restored from one."""
        return type(None), ()

    def next_task(self) -> Task | str | None:
        """The next task, None for "none now", `FINISHED` when all is done."""
        if self.wait_or_stop():
            return FINISHED
        if self._search and not self._has_room([self._task(row) for row in self._study.running()]):
            return None
        if self._search and self._study.has_next():
            task = self._task(self._study.ask())
            try:
                task.trial_resources(self._study.sweep.resources)
            except ValueError as error:
                self._study.fail(task.number, Failure("error", str(error)))
                return None
            return task
        if self._search and (self._study.running() or not self._study.is_exhausted()):
            return None
        best = self._study.best()
        if best is None or self._is_evaluated or not self._must_evaluate(best):
            return FINISHED
        self._is_evaluated = True
        self._evaluations += 1
        self._study.announce(f"evaluating trial {best.number}, the best, on the test set")
        return Task(best.number, best.params, best.attempt, evaluate=True, recorded=best.step)

    def _task(self, row: TrialRecord) -> Task:
        past = self._study.retries.of(row.number)
        whole_gpu = any(attempt.kind == "gpu" for attempt in past)
        return Task(row.number, row.params, row.attempt, whole_gpu=whole_gpu, recorded=row.step)

    def handle_event(self, task: Task, event: Event) -> Verdict:
        """Hand a worker's event to the study."""
        if event.notice is not None:
            self._notify(task.number, event.notice)
            return Verdict.CONTINUE
        self._noticed.discard(task.number)
        if task.evaluate:
            if event.failure is not None:
                logger.warning("the best trial could not be evaluated: %s", event.failure.reason)
            self.evaluation = event.evaluation
            return Verdict.STOP
        if task.attempt != self._study.row(task.number).attempt:  # given up, and still alive: another one is at it
            return Verdict.STOP
        if event.failure is not None:
            if self.error is not None:  # the failure is the sweep's, and not the trial's
                return Verdict.STOP
            return self._study.fail(task.number, event.failure)
        if event.report is not None:
            return self._study.report(task.number, event.report, node=event.node)
        return self._study.finish(task.number)

    def _notify(self, number: int, notice: str) -> None:
        """Pass on what a trial has to say; one that waits for room says so at each attempt."""
        if number not in self._noticed:
            logger.warning("trial %d: %s", number, notice)
        self._noticed.add(number)

    def has_failed(self, task: Task) -> bool:
        return not task.evaluate and self._study.row(task.number).state == "FAIL"

    def handle_lost_worker(self, task: Task, failure: Failure, node: str | None = None) -> None:
        """The worker of a task is gone, on this node."""
        if self.is_stopping():  # the worker was ended with the run; the next run resumes the trial
            return
        if not task.evaluate:
            self._study.fail(task.number, failure, node=node)
        elif self._evaluations < MAX_EVALUATION_ATTEMPTS:
            self._is_evaluated = False
        else:
            logger.warning("the best trial could not be evaluated: %s", failure.reason)

    def blame_node(self, attempts: list[tuple[int, int]]) -> None:
        """Attempts that failed are not to count any more against their trials, given by both their numbers."""
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
    """Keep what a hook raises in its bridge and answer `fallback` instead."""

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
