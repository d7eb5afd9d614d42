"""Optuna's percentile and median pruners, without going through all complete trials at each report."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from typing import Any

import numpy as np
from optuna.pruners import PercentilePruner
from optuna.pruners._percentile import _get_best_intermediate_result_over_steps, _is_first_in_interval_step
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.spec.ended import EndedTrials


class RememberingPercentilePruner(PercentilePruner):
    """Gives Optuna's verdicts; keeps the values of the complete trials by step, which Optuna collects each time."""

    def __init__(self, percentile: float, **options: Any) -> None:
        super().__init__(percentile, **options)
        self._ended = EndedTrials()
        self._complete = 0
        self._values: dict[int, array[float]] = defaultdict(lambda: array("d"))

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self._look_at(study)
        step, warmup = trial.last_step, self._n_warmup_steps
        if self._complete < max(1, self._n_startup_trials) or step is None or step < warmup:
            return False
        if not _is_first_in_interval_step(step, trial.intermediate_values.keys(), warmup, self._interval_steps):
            return False
        best = _get_best_intermediate_result_over_steps(trial, study.direction)
        if math.isnan(best):
            return True
        if len(self._values[step]) < self._n_min_trials:
            return False
        is_maximized = study.direction == StudyDirection.MAXIMIZE
        bar = np.nanpercentile(
            np.array(self._values[step]), 100 - self._percentile if is_maximized else self._percentile
        )
        return bool(best < bar if is_maximized else best > bar)  # False where the bar is NaN, as in Optuna

    def _look_at(self, study: Study) -> None:
        for trial in self._ended.look_at(study)[0]:
            if trial.state == TrialState.COMPLETE:
                self._complete += 1
                for step, value in trial.intermediate_values.items():
                    self._values[step].append(value)
