"""Tests of the best trial on the test set: when one begins, and what comes of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sweeper.core.trials import Failure, TrialRecord
from sweeper.worker.task import Event, Task

if TYPE_CHECKING:
    from sweeper.study.study import SweepStudy

logger = logging.getLogger(__name__)

ModelsOf = Callable[[TrialRecord], tuple[TrialRecord, TrialRecord | None]]
"""Returns the trial whose model is that of the best one, and the one to compare it with; None if there is none."""

MAX_ATTEMPTS = 3
"""Attempts at testing the best trial, of which each may lose its worker."""

LOOK_INTERVAL_S = 1.0
"""Interval between two looks, while the last trials run, for the best one so far: it is long among very many."""


class BestTrialTests:
    """Tests of the best trial: of the one so far while the last trials run, and of another if that becomes the best.

    Attributes:
        running: trials that workers test; if one of these is lost, its task comes again.
    """

    def __init__(
        self,
        study: SweepStudy,
        *,
        must_evaluate: Callable[[TrialRecord], bool],
        models_of: ModelsOf,
        may_be_early: bool,
    ) -> None:
        self.running: set[int] = set()
        self._study = study
        self._must_evaluate, self._models_of = must_evaluate, models_of
        self._may_be_early = may_be_early
        self._found: dict[int, dict[str, float] | None] = {}
        self._lost = 0
        self._next_look = 0.0

    def metrics(self) -> dict[str, float] | None:
        """Return what the test of the best trial gave; None if it has none."""
        best = self._study.best()
        return None if best is None else self._found.get(self._models_of(best)[0].number)

    def early_task(self) -> Task | None:
        """Return the task that tests the best trial so far while the last ones run; None if it is not the time.

        Few of the last trials become the best; if one does, it is tested in its turn, and this result is dropped.
        """
        if self.running or not self._may_be_early or time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + LOOK_INTERVAL_S
        return self.next_task(so_far=" so far")

    def next_task(self, so_far: str = "") -> Task | None:
        """Return the task that tests and compares the best trial; None if that is done, running or not wanted."""
        best = self._study.best()
        if best is None:
            return None
        model, other = self._models_of(best)
        if model.number in (*self.running, *self._found):
            return None
        if not (must_evaluate := self._must_evaluate(best)) and other is None:
            return None
        self.running.add(model.number)
        if must_evaluate:
            self._study.announce(f"Evaluating trial {best.number}, the best one{so_far}, on the test set.")
        rival = None if other is None else (other.number, other.params, other.step)
        task = Task(model.number, model.params, model.attempt, recorded=model.step)
        return replace(task, evaluate=must_evaluate, rival=rival)

    def end(self, number: int, event: Event, *, is_searching: bool, may_repeat: bool = False) -> None:
        """Keep the metrics of a test. One that fails while trials run is repeated after them."""
        self.running.discard(number)
        if event.compared is not None:
            self._study.record_compared(event.compared)
        best = self._study.best()
        is_best = best is not None and self._models_of(best)[0].number == number
        if event.failure is not None and is_searching:
            self._may_be_early = self._may_be_early and not is_best  # the files of another one have been deleted
        elif event.failure is None or not may_repeat:
            self._found[number] = event.evaluation
            if event.failure is not None and is_best:
                logger.warning("The best trial could not be evaluated: %s.", event.failure.reason)

    def lose(self, number: int, failure: Failure, *, is_searching: bool) -> None:
        """Record that a test lost its worker; it is repeated, a few times."""
        self._lost += not is_searching
        self.end(number, Event(failure=failure), is_searching=is_searching, may_repeat=self._lost < MAX_ATTEMPTS)
