"""Sampler that draws for each trial from a seed of its own, so that an interruption changes no proposal."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.confirming import CONFIRMS
from sweeper.search.optuna_internals import generators_of

DRAW = "sweeper:draw"
"""System attribute of a trial whose first proposals were rejected: how many of them."""


class CountedRandomSampler(RandomSampler):
    """Optuna's random sampler, which other samplers use until they have a model; it counts what it draws."""

    draws = 0

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self.draws += 1
        return super().sample_independent(study, trial, param_name, param_distribution)


class SeededByTrial(BaseSampler):
    """Sampler that reseeds another one before each trial, by the sweep's seed and the number of the trial.

    What it proposes for a trial depends on these two and, with a model, on the trials that are recorded by then. It
    does not depend on what this process proposed before, as it does in Optuna, which seeds a sampler once: a resumed
    sweep proposes what one run would have proposed, and a proposal that could not be recorded is made again.
    """

    def __init__(self, sampler: BaseSampler, seed: int) -> None:
        self.sampler = sampler
        self._seed = seed
        self._generators = list(generators_of(sampler))
        self._draws, self._has_proposed = 0, False

    @property
    def has_no_model(self) -> bool:
        """Return whether the sampler drew every parameter of the last trial at random, for want of a model."""
        return any(random.draws == self._draws > 0 for random in self._counted()) and not self._has_proposed

    def _counted(self) -> Iterator[CountedRandomSampler]:
        yield from (part for part in vars(self.sampler).values() if isinstance(part, CountedRandomSampler))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Reseed the sampler for this trial; not for a fresh run, about which it is not asked."""
        if CONFIRMS in trial.user_attrs:
            return
        entropy = [self._seed, trial.number, *([trial.system_attrs[DRAW]] if DRAW in trial.system_attrs else [])]
        (seed,) = np.random.SeedSequence(entropy).generate_state(1)
        for generator in self._generators:
            generator.seed(seed)
        self._draws, self._has_proposed = 0, False
        for random in self._counted():
            random.draws = 0
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that the sampler proposes together; none for a fresh run, which has its parameters."""
        return {} if CONFIRMS in trial.user_attrs else self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposal for these parameters; none for a fresh run."""
        if CONFIRMS in trial.user_attrs:
            return {}
        proposal = self.sampler.sample_relative(study, trial, search_space)  # NSGA-II also counts trials without one
        self._has_proposed = self._has_proposed or bool(proposal)
        return proposal

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the proposal for one parameter."""
        self._draws += 1
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Pass the end of a trial on to the sampler."""
        if CONFIRMS not in trial.user_attrs:
            self.sampler.after_trial(study, trial, state, values)


def fork_seed(seed: int, name: str) -> int:
    """Return the seed of a fork's sampler, so that it proposes other points than the sweep that it was forked from."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
