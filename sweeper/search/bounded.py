"""Optuna's TPE sampler, at a cost per trial that does not grow with the study."""

from __future__ import annotations

import math
from bisect import insort
from itertools import islice
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.optuna_internals import (
    RememberingTPESampler,
    all_trials,
    compute_tails_in_c,
    number_of_good,
    numbers_on_front,
    partial_study,
    start_with,
)
from sweeper.search.pruning.promotion import promotion_of
from sweeper.search.seeding import CountedRandomSampler

MAX_MODELLED_TRIALS = 500
"""Number of trials that are modelled in addition to the best ones, and of running ones."""


MAX_GOOD_TRIALS = 25
"""Largest number of trials that Optuna's TPE counts as good, however many trials there are."""


_MODELLED = (TrialState.COMPLETE, TrialState.PRUNED)

_Rank = tuple[float, ...]


class BoundedTPESampler(RememberingTPESampler):
    """Optuna's TPE on the best trials and the newest of the others, so that its cost has an upper bound.

    Up to `modelled` trials that have ended, and as many that run, its proposals are those of Optuna. With more, the
    good ones are still the best of all. The oldest of the others, which have the least weight in Optuna, are left out.
    """

    def __init__(
        self,
        *,
        n_startup_trials: int,
        constant_liar: bool = True,
        modelled: int = MAX_MODELLED_TRIALS,
        **options: Any,
    ) -> None:
        super().__init__(n_startup_trials=n_startup_trials, constant_liar=constant_liar, **options)
        compute_tails_in_c()
        start_with(self, CountedRandomSampler(options.get("seed")))
        self._trials = _ModelledTrials(max(modelled, n_startup_trials), modelled if constant_liar else 0)
        self._updated_for: FrozenTrial | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._trials.update(study)
        self._updated_for = trial
        return {name: domain for name, domain in sorted((self._trials.space or {}).items()) if not domain.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if trial is not self._updated_for:  # Optuna asks for both, one after the other
            self._trials.update(study)
        return super().sample_relative(self._ended_part(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._trials.update(study)
        return super().sample_independent(self._ended_part(study), trial, param_name, param_distribution)

    def _ended_part(self, study: Study) -> Study:
        if self._trials.has_goals:  # Optuna itself splits them, and looks at those that run too
            return partial_study(study, self._trials.with_running())
        return partial_study(study, self._trials.modelled, _MODELLED)

    def split(self, trial: FrozenTrial) -> tuple[list[FrozenTrial], list[int], list[int]] | None:
        return None if self._trials.has_goals else self._trials.split(trial.number)


class _ModelledTrials:
    """Trials to model, kept up to date as trials end, by their numbers: to look at a thousand trials takes long.

    Attributes:
        space: the parameters that all trials that have ended have in common; None before one has ended.
        modelled: the trials to model that have ended, by number.
        has_goals: whether the study has several goals, so that no order tells the good ones.
    """

    def __init__(self, modelled: int, running: int) -> None:
        self.space: dict[str, BaseDistribution] | None = None
        self.modelled: list[FrozenTrial] = []
        self.has_goals = False
        self._modelled, self._modelled_running = modelled, running
        self._ended = EndedTrials()
        self._best: list[tuple[_Rank, int]] = []
        self._others: list[int] = []
        self._all: list[FrozenTrial] = []

    def update(self, study: Study) -> None:
        """Look which trials have begun and ended."""
        self._all = trials = all_trials(study)
        self.has_goals = len(study.directions) > 1
        ended = [trial for trial in self._ended.update(study, trials) if trial.state in _MODELLED]
        if not ended and not self._ended.reopened:
            return
        for trial in ended:
            self.space = trial.distributions if self.space is None else _common(self.space, trial.distributions)
        if self.has_goals:
            self._keep_newest_and_front(study, ended)
        else:
            for number in self._ended.reopened:
                self._remove(number, study.direction)
            for trial in ended:
                self._add(trial, study.direction)
        self.modelled = [trials[number] for number in sorted([*self._ranked(), *self._others])]

    def split(self, proposed: int) -> tuple[list[FrozenTrial], list[int], list[int]]:
        """Return all trials, and the good ones to model and the others without the one that is proposed for."""
        ranked, is_left_out = self._ranked(), {proposed, *self._ended.waiting}
        good = number_of_good(len(ranked) + len(self._others))
        newest = (number for number in reversed(self._ended.open) if number not in is_left_out)
        others = sorted([*ranked[good:], *self._others, *islice(newest, self._modelled_running)])
        return self._all, sorted(ranked[:good]), others

    def _ranked(self) -> list[int]:
        return [number for _, number in self._best]

    def with_running(self) -> list[FrozenTrial]:
        """Return the trials to model that have ended, and the running ones, by number."""
        running = [number for number in self._ended.open if number not in self._ended.waiting]
        modelled = [*(trial.number for trial in self.modelled), *running[-self._modelled_running or len(running) :]]
        return [self._all[number] for number in sorted(modelled)]

    def _keep_newest_and_front(self, study: Study, ended: list[FrozenTrial]) -> None:
        """Keep the newest trials, and those of the older ones that no other betters in every goal."""
        kept = sorted({*self._others, *(trial.number for trial in ended)}.difference(self._ended.reopened))
        if (surplus := len(kept) - self._modelled) > 0:
            front = numbers_on_front([self._all[number] for number in kept], study.directions)
            kept = [number for number in kept[:surplus] if number in front] + kept[surplus:]
        self._others = kept

    def _remove(self, number: int, direction: StudyDirection) -> None:
        """Forget a trial that runs again; the best of the others takes the place of a good one."""
        self._others = [other for other in self._others if other != number]
        if len(kept := [pair for pair in self._best if pair[1] != number]) < len(self._best) and self._others:
            best = min(self._others, key=lambda other: _rank(self._all[other], direction))
            self._others.remove(best)
            insort(kept, (_rank(self._all[best], direction), best))
        self._best = kept

    def _add(self, trial: FrozenTrial, direction: StudyDirection) -> None:
        insort(self._best, (_rank(trial, direction), trial.number))
        if len(self._best) > MAX_GOOD_TRIALS:
            insort(self._others, self._best.pop()[1])
            del self._others[: -self._modelled]


def _common(space: dict[str, BaseDistribution], other: dict[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """Return the part of a search space that another one has too."""
    # Trials share the objects, and to compare two takes a microsecond.
    return {name: found for name, found in space.items() if (own := other.get(name)) is found or own == found}


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


class EndedTrials:
    """Trials of a study that have ended, found without reading all trials each time.

    A trial is looked at again only if it is another object: storages replace one that changes.

    Attributes:
        open: the trials that have not ended, by number.
        waiting: the numbers of those that have not begun.
        reopened: those of trials that `update` returned before its last call, and that were taken up again since.
    """

    def __init__(self) -> None:
        self.open: dict[int, FrozenTrial | None] = {}
        self.waiting: set[int] = set()
        self.reopened: list[int] = []
        self._seen = self._revived = 0

    def update(self, study: Study, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that have ended since the last call, by number; `trials` are all of the study."""
        if len(trials) < self._seen:  # trials that were begun are none if their commit has failed
            self.open = {number: seen for number, seen in self.open.items() if number < len(trials)}
            self._seen = len(trials)
        pruner = promotion_of(study)
        revived = pruner.revived[self._revived :] if pruner else []
        self._revived += len(revived)
        self.reopened = sorted({number for number in revived if number < self._seen} - self.open.keys())
        if self.reopened:
            self.open = dict(sorted({**self.open, **dict.fromkeys(self.reopened)}.items()))
        changed = [number for number, seen in self.open.items() if trials[number] is not seen]
        changed += range(self._seen, len(trials))
        self._seen = len(trials)
        for number in changed:
            self._note(trials[number])
        return [trials[number] for number in changed if number not in self.open]

    def _note(self, trial: FrozenTrial) -> None:
        self.waiting.discard(trial.number)
        if trial.state.is_finished():
            self.open.pop(trial.number, None)
            return
        self.open[trial.number] = trial
        if trial.state == TrialState.WAITING:
            self.waiting.add(trial.number)
