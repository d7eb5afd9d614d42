"""Optuna's TPE sampler and percentile pruner, at a cost per trial that does not grow with the study."""

from __future__ import annotations

import math
from array import array
from bisect import insort
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.observed import CountedRandomSampler
from sweeper.search.optuna_internals import (
    RememberingTPESampler,
    all_trials,
    best_value,
    compute_tails_in_c,
    is_first_of_interval,
    numbers_on_front,
    partial_study,
    start_with,
)
from sweeper.search.pruning.promotion import promotion_of

MAX_MODELLED_TRIALS = 500
"""Number of trials that are modelled in addition to the best ones."""


MAX_GOOD_TRIALS = 25
"""Largest number of trials that Optuna's TPE counts as good, however many trials there are."""


_Rank = tuple[float, ...]


class BoundedTPESampler(RememberingTPESampler):
    """Optuna's TPE on the best trials and the newest of the others, so that its cost has an upper bound.

    Up to `modelled` trials, its proposals are those of Optuna. With more trials, the good ones are still the best of
    all. The oldest of the others, which have the least weight in Optuna, are left out.
    """

    def __init__(self, *, n_startup_trials: int, modelled: int = MAX_MODELLED_TRIALS, **options: Any) -> None:
        super().__init__(n_startup_trials=n_startup_trials, **options)
        compute_tails_in_c()
        start_with(self, CountedRandomSampler(options.get("seed")))
        self._trials = _ModelledTrials(max(modelled, n_startup_trials))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._modelled_part(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(self._modelled_part(study), trial, param_name, param_distribution)

    def _modelled_part(self, study: Study) -> Study:
        return partial_study(study, self._trials.update(study))


class _ModelledTrials:
    """Trials to model, kept up to date as trials end."""

    def __init__(self, modelled: int) -> None:
        self._modelled = modelled
        self._ended = EndedTrials()
        self._best: list[tuple[_Rank, FrozenTrial]] = []
        self._others: list[FrozenTrial] = []

    def update(self, study: Study) -> list[FrozenTrial]:
        """Return the trials to model and the running ones, by number."""
        ended, running = self._ended.update(study)
        if len(study.directions) > 1:
            return sorted(self._of_several_goals(study, ended) + running, key=lambda trial: trial.number)
        for number in self._ended.reopened:
            self._remove(number, study.direction)
        for trial in ended:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self._add(trial, study.direction)
        best = [trial for _, trial in self._best]
        return sorted(best + self._others + running, key=lambda trial: trial.number)

    def _of_several_goals(self, study: Study, ended: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the newest trials, and those of the older ones that no other betters in every goal."""
        if not ended and not self._ended.reopened:
            return self._others
        kept = [trial for trial in self._others if trial.number not in self._ended.reopened]
        kept += [trial for trial in ended if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        kept.sort(key=lambda trial: trial.number)
        if (surplus := len(kept) - self._modelled) > 0:
            front = numbers_on_front(kept, study.directions)
            kept = [trial for trial in kept[:surplus] if trial.number in front] + kept[surplus:]
        self._others = kept
        return kept

    def _remove(self, number: int, direction: StudyDirection) -> None:
        """Forget a trial that runs again; the best of the others takes the place of a good one."""
        self._others = [trial for trial in self._others if trial.number != number]
        if len(kept := [pair for pair in self._best if pair[1].number != number]) < len(self._best) and self._others:
            best = min(self._others, key=lambda trial: _rank(trial, direction))
            self._others.remove(best)
            insort(kept, (_rank(best, direction), best), key=lambda pair: pair[0])
        self._best = kept

    def _add(self, trial: FrozenTrial, direction: StudyDirection) -> None:
        insort(self._best, (_rank(trial, direction), trial), key=lambda pair: pair[0])
        if len(self._best) > MAX_GOOD_TRIALS:
            insort(self._others, self._best.pop()[1], key=lambda other: other.number)
        del self._others[: -self._modelled]


def _rank(trial: FrozenTrial, direction: StudyDirection) -> _Rank:
    """Return a key of Optuna's order: complete trials by value, then pruned ones by their last step; then by number."""
    sign = -1 if direction == StudyDirection.MAXIMIZE else 1
    if trial.state == TrialState.COMPLETE:
        return 0, sign * cast(float, trial.value), trial.number
    step = max(trial.intermediate_values, default=None)
    if step is None:
        return 1, 1, 0.0, trial.number
    value = sign * trial.intermediate_values[step]
    return 1, -step, math.inf if math.isnan(value) else value, trial.number


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
        for trial in self._ended.update(study)[0]:
            if trial.state == TrialState.COMPLETE:
                self._complete += 1
                for step, value in trial.intermediate_values.items():
                    self._values[step].append(value)


class EndedTrials:
    """Trials of a study that have ended, found without reading all trials each time."""

    def __init__(self) -> None:
        self.reopened: list[int] = []
        """Trials that were returned as ended before the last call, and were taken up again since."""
        self._open: list[int] = []
        self._seen = self._revived = 0

    def update(self, study: Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Return the trials that have ended since the last call, and those that have not ended, each by number."""
        trials, pruner = all_trials(study), promotion_of(study)
        self._open = [number for number in self._open if number < len(trials)]
        self._seen = min(self._seen, len(trials))  # trials that were begun are none if their commit has failed
        revived = pruner.revived[self._revived :] if pruner else []
        self._revived += len(revived)
        self.reopened = sorted({number for number in revived if number < self._seen} - {*self._open})
        candidates = [trials[number] for number in (*self._open, *self.reopened, *range(self._seen, len(trials)))]
        still_open = [trial for trial in candidates if not trial.state.is_finished()]
        self._open, self._seen = [trial.number for trial in still_open], len(trials)
        return [trial for trial in candidates if trial.state.is_finished()], still_open
