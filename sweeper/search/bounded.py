"""Optuna's TPE sampler and percentile pruner, at a cost per trial that does not grow with the study."""

from __future__ import annotations

import math
from array import array
from bisect import insort
from collections import defaultdict
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.pruners import PercentilePruner
from optuna.pruners._percentile import _get_best_intermediate_result_over_steps, _is_first_in_interval_step
from optuna.samplers import TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

MAX_MODELLED_TRIALS = 500
"""Trials that are modelled besides the best ones."""


MAX_GOOD_TRIALS = 25
"""The most that Optuna counts among the good ones, however many trials there are."""


_Rank = tuple[float, ...]


class BoundedTPESampler(TPESampler):
    """Optuna's TPE of the best trials and the newest of the others: its cost has an upper bound.

    Up to `modelled` trials it proposes what Optuna does. Beyond, the good ones are still the best of all trials; of the
    others, to which Optuna gives the less weight the older they are, the oldest are left out.
    """

    def __init__(self, *, n_startup_trials: int, modelled: int = MAX_MODELLED_TRIALS, **options: Any) -> None:
        super().__init__(n_startup_trials=n_startup_trials, **options)
        self._memory = _ModelledTrials(max(modelled, n_startup_trials))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._excerpt(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(self._excerpt(study), trial, param_name, param_distribution)

    def _excerpt(self, study: Study) -> Study:
        return cast(Study, _PartialStudy(study, self._memory.update(study)))


class _ModelledTrials:
    """The trials to model, kept up to date trial by trial."""

    def __init__(self, modelled: int) -> None:
        self._modelled = modelled
        self._ended = EndedTrials()
        self._best: list[tuple[_Rank, FrozenTrial]] = []
        self._others: list[FrozenTrial] = []

    def update(self, study: Study) -> list[FrozenTrial]:
        """The trials to model and those that run, by number."""
        ended, running = self._ended.update(study)
        for trial in ended:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self._settle(trial, study.direction)
        best = [trial for _, trial in self._best]
        return sorted(best + self._others + running, key=lambda trial: trial.number)

    def _settle(self, trial: FrozenTrial, direction: StudyDirection) -> None:
        insort(self._best, (_rank(trial, direction), trial), key=lambda pair: pair[0])
        if len(self._best) > MAX_GOOD_TRIALS:
            insort(self._others, self._best.pop()[1], key=lambda other: other.number)
        del self._others[: -self._modelled]


def _rank(trial: FrozenTrial, direction: StudyDirection) -> _Rank:
    """Optuna's order: complete trials by value, then pruned ones by how far they came; of equals the first."""
    sign = -1 if direction == StudyDirection.MAXIMIZE else 1
    if trial.state == TrialState.COMPLETE:
        return 0, sign * cast(float, trial.value), trial.number
    step = max(trial.intermediate_values, default=None)
    if step is None:
        return 1, 1, 0.0, trial.number
    value = sign * trial.intermediate_values[step]
    return 1, -step, math.inf if math.isnan(value) else value, trial.number


class _PartialStudy:
    """A study of which only some trials can be seen."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study = study
        self._trials = trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: tuple[TrialState, ...] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class IncrementalPercentilePruner(PercentilePruner):
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
        for trial in self._ended.update(study)[0]:
            if trial.state == TrialState.COMPLETE:
                self._complete += 1
                for step, value in trial.intermediate_values.items():
                    self._values[step].append(value)


class EndedTrials:
    """What a sampler or a pruner has seen of a study, so that it need not go through all trials each time."""

    def __init__(self) -> None:
        self._open: list[int] = []
        self._seen = 0

    def update(self, study: Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """The trials that have ended since the last look, and those that have not ended, each by number."""
        trials = study._get_trials(deepcopy=False)
        unsettled = [trials[number] for number in (*self._open, *range(self._seen, len(trials)))]
        going_on = [trial for trial in unsettled if not trial.state.is_finished()]
        self._open, self._seen = [trial.number for trial in going_on], len(trials)
        return [trial for trial in unsettled if trial.state.is_finished()], going_on
