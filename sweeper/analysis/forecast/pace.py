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

USUAL_ERROR = 0.1
"""Logarithm of a quantity from what is predicted, up to which a trial counts fully in any case."""

ROUNDS = 30
"""Fits, each with the weights of the one before."""

TWO_THIRDS = 0.967
"""Standard deviations within which two in three values lie, if they are normal."""

UNKNOWN_ERROR = 0.35
"""Standard deviation of the logarithm of a quantity, if too few trials are known to tell."""


class Estimate:
    """A positive quantity as a function of the parameters: robust ridge regression of its logarithm, beside the work's.

    Args:
        points: parameters of trials.
        values: the quantity of each.
        work: what trials cost in proportion, as far as that is known; the regression corrects it.

    Attributes:
        error: standard deviation of the logarithm of a trial's quantity, divided by what the other trials predict,
            as two in three of them tell.
    """

    def __init__(
        self, points: Sequence[Mapping[str, Any]], values: Sequence[float], space: Space, work: Work = lambda point: 1.0
    ) -> None:
        self._space, self._work = searched(space), work
        x = np.array([features(point, self._space) for point in points]).reshape(len(points), -1)
        y = np.array([math.log(value / work(point)) for point, value in zip(points, values, strict=True)])
        fits = [_fit(x, y, penalty) for penalty in PENALTIES]
        left_out, self._coefficients = min(fits, key=lambda fit: float(np.mean(fit[0])))
        self.error = float(np.quantile(left_out, 2 / 3, method="lower")) / TWO_THIRDS
        if len(points) < 4:
            self.error = max(self.error, UNKNOWN_ERROR) if len(points) > 1 else UNKNOWN_ERROR

    def of(self, point: Mapping[str, Any]) -> float:
        """Return the quantity of a trial with these parameters."""
        change = self._coefficients @ np.array([1.0, *features(point, self._space)])
        return self._work(point) * math.exp(float(change))


def _fit(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much each trial differs from what the others predict, and the coefficients, the constant first.

    A trial that ran beside other programs is slower than its parameters tell. So the half that fits best counts fully,
    and of the others each the less, the further away it is (Huber, Robust estimation of a location parameter, 1964).
    """
    design = np.hstack([np.ones((len(x), 1)), x])
    penalties = np.diag([1e-9, *[penalty] * x.shape[1]])
    weights = np.ones(len(y))
    for _ in range(ROUNDS):
        weighted = design.T * weights / np.mean(weights)  # the penalties mean the same, whatever the weights
        inverse = np.linalg.solve(weighted @ design + penalties, weighted)
        coefficients, influence = inverse @ y, np.einsum("ij,ji->i", design, inverse)
        residuals = np.abs(y - design @ coefficients)
        near = max(USUAL_ERROR, float(np.median(residuals)))
        weights = near / np.maximum(residuals, near)
    return residuals / np.maximum(1e-6, 1 - influence), coefficients
