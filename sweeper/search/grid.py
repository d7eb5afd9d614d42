"""Grid sampler for conditional parameters and for ask-and-tell.

Optuna's own grid sampler does not support conditional parameters, stops the study itself (an error outside
`study.optimize`), and refuses start points that leave parameters out.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from sweeper.core.schema import scalars_equal
from sweeper.search.bounded import EndedTrials
from sweeper.search.optuna_internals import all_trials, storage_of, trial_id
from sweeper.search.space import Point, Space, grid_size, is_complete, point_key

_INDEX = "sweeper:grid"


def untried_points(space: Space, tried: Iterable[Mapping[str, Any]]) -> int:
    """Return how many points of a grid no trial has run; `tried` has the parameters of the trials."""
    size = grid_size(space)
    assert size is not None, "the sampler has refused this space"
    return size - len({point_key(point) for point in tried if is_complete(point, space)})


class GridSampler(BaseSampler):
    """Gives each point that no trial has run to one trial, in random order, and records its place in the study.

    Args:
        constants: the parameters of the points that Optuna does not know, because they never vary.
    """

    def __init__(self, points: list[Point], *, seed: int, constants: Collection[str] = ()) -> None:
        self._points = random.Random(seed).sample(points, len(points))
        searched = ({name: point[name] for name in point if name not in constants} for point in self._points)
        self._places = {point_key(point): place for place, point in enumerate(searched)}
        self._ended = EndedTrials()
        self._taken: set[int] = set()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if _INDEX in trial.system_attrs:  # Optuna also calls this for a trial that is resumed
            return
        taken = self._taken_by(study)
        fitting = self._fitting(trial.system_attrs.get("fixed_params", {}))
        # When every point is taken, points repeat. A sweep never asks for more trials than the grid has points.
        index = next((i for i in fitting if i not in taken), fitting[trial.number % len(fitting)])
        storage_of(study).set_trial_system_attr(trial_id(trial), _INDEX, index)

    def _taken_by(self, study: Study) -> set[int]:
        """Return the places of the points that trials have run or run now, also under another sampler or seed."""
        self._taken |= self._places_of(self._ended.update(study, trials := all_trials(study)))
        running = self._ended.open.keys() - self._ended.waiting
        return self._taken | self._places_of(trials[number] for number in running)

    def _places_of(self, trials: Iterable[FrozenTrial]) -> set[int]:
        keys = (point_key(trial.params) for trial in trials)
        return {self._places[key] for key in keys if key in self._places}

    def _fitting(self, fixed: Mapping[str, Any]) -> list[int]:
        """Return the indices of the points that agree with a start point; of all points if none does."""
        fitting = [
            i
            for i, point in enumerate(self._points)
            if all(name in point and scalars_equal(point[name], value) for name, value in fixed.items())
        ]
        return fitting or list(range(len(self._points)))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        index = storage_of(study).get_trial(trial_id(trial)).system_attrs[_INDEX]
        return self._points[index][param_name]
