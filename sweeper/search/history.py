"""What a sampler and a pruner know beside the trials that ran under them: trials of other sweeps, and earlier ones."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

from sweeper.core.schema import scalars_equal
from sweeper.core.text import format_value
from sweeper.core.trials import TrialRecord
from sweeper.search.budget import Budget
from sweeper.search.confirming import CONFIRMS
from sweeper.search.optuna_internals import storage_of, trial_id
from sweeper.search.pruning.optuna_internals import rung_marks
from sweeper.search.pruning.pruners import Patient, Pruner, SuccessiveHalving, WrappablePruner
from sweeper.search.samplers import Sampler
from sweeper.search.seeding import DRAW, SeededByTrial
from sweeper.search.space import Point, Space, check_point, draw, grid_size, is_complete, normalized, point_key, suggest

FORKED_FROM = "forked_from"
"""User attribute of a trial that another sweep ran: that sweep's name and the trial's number in it, `lstm:7`."""

ORIGIN = "origin"
"""User attribute of a trial that says where its parameters came from; see `origin_of`."""

START_POINT = "fixed_params"
"""System attribute of a trial that was enqueued, with its start point, as Optuna writes it."""


def is_history(trial: FrozenTrial) -> bool:
    """Return whether another sweep ran this trial. Samplers and pruners see it; nothing else counts or shows it."""
    return FORKED_FROM in trial.user_attrs


def is_fresh_run(trial: FrozenTrial) -> bool:
    """Return whether this trial trains another one again with a fresh seed, and is none of the search."""
    return CONFIRMS in trial.user_attrs


def without_result(trial: FrozenTrial) -> FrozenTrial:
    """Return a fresh run as samplers and pruners see it: as a trial that failed before its first report.

    It keeps its number, which is its place in the study. They learn nothing from it: it is no new point, and its value
    would count the best points several times.
    """
    hidden = copy.copy(trial)
    hidden.state, hidden.values, hidden.datetime_complete = TrialState.FAIL, None, trial.datetime_start
    hidden.params, hidden.distributions, hidden.system_attrs, hidden.intermediate_values = {}, {}, {}, {}
    return hidden


def point_in(params: Mapping[str, Any], space: Space) -> Point | None:
    """Return the parameters of a trial as a point of a space; None if they are not exactly such a point."""
    if params.keys() - space.keys() or any(check_point(params, space)):
        return None
    point = {name: space[name].normal(value) for name, value in params.items()}
    return point if is_complete(point, space) else None


def as_history(
    trial: FrozenTrial,
    point: Point,
    space: Space,
    *,
    source: str,
    reports: Mapping[int, float],
    marks: Mapping[str, float],
) -> FrozenTrial:
    """Return a trial that has ended in another study as one that `study.add_trial` takes.

    Args:
        point: its parameters, as `point_in` returned them.
        source: the sweep that ran it, and its number there.
        reports: the values that it reported, by step.
        marks: what `marks_of` returned for these reports.
    """
    drawn = FixedTrial(point)
    suggest(drawn, space)
    start_point = {key: value for key, value in trial.system_attrs.items() if key == START_POINT}
    added = create_trial(
        state=trial.state,
        values=trial.values,
        params=drawn.params,
        distributions=drawn.distributions,
        user_attrs={FORKED_FROM: trial.user_attrs.get(FORKED_FROM, source)},
        system_attrs={**start_point, **marks},
        intermediate_values=dict(reports),
    )
    added.datetime_start, added.datetime_complete = trial.datetime_start, trial.datetime_complete
    return added


def is_tried(point: Point, trials: Iterable[FrozenTrial]) -> bool:
    """Return whether one of these trials has this point, or began with this start point."""
    return any(
        _is_same(point, trial.params) or _is_same(point, trial.system_attrs.get(START_POINT)) for trial in trials
    )


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    if other is None or one.keys() != other.keys():
        return False
    return all(scalars_equal(value, other[name]) for name, value in one.items())


MAX_PROPOSALS, MAX_RANDOM_POINTS = 10, 1000
"""Proposals of the sampler for one trial, and points drawn at random after these, before a point is repeated."""


class TriedPoints:
    """The points that need not be run again: those of another sweep, and in a finite space the own ones.

    Once every point of the space was run, the own ones count no more.
    """

    def __init__(self, space: Space, history: Iterable[TrialRecord], own: Iterable[TrialRecord]) -> None:
        self._size = grid_size(space)
        self._history = {point_key(row.params) for row in history}
        self._own: set[object] = set()
        for row in own:
            self.add(row.params)

    def add(self, point: Mapping[str, Any]) -> None:
        """Note that a point is run."""
        if self._size is not None:
            self._own.add(point_key(point))

    def keys(self) -> Collection[object]:
        """Return the points that a sampler should not propose, as `point_key` returns them."""
        known = self._history | self._own if self._history and self._own else self._history or self._own
        return known if self._size is None or len(known) < self._size else self._history


def suggest_untried(trial: Trial, space: Space, tried: Collection[object]) -> tuple[Trial, Point]:
    """Let the sampler choose the parameters of a trial, and again while these are a point that was run.

    A sampler with a model may insist on the best point of a small space; then a random point is taken.

    Args:
        tried: the points that were run, as `point_key` returns them.

    Returns:
        The trial, to be used instead of the one that was given, and its parameters.
    """
    storage: Any = storage_of(trial.study)
    point = suggest(trial, space)
    if not tried or START_POINT in storage.get_trial(trial_id(trial)).system_attrs:
        return trial, point
    for count in range(1, MAX_PROPOSALS + 1):
        if point_key(point) not in tried:
            break
        is_last = count == MAX_PROPOSALS
        rejected = {START_POINT: _random_point(trial, space, tried)} if is_last else {DRAW: count}
        storage.forget_params(trial_id(trial))
        for name, value in rejected.items():
            storage.set_trial_system_attr(trial_id(trial), name, value)
        trial = Trial(trial.study, trial_id(trial))
        point = suggest(trial, space)
    return trial, point


def origin_of(trial: Trial, sampler: Sampler) -> str:
    """Return where the parameters of a trial came from, for people; `suggest_untried` must have chosen them.

    It is the type of the sampler, "random start-up" where that had no model yet, "start point", "fork" for a start
    point that a fork took over, or REPEATED.

    Args:
        sampler: the sampler of the sweep, from which the study's was built.
    """
    stored = storage_of(trial.study).get_trial(trial_id(trial))
    if ORIGIN in stored.user_attrs:
        return str(stored.user_attrs[ORIGIN])
    if stored.system_attrs.get(START_POINT):
        return REPEATED if DRAW in stored.system_attrs else "start point"
    used = trial.study.sampler
    if isinstance(used, SeededByTrial) and used.has_no_model:
        return "random start-up" if hasattr(sampler, "n_startup_trials") else "random"
    return sampler.type


REPEATED = "random, as the sampler repeated itself"
"""Origin of a trial whose sampler had proposed only points that were tried before; see `suggest_untried`."""


def _random_point(trial: Trial, space: Space, tried: Collection[object]) -> Point:
    """Return a random point that was not tried, as a start point; an empty one if none is found."""
    rng = random.Random(f"{trial.study.study_name} {trial.number}")
    drawn = (draw(space, rng) for _ in range(MAX_RANDOM_POINTS))
    return normalized(next((point for point in drawn if point_key(point) not in tried), {}), space)


def marks_of(pruner: Pruner | WrappablePruner, budget: Budget, reports: Mapping[int, float]) -> dict[str, float]:
    """Return the marks by which a pruner compares a trial with others, as if it had judged these reports.

    Successive halving keeps such marks in the study; the other pruners read the reports. Those of Hyperband depend on
    the bracket of a trial, so it compares only trials that it has judged.
    """
    if isinstance(pruner, Patient):
        return {} if pruner.wrapped is None else marks_of(pruner.wrapped, budget, reports)
    if not isinstance(pruner, SuccessiveHalving):
        return {}
    return rung_marks(reports, first=pruner.first(budget), factor=pruner.reduction_factor)


Era = dict[str, Any]
"""The number of the first trial that was proposed by a sampler beside a pruner, and their settings: `from`, `sampler`,
`pruner`."""


def with_era(eras: Sequence[Era], first: int, sampler: dict[str, Any], pruner: dict[str, Any]) -> list[Era]:
    """Return the eras of a sweep with one that begins at trial `first`; one that no trial has run in is dropped."""
    kept = [era for era in eras if era["from"] < first]
    if kept and (kept[-1]["sampler"], kept[-1]["pruner"]) == (sampler, pruner):
        return kept
    return [*kept, {"from": first, "sampler": sampler, "pruner": pruner}]


def describe_eras(eras: Sequence[Era], last: int) -> str | None:
    """Return in a sentence which trials, up to the last one, ran under which sampler and pruner; None for one pair."""
    eras = [era for era in eras if era["from"] <= last]
    if len(eras) < 2:
        return None
    names = [f"{_name(era, 'sampler', eras)} and {_name(era, 'pruner', eras)}" for era in eras]
    spans = [
        f"{name} for trials {era['from']} to {after['from'] - 1}"
        for (era, after), name in zip(pairwise(eras), names[:-1], strict=True)
    ]
    return f"Sampler and pruner were {', '.join(spans)}, and {names[-1]} from trial {eras[-1]['from']} on"


def _name(era: Era, kind: str, eras: Sequence[Era]) -> str:
    """Return the type of a sampler or pruner, with the options in which those of the same type differ."""
    own = era[kind]
    alike = [other[kind] for other in eras if other[kind]["type"] == own["type"]]
    differing = [name for name in own if any(other.get(name) != own[name] for other in alike)]
    options = ", ".join(f"{name} {format_value(own[name])}" for name in differing)
    return f"{own['type']} ({options})" if options else str(own["type"])
