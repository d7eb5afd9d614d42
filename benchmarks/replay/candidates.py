"""The rows that were not chosen yet, of which a sampler chooses the next one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

from benchmarks.replay.table import Table
from sweeper.search.domains import Categorical, Float, Int
from sweeper.search.seeding import SeededByTrial
from sweeper.search.space import Space


class Candidates:
    """The rows of a table that were not chosen yet.

    A table has few points of a large space, so that the row nearest to a proposal can be far from it. Optuna's TPE,
    which draws candidates from its model of the good trials and proposes the best of them, therefore draws these rows,
    with the same probabilities.

    Args:
        order: places of the rows, in the order in which they come where nothing else decides.
    """

    def __init__(self, table: Table, space: Space, order: list[int]) -> None:
        self._rows, self._space, self._left = table.rows, space, list(order)
        self._common = {name for name in space if all(name in row.params for row in table.rows)}

    def offer_to(self, sampler: SeededByTrial) -> SeededByTrial:
        """Return the sampler, which from now on chooses among these rows if it is Optuna's TPE."""
        if isinstance(sampler.sampler, TPESampler):
            candidates = self

            class Estimator(_ParzenEstimator):
                def sample(self, rng: np.random.RandomState, size: int) -> dict[str, np.ndarray]:
                    if not (rows := candidates._values(self._search_space)):
                        return super().sample(rng, size)
                    likelihoods = self.log_pdf(rows)
                    shares = np.exp(likelihoods - likelihoods.max())
                    drawn = rng.choice(len(shares), size, p=shares / shares.sum())
                    return {name: values[drawn] for name, values in rows.items()}

            sampler.sampler._parzen_estimator_cls = Estimator
        return sampler

    def take(self, point: dict[str, Any], *, is_random: bool) -> int:
        """Take the row nearest to a proposal: by the parameters that every row has, then by the others.

        Args:
            is_random: whether the proposal was drawn at random; the next row in order is taken then.
        """
        place = self._left[0]
        if not is_random:
            place = min(self._left, key=lambda place: self._distance(point, self._rows[place].params))
        self._left.remove(place)
        return place

    def _values(self, space: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the rows as TPE represents them, as far as they have these parameters."""
        rows = [self._rows[place].params for place in self._left]
        rows = [row for row in rows if set(space) <= set(row)]
        if not rows:
            return {}
        return {name: np.array([domain.to_internal_repr(row[name]) for row in rows]) for name, domain in space.items()}

    def _distance(self, point: dict[str, Any], row: dict[str, Any]) -> tuple[float, float]:
        shared = {name: domain for name, domain in self._space.items() if name in self._common}
        return distance(point, row, shared), distance(point, row, self._space)


def distance(one: dict[str, Any], other: dict[str, Any], space: Space) -> float:
    """Return how far two points are apart: 1 for another choice, a parameter that one lacks, or a whole range."""
    total = 0.0
    for name, domain in space.items():
        if (name in one) != (name in other):
            total += 1.0
        elif name in one and one[name] != other[name]:
            total += 1.0 if isinstance(domain, Categorical) else _apart(domain, one[name], other[name])
    return total


def _apart(domain: Any, one: float, other: float) -> float:
    assert isinstance(domain, Float | Int)
    scale = math.log if domain.log else float
    whole = scale(domain.high) - scale(domain.low)
    return abs(scale(one) - scale(other)) / whole if whole else 0.0
