"""Runs of trials on Ray without the rest of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import TrialRecord
from sweeper.driver.tune import tune_trials
from sweeper.study.study import SweepStudy
from sweeper.worker.task import WorkerContext


class StopWhen:
    """A control that stops a run when a condition holds."""

    def __init__(self, condition: Callable[[], bool] = lambda: False) -> None:
        self.wait_or_stop = self.is_stopping = condition


def run_trials(
    study: SweepStudy,
    *,
    parallel: int | str = "auto",
    data: Any = None,
    stop_when: Callable[[], bool] = lambda: False,
    must_evaluate: Callable[[TrialRecord], bool] = lambda best: False,
) -> dict[str, float] | None:
    """Run the trials of a study on the Ray that is connected, in the folder `sweep` here; return the test metrics."""
    budget = study.sweep.budget.model_copy(update={"parallel": parallel})
    sweep = study.sweep.model_copy(update={"budget": budget})
    context = WorkerContext(sweep, SweepFolder.of("sweep", sweep.name), data)
    return tune_trials(study, context, control=StopWhen(stop_when), must_evaluate=must_evaluate)
