"""Every private name of Optuna's studies and samplers that sweeper uses, as of Optuna 5.0: one function each.

`tests/search/test_optuna_internals.py` fails when a name moves. `study/storage/`, which extends Optuna's storage and
reads its tables, keeps the names of the storage.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, _percentile, _successive_halving
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.study import Study, StudyDirection, _multi_objective
from optuna.trial import FrozenTrial, Trial, TrialState

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


def partial_study(study: Study, trials: list[FrozenTrial]) -> Study:
    """Return a study for Optuna's TPE sampler in which only some trials can be seen.

    Optuna 5.0. The sampler reads trials with `_get_trials` alone, and has no option that leaves any of them out.
    """
    return cast(Study, _PartialStudy(study, trials))


class _PartialStudy:
    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study = study
        self._trials = trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: tuple[TrialState, ...] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


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


def best_value(trial: FrozenTrial, direction: StudyDirection) -> float:
    """Return the best value that a trial has reported, as Optuna's percentile pruner computes it; NaN if all are NaN.

    Optuna 5.0. The public `PercentilePruner.prune` collects the values of all trials for each verdict;
    `IncrementalPercentilePruner` keeps them and must not differ in the rest.
    """
    return float(_percentile._get_best_intermediate_result_over_steps(trial, direction))


def is_first_of_interval(trial: FrozenTrial, step: int, *, warmup: int, interval: int) -> bool:
    """Return whether a step is the first of its interval that the trial has reported, as Optuna's pruners decide.

    Optuna 5.0. The public pruners decide this inside `prune` only; see `best_value`.
    """
    return _percentile._is_first_in_interval_step(step, trial.intermediate_values.keys(), warmup, interval)


def rung_marks(reports: Mapping[int, float], *, first: int, factor: int) -> dict[str, float]:
    """Return the marks that SuccessiveHalvingPruner leaves on a trial with these reports: its value at each rung.

    Optuna 5.0. The pruner compares the trials that have a mark in their system attributes, and sets it only where it
    judges. Trials that ran without it, or with other rungs, need marks to be compared. There is no public way.

    Args:
        reports: the values that the trial reported, by step.
        first: the step of the first rung.
        factor: the step of each rung, divided by that of the rung before.
    """
    marks: dict[str, float] = {}
    step = first
    while later := [number for number in reports if number >= step]:
        marks[_successive_halving._completed_rung_key(len(marks))] = reports[min(later)]
        step *= factor
    return marks


def is_rung_mark(attribute: str) -> bool:
    """Return whether a system attribute of a trial is a mark that SuccessiveHalvingPruner or HyperbandPruner left."""
    return attribute.startswith(_successive_halving._completed_rung_key(0).removesuffix("0"))


def rungs_passed(trial: FrozenTrial) -> int:
    """Return at how many rungs SuccessiveHalvingPruner or HyperbandPruner has compared a trial.

    Optuna 5.0. The pruners return a verdict only, and one report may reach several rungs. There is no public way.
    """
    return _successive_halving._get_current_rung(trial)


def values_at_rung(trials: Iterable[FrozenTrial], rung: int) -> list[tuple[FrozenTrial, float]]:
    """Return the trials that were compared at a rung, which is counted from 0, with their values there.

    Optuna 5.0. See `rungs_passed`.
    """
    key = _successive_halving._completed_rung_key(rung)
    return [(trial, trial.system_attrs[key]) for trial in trials if key in trial.system_attrs]


def bracket_of(pruner: BasePruner, study: Study, trial: FrozenTrial) -> int:
    """Return the bracket, counted from 0, in which HyperbandPruner compares a trial; it must have judged a report.

    Optuna 5.0. The pruner hands its samplers the study of a bracket and does not say which one. There is no public way.
    """
    return cast(HyperbandPruner, pruner)._get_bracket_id(study, trial)


def start_with(sampler: TPESampler | NSGAIISampler, random: RandomSampler) -> None:
    """Let a sampler draw from this random sampler until it has a model, or a first generation.

    Optuna 5.0. The sampler makes one of its own and has no option for another, as the samplers for CMA-ES and Gaussian
    processes have. A trial's record says whether it was used.
    """
    sampler._random_sampler = random


def numbers_on_front(trials: list[FrozenTrial], directions: list[StudyDirection]) -> set[int]:
    """Return the numbers of the COMPLETE trials that no other one equals or betters in every goal.

    Optuna 5.0. The public `Study.best_trials` copies all trials of a study, and has no option for some of them.
    """
    return {trial.number for trial in _multi_objective._get_pareto_front_trials_by_trials(trials, directions)}


MAX_REMEMBERED = 10_000
"""Trials whose parameters are remembered as numbers: many more than are modelled and running."""

_Numbers = dict[int, tuple[dict[str, Any], tuple[float, ...] | None]]
"""Of each trial: its parameters, and their numbers in the order of the search space; None if it lacks one."""


class RememberingTPESampler(TPESampler):
    """Optuna's TPE sampler, which converts the parameters of a trial to numbers once, and not for each proposal.

    Optuna 5.0 converts those of all trials for each proposal: among a thousand of them, for half of its time. It has no
    public way to keep them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: dict[tuple[str, ...], tuple[dict[str, BaseDistribution], _Numbers]] = {}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, np.ndarray]:
        distributions, known = self._known.get(names := tuple(search_space), ({}, {}))
        if distributions != search_space or len(known) > MAX_REMEMBERED:
            known = {}
            self._known[names] = dict(search_space), known
        rows = []
        for trial in trials:
            params, numbers = known.get(trial.number, (None, None))
            if params is not trial.params:  # it is new, or has other parameters now
                numbers = self._as_numbers(trial, study, search_space)
                known[trial.number] = trial.params, numbers
            if numbers is not None:
                rows.append(numbers)
        columns = zip(*rows, strict=True) if rows else [[]] * len(search_space)
        return {name: np.asarray(column) for name, column in zip(search_space, columns, strict=True)}

    def _as_numbers(
        self, trial: FrozenTrial, study: Study, search_space: dict[str, BaseDistribution]
    ) -> tuple[float, ...] | None:
        params = self._get_params(trial, study)
        if not search_space.keys() <= params.keys():
            return None
        return tuple(distribution.to_internal_repr(params[name]) for name, distribution in search_space.items())


def compute_tails_in_c() -> None:
    """Let Optuna's TPE compute the logarithm of the normal distribution with SciPy, to the same numbers.

    Optuna 5.0 calls a function of Python for each number: among a thousand trials, for two thirds of a proposal's time.
    """
    from optuna.samplers._tpe import _truncnorm

    _truncnorm._log_ndtr = _log_ndtr  # type: ignore[assignment]


def _log_ndtr(points: Any) -> Any:
    from scipy.special import log_ndtr  # here: it takes a quarter of a second, and the first trials need no model

    return log_ndtr(points)
