"""An exhaustive sampler that knows conditions, and that ask-and-tell can use.

Optuna's own grid sampler takes no conditional parameters, stops the study from within (an error outside
`study.optimize`), and refuses start points that leave parameters open.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from sweeper.core.schema import scalars_equal
from sweeper.search.space import Point

_INDEX = "sweeper:grid"


class GridSampler(BaseSampler):
    """Gives each point to one trial, in an order of the seed; a point given is on record in the study."""

    def __init__(self, points: list[Point], *, seed: int) -> None:
        self._points = random.Random(seed).sample(points, len(points))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if _INDEX in trial.system_attrs:  # Optuna also asks for a trial that is taken up again
            return
        others = study.get_trials(deepcopy=False)
        taken = {other.system_attrs[_INDEX] for other in others if _INDEX in other.system_attrs}
        fitting = self._fitting(trial.system_attrs.get("fixed_params", {}))
        # When every point is taken, trials start over; a sweep asks for no more trials than there are points.
        index = next((i for i in fitting if i not in taken), fitting[trial.number % len(fitting)])
        study._storage.set_trial_system_attr(trial._trial_id, _INDEX, index)

    def _fitting(self, fixed: Mapping[str, Any]) -> list[int]:
        """The points that a start point leaves open; all of them for a trial without one."""
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
        index = study._storage.get_trial(trial._trial_id).system_attrs[_INDEX]
        return self._points[index][param_name]
