"""Optuna's percentile pruner, at a cost per verdict that does not grow with the study."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.bounded import EndedTrials
from sweeper.search.optuna_internals import all_trials
from sweeper.search.pruning.optuna_internals import best_value, is_first_of_interval


@dataclass(frozen=True)
class PercentileSeen:
    """The best value of a trial, the bar that it had to reach, and its rank among so many values that are not NaN."""

    value: float
    bar: float | None = None
    rank: int | None = None
    peers: int | None = None


class IncrementalPercentilePruner(BasePruner):
    """Decides as Optuna's PercentilePruner, with the same options, but keeps the values of complete trials by step.

    Optuna collects them from all trials for each verdict. `seen` is what the last verdict compared; None for nothing.
    """

    def __init__(
        self,
        percentile: float,
        *,
        n_startup_trials: int = 5,
        n_warmup_steps: int = 0,
        interval_steps: int = 1,
        n_min_trials: int = 1,
    ) -> None:
        self._percentile = percentile
        self._startup_trials = max(1, n_startup_trials)
        self._warmup, self._interval = n_warmup_steps, interval_steps
        self._min_trials = n_min_trials
        self._ended = EndedTrials()
        self._complete = 0
        self.seen: PercentileSeen | None = None
        self._values: dict[int, array[float]] = defaultdict(lambda: array("d"))

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self._update(study)
        self.seen = None
        step = trial.last_step
        if self._complete < self._startup_trials or step is None or step < self._warmup:
            return False
        if not is_first_of_interval(trial, step, warmup=self._warmup, interval=self._interval):
            return False
        best = best_value(trial, study.direction)
        if math.isnan(best):
            self.seen = PercentileSeen(best)
            return True
        if len(self._values[step]) < self._min_trials:
            return False
        is_maximized = study.direction == StudyDirection.MAXIMIZE
        percentile = 100 - self._percentile if is_maximized else self._percentile
        values = np.array(self._values[step])
        values = values[~np.isnan(values)]
        if not len(values):  # Optuna's bar is NaN then
            return False
        bar = float(np.percentile(values, percentile))
        better = np.count_nonzero(values > best if is_maximized else values < best)
        self.seen = PercentileSeen(best, bar, int(better) + 1, len(values) + 1)
        return best < bar if is_maximized else best > bar

    def _update(self, study: Study) -> None:
        for trial in self._ended.update(study, all_trials(study)):
            if trial.state == TrialState.COMPLETE:
                self._complete += 1
                for step, value in trial.intermediate_values.items():
                    self._values[step].append(value)
