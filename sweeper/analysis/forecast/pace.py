"""The pace of trials: seconds of a report as a function of the parameters, fitted to trials whose pace is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sweeper.analysis.forecast.curves import Work
from sweeper.analysis.forecast.points import features, searched
from sweeper.search.space import Space

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Penalties on the coefficients, of which that is used that predicts a trial best from the others."""

UNKNOWN_ERROR = 0.35
"""Standard deviation of the logarithm of a quantity, if too few trials are known to tell."""


class Estimate:
    """A positive quantity as a function of the parameters: ridge regression of its logarithm, beside that of the work.

    Args:
        points: parameters of trials.
        values: the quantity of each.
        work: what trials cost in proportion, as far as that is known; the regression corrects it.

    Attributes:
        error: standard deviation of the logarithm of a trial's quantity, divided by what the other trials predict.
    """

    def __init__(
        self, points: Sequence[Mapping[str, Any]], values: Sequence[float], space: Space, work: Work = lambda point: 1.0
    ) -> None:
        self._space, self._work = searched(space), work
        x = np.array([features(point, self._space) for point in points]).reshape(len(points), -1)
        y = np.array([math.log(value / work(point)) for point, value in zip(points, values, strict=True)])
        fits = [_ridge(x, y, penalty) for penalty in PENALTIES]
        self.error, self._coefficients = min(fits, key=lambda fit: fit[0])
        if len(points) < 4:
            self.error = max(self.error, UNKNOWN_ERROR) if len(points) > 1 else UNKNOWN_ERROR

    def of(self, point: Mapping[str, Any]) -> float:
        """Return the quantity of a trial with these parameters."""
        change = self._coefficients @ np.array([1.0, *features(point, self._space)])
        return self._work(point) * math.exp(float(change))


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
    """Return the error of leaving each trial out, and the coefficients, of which the first is not penalized."""
    design = np.hstack([np.ones((len(x), 1)), x])
    penalties = np.diag([1e-9, *[penalty] * x.shape[1]])
    inverse = np.linalg.solve(design.T @ design + penalties, design.T)
    coefficients, influence = inverse @ y, np.einsum("ij,ji->i", design, inverse)
    left_out = (y - design @ coefficients) / np.maximum(1e-6, 1 - influence)
    return float(np.sqrt(np.mean(left_out**2))), coefficients
