"""What the models of Optuna's TPE are made of, kept from one proposal to the next, and their density."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

_Floats = NDArray[np.float64]


class ParameterTable:
    """The parameters of trials as the numbers that Optuna models, each converted once.

    A trial is looked at again only if it is another object: storages replace one that changes.

    Args:
        space: the parameters to convert.
        params_of: returns the parameters of a trial.
    """

    def __init__(
        self, space: Mapping[str, BaseDistribution], params_of: Callable[[FrozenTrial], Mapping[str, Any]]
    ) -> None:
        self.space = dict(space)
        self._params_of = params_of
        self._rows = np.empty((0, len(space)))  # by the number of the trial; NaN where it lacks a parameter
        self._seen: dict[int, FrozenTrial | None] = {}  # None for one that has ended, and does not change any more

    def columns(self, numbers: Sequence[int], trials: Sequence[FrozenTrial]) -> dict[str, _Floats]:
        """Return each parameter of the trials with these numbers that have all of them; `trials` are all by number."""
        for number in numbers:
            seen = self._seen.get(number, self)
            if seen is not None and seen is not trials[number]:
                self._convert(trials[number])
        rows = self._rows[np.array(numbers, int)]
        return dict(zip(self.space, rows[~np.isnan(rows[:, 0])].T, strict=True))

    def _convert(self, trial: FrozenTrial) -> None:
        params = self._params_of(trial)
        if len(self._rows) <= trial.number:
            more = np.full((trial.number + 1024, len(self.space)), np.nan)
            more[: len(self._rows)] = self._rows
            self._rows = more
        known = [domain.to_internal_repr(params[name]) for name, domain in self.space.items() if name in params]
        self._rows[trial.number] = known if len(known) == len(self.space) else math.nan
        self._seen[trial.number] = None if trial.state.is_finished() else trial


class Normals(Protocol):
    """Normal distributions of one parameter, cut off at the bounds of its range; of its logarithm if `is_log`.

    Attributes:
        mu, sigma: their means and standard deviations.
        adapted_low, adapted_high: the bounds, of the logarithm if `is_log`.
        step: distance of the values of the parameter; 0 if it may have any.
    """

    mu: _Floats
    sigma: _Floats
    adapted_low: float
    adapted_high: float
    is_log: bool
    step: float


def log_density(points: _Floats, weights: _Floats, kernels: Sequence[Any]) -> _Floats:
    """Return the logarithm of a mixture's density at some points.

    Args:
        points: shape (points, parameters).
        weights: that of each kernel; their sum is 1.
        kernels: for each parameter, `Normals`, or an object whose `weights` are probabilities, of the shape (kernels,
            choices). As many for each parameter.
    """
    logs = np.repeat(np.log(weights)[np.newaxis], len(points), axis=0)
    for values, own in zip(points.T, kernels, strict=True):
        is_choice = hasattr(own, "weights")
        logs += np.log(own.weights).T[values.astype(int)] if is_choice else _log_normals(values, own)
    highest = logs.max(axis=1)
    return np.asarray(np.log(np.exp(logs - highest[:, np.newaxis]).sum(axis=1)) + highest)


def _log_normals(values: _Floats, kernels: Normals) -> _Floats:
    """Return the logarithm of each kernel's density, or probability if there is a step: one row for each value."""
    scale = np.log if kernels.is_log else np.asarray
    if not kernels.step:
        far = (scale(values)[:, np.newaxis] - kernels.mu) / kernels.sigma
        whole = np.log(kernels.sigma) + _log_mass_of_range(kernels, kernels.mu, kernels.sigma)
        return np.asarray(far * far * -0.5 - (whole + 0.5 * math.log(2 * math.pi)))
    # With steps, many values are equal, and so are many kernels.
    distinct, rows = np.unique(values, return_inverse=True)
    pairs, columns = np.unique(kernels.mu + 1j * kernels.sigma, return_inverse=True)
    mu, sigma = pairs.real, pairs.imag
    edges = (scale(distinct + side * kernels.step / 2)[:, np.newaxis] for side in (-1, 1))
    left, right = ((edge - mu) / sigma for edge in edges)
    return np.asarray((_log_mass(left, right) - _log_mass_of_range(kernels, mu, sigma))[np.ix_(rows, columns)])


def _log_mass_of_range(kernels: Normals, mu: _Floats, sigma: _Floats) -> _Floats:
    return _log_mass((kernels.adapted_low - mu) / sigma, (kernels.adapted_high - mu) / sigma)


def _log_mass(left: _Floats, right: _Floats) -> _Floats:
    """Return the logarithm of the standard normal distribution's mass between two points; -inf below about e-700."""
    from scipy.special import ndtr  # here: it takes a quarter of a second, and the first trials need no model

    is_above = left > 0  # there both integrals are nearly 1, and their difference would be lost; mirrored, it is not
    low, high = np.where(is_above, -right, left), np.where(is_above, -left, right)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(ndtr(high) - ndtr(low)))
