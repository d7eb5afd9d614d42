"""Grid sampler for conditional parameters and for ask-and-tell.

Optuna's own grid sampler does not support conditional parameters, stops the study itself (an error outside
`study.optimize`), and refuses start points that leave parameters out.
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
from sweeper.search.optuna_internals import storage_of, trial_id
from sweeper.search.space import Point

_INDEX = "sweeper:grid"


class GridSampler(BaseSampler):
    """Gives each point to one trial, in random order, and records the point in the study."""

    def __init__(self, points: list[Point], *, seed: int) -> None:
        self._points = random.Random(seed).sample(points, len(points))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if _INDEX in trial.system_attrs:  # Optuna also calls this for a trial that is resumed
            return
        others = study.get_trials(deepcopy=False)
        taken = {other.system_attrs[_INDEX] for other in others if _INDEX in other.system_attrs}
        fitting = self._fitting(trial.system_attrs.get("fixed_params", {}))
        # When every point is taken, points repeat. A sweep never asks for more trials than the grid has points.
        index = next((i for i in fitting if i not in taken), fitting[trial.number % len(fitting)])
        storage_of(study).set_trial_system_attr(trial_id(trial), _INDEX, index)

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
