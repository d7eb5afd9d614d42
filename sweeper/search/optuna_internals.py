"""Every private name of Optuna's studies and samplers that sweeper uses, as of Optuna 5.0: one function each.

`tests/search/test_optuna_internals.py` fails when a name moves. `study/storage/`, which extends Optuna's storage and
reads its tables, keeps the names of the storage.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.sampler import default_gamma
from optuna.study import Study, StudyDirection, _multi_objective
from optuna.trial import FrozenTrial, Trial, TrialState

from sweeper.search.parzen import ParameterTable, log_density

if TYPE_CHECKING:
    from numpy.random import RandomState
    from optuna.storages import BaseStorage


def trial_id(trial: Trial | FrozenTrial) -> int:
    """Return the id of a trial in its storage.

    Optuna 5.0. `optuna.Trial(study, id)`, which continues a trial that was interrupted, and all methods of a storage
    take this id. A trial's public `number` counts within its study, and a study finds no trial by its number.
    """
    return trial._trial_id


def study_id(study: Study) -> int:
    """Return the id of a study in its storage.

    Optuna 5.0. `ask` makes a trial for which the sampler proposes; one with given parameters is made in the storage,
    whose methods take this id.
    """
    return study._study_id


def storage_of(study: Study) -> BaseStorage:
    """Return the storage of a study.

    Optuna 5.0. A sampler gets a study and a FrozenTrial, and has no public way to write system attributes: those of the
    FrozenTrial are a copy. The owner of a sweep needs its cache, which is the storage, to refresh it.
    """
    return study._storage


class GoalStudy(Study):
    """Optuna's study, whose `direction` is that of its first goal also where it has several.

    Optuna 5.0. Its pruners compare one value of each report and read `direction`, which a study of several goals
    refuses. Its TPE sampler also does, for the pruned trials, which have their reports alone.
    """

    @property
    def direction(self) -> StudyDirection:
        return self.directions[0]


def name_goals(study: Study, metrics: list[str]) -> None:
    """Name the values of a study's trials, for other tools that read it."""
    with experimental():
        study.set_metric_names(metrics)


def report_value(trial: Trial, value: float, step: int) -> None:
    """Record the value by which a trial is pruned, as `Trial.report` does, which refuses studies of several goals."""
    storage_of(trial.study).set_trial_intermediate_value(trial_id(trial), step, value)


def is_to_be_pruned(trial: Trial) -> bool:
    """Return the verdict of the study's pruner, as `Trial.should_prune` does; see `report_value`."""
    return trial.study.pruner.prune(trial.study, storage_of(trial.study).get_trial(trial_id(trial)))


@contextmanager
def experimental() -> Iterator[None]:
    """Silence Optuna's warnings about experimental features: those that sweeper uses have been there for years."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def all_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials of a study by number, without copying them.

    Optuna 5.0. The public `get_trials(deepcopy=False)` returns the trials of one bracket only in the study that
    HyperbandPruner hands to samplers; Optuna's TPE sampler also calls the private method there.
    """
    return study._get_trials(deepcopy=False)


def partial_study(study: Study, trials: list[FrozenTrial], states: Sequence[TrialState] | None = None) -> Study:
    """Return a study for Optuna's TPE sampler in which only some trials can be seen.

    Optuna 5.0. The sampler reads trials with `_get_trials` alone, and has no option that leaves any of them out.

    Args:
        states: those that all these trials are in; a sampler that asks for them gets all without a look at each.
    """
    return cast(Study, _PartialStudy(study, trials, states))


class _PartialStudy:
    def __init__(self, study: Study, trials: list[FrozenTrial], states: Sequence[TrialState] | None) -> None:
        self._study = study
        self._trials, self._states = trials, states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: tuple[TrialState, ...] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if states in (None, self._states):
            return self._trials
        return [trial for trial in self._trials if trial.state in states]


def generators_of(sampler: BaseSampler) -> Iterator[RandomState]:
    """Yield the random generators of a sampler, and of the samplers that it uses.

    Optuna 5.0. They are seeded before each trial, see `SeededByTrial`. The public `reseed_rng` gives a sampler a random
    seed.
    """
    for part in vars(sampler).values():
        if isinstance(part, LazyRandomState):
            yield part.rng
        elif isinstance(part, BaseSampler):
            yield from generators_of(part)


def start_with(sampler: TPESampler | NSGAIISampler, random: RandomSampler) -> None:
    """Let a sampler draw from this random sampler until it has a model, or a first generation.

    Optuna 5.0. The sampler makes one of its own and has no option for another, as the samplers for CMA-ES and Gaussian
    processes have. A trial's record says whether it was used.
    """
    sampler._random_sampler = random


def number_of_good(ended: int) -> int:
    """Return how many of the trials that have ended Optuna's TPE counts as good. Optuna 5.0 has no public way."""
    return default_gamma(ended)


def numbers_on_front(trials: list[FrozenTrial], directions: list[StudyDirection]) -> set[int]:
    """Return the numbers of the COMPLETE trials that no other one equals or betters in every goal.

    Optuna 5.0. The public `Study.best_trials` copies all trials of a study, and has no option for some of them.
    """
    return {trial.number for trial in _multi_objective._get_pareto_front_trials_by_trials(trials, directions)}


_Space = dict[str, BaseDistribution]


class RememberingTPESampler(TPESampler):
    """Optuna's TPE sampler, which remembers from one proposal to the next what stays the same.

    Optuna 5.0 converts the parameters of all trials to numbers for each proposal, ranks the trials and models the good
    ones: among a thousand of them, for more than half of its time. Half of the rest are its densities, see `parzen`. It
    has no public way to keep any of it, or for other densities.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tables: dict[tuple[str, ...], ParameterTable] = {}
        self._good: dict[tuple[str, ...], tuple[_Space, list[int], _ParzenEstimator]] = {}

    def split(self, trial: FrozenTrial) -> tuple[list[FrozenTrial], list[int], list[int]] | None:
        """Return what to model a proposal for `trial` by; None: what Optuna does.

        Returns:
            All trials of the study by number, the numbers of the good ones to model, and those of the others to model.
        """
        return None

    def _sample(self, study: Study, trial: FrozenTrial, search_space: _Space) -> dict[str, Any]:
        if (split := self.split(trial)) is None:
            return super()._sample(study, trial, search_space)
        trials, good, others = split
        table = self._tables.get(names := tuple(search_space))
        if table is None or table.space != search_space:
            self._tables[names] = table = ParameterTable(search_space, lambda trial: self._get_params(trial, study))
        known = self._good.get(names)
        if known is None or known[:2] != (search_space, good):  # often they are those of the last proposal
            known = dict(search_space), good, self._model(table.columns(good, trials), search_space)
            self._good[names] = known
        candidates = known[2].sample(self._rng.rng, self._n_ei_candidates)
        model = self._model(table.columns(others, trials), search_space)
        best = self._compare(candidates, self._compute_acquisition_func(candidates, known[2], model))
        return {name: domain.to_external_repr(best[name]) for name, domain in search_space.items()}

    def _model(self, observations: dict[str, np.ndarray], search_space: _Space) -> _ParzenEstimator:
        return self._parzen_estimator_cls(observations, search_space, self._parzen_estimator_parameters)

    def _compute_acquisition_func(
        self, samples: dict[str, np.ndarray], mpe_below: _ParzenEstimator, mpe_above: _ParzenEstimator
    ) -> np.ndarray:
        points = np.array([*samples.values()]).T
        models = (model._mixture_distribution for model in (mpe_below, mpe_above))
        good, others = (log_density(points, model.weights, model.distributions) for model in models)
        return good - others


def compute_tails_in_c() -> None:
    """Let Optuna's TPE compute the logarithm of the normal distribution with SciPy, to the same numbers.

    Optuna 5.0 calls a function of Python for each number: among a thousand trials, for two thirds of a proposal's time.
    """
    from optuna.samplers._tpe import _truncnorm

    _truncnorm._log_ndtr = _log_ndtr  # type: ignore[assignment]


def _log_ndtr(points: Any) -> Any:
    from scipy.special import log_ndtr  # here: it takes a quarter of a second, and the first trials need no model

    return log_ndtr(points)
