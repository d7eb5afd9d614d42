"""Learning curves for trials that nobody trains: those of earlier sweeps, or synthetic ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sweeper.analysis.forecast.points import features, searched
from sweeper.core.trials import Direction
from sweeper.search.space import Space, draw

Work = Callable[[Mapping[str, Any]], float]
"""Returns what a sample costs to train with some parameters, in any unit."""

NEIGHBOURS = 3
"""Trials of earlier sweeps, the nearest to a point, of which one gives its curve."""

GAIN_LEFT = 0.6
"""What a curve gains in a doubling of the epochs, as a part of what it gained in the doubling before."""

MEAN_ODDS, SPREAD_ODDS = -1.5, 1.6
"""Mean and standard deviation of the logarithm of the odds of an error at the end of a trial."""

FALL, FALL_SPREAD = 0.5, 0.4
"""Median by which these fall in the last doubling of the epochs, and the standard deviation of its logarithm."""

NOISE = 0.1
"""Standard deviation of these from one report to the next."""

COST_SHARE, CHANCE_SHARE = 0.45, 0.45
"""Correlation of the quality of a trial with the logarithm of its cost, and with what no parameter explains.

The first is 0.1 to 0.3 in the tables, of random points on 10,000 images. Sweeps on the whole of MNIST come to favour
large networks more: 0.45 is chosen by what the shipped spaces took, see docs/performance.md.
"""


class Curves(Protocol):
    """Learning curves of one play: what the trials would report if somebody trained them."""

    def curve(self, point: Mapping[str, Any]) -> Sequence[float]:
        """Return the values of all reports of a trial with these parameters."""


class Synthetic:
    """Curves of a made-up problem, each time another one: some parameters matter, and costly trials tend to be better.

    The odds of an error fall as a power of the epochs, as learning curves mostly do (Domhan et al., Speeding up
    automatic hyperparameter optimization of deep neural networks by extrapolation of learning curves, 2015; Viering
    and Loog, The shape of learning curves, 2023). How far apart trials end, and how well early reports foretell the
    end, is as in the tables of `benchmarks/replay`.
    """

    def __init__(self, space: Space, reports: int, direction: Direction, work: Work, rng: random.Random) -> None:
        self._space, self._work = searched(space), work
        self._sign = -1.0 if direction == "maximize" else 1.0
        self._doublings = np.log2(reports / np.arange(1, reports + 1))
        self._rng = np.random.default_rng(rng.getrandbits(32))
        count = len(features({}, self._space))
        self._weights = self._rng.exponential(size=count) * self._rng.standard_normal(count)
        self._optimum, self._bend = self._rng.uniform(-0.5, 0.5, count), 3 * self._rng.exponential(size=count)
        some = [draw(space, rng) for _ in range(100)]
        effects, works = [self._effect(point) for point in some], [math.log(work(point)) for point in some]
        self._effects = float(np.mean(effects)), float(np.std(effects)) or 1.0
        self._works = float(np.mean(works)), float(np.std(works)) or 1.0

    def curve(self, point: Mapping[str, Any]) -> Sequence[float]:
        parts: list[float] = [
            (self._effect(point) - self._effects[0]) / self._effects[1],
            (math.log(self._work(point)) - self._works[0]) / self._works[1],
            self._rng.standard_normal(),
        ]
        shares = [math.sqrt(1 - COST_SHARE**2 - CHANCE_SHARE**2), COST_SHARE, CHANCE_SHARE]
        quality = sum(share * part for share, part in zip(shares, parts, strict=True))
        fall = FALL * math.exp(FALL_SPREAD * self._rng.standard_normal())
        odds = MEAN_ODDS - SPREAD_ODDS * quality + fall * self._doublings
        odds = odds + NOISE * self._rng.standard_normal(len(odds))
        errors = 1 / (1 + np.exp(-odds))
        return [float(error) if self._sign > 0 else 1.0 - float(error) for error in errors]

    def _effect(self, point: Mapping[str, Any]) -> float:
        """Return what the parameters are worth: each for itself, numbers with an optimum within their range."""
        x = np.array(features(point, self._space))
        return float(np.sum(self._weights * x - self._bend * (x - self._optimum) ** 2))


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier sweep: its parameters, and its values by the epochs, or steps, of its reports."""

    params: Mapping[str, Any]
    epochs: tuple[float, ...]
    values: tuple[float, ...]


class Resampled:
    """Curves of earlier sweeps: each trial gets that of one of the trials that are nearest to it.

    The trials are drawn anew for each play, so that few of them that differ give plays that differ. A curve that ends
    early is continued: each doubling of the epochs gains a part of what the one before has gained, as a power law does.

    Args:
        epochs: where a trial reports.
    """

    def __init__(self, trials: Sequence[PastTrial], space: Space, epochs: Sequence[float], rng: random.Random) -> None:
        self._trials, self._space, self._epochs = rng.choices(trials, k=len(trials)), searched(space), np.array(epochs)
        self._places = np.array([features(trial.params, self._space) for trial in self._trials])
        self._rng = rng

    def curve(self, point: Mapping[str, Any]) -> Sequence[float]:
        away = np.abs(self._places - np.array(features(point, self._space))).sum(axis=1)
        chosen = self._trials[self._rng.choice(np.argsort(away, kind="stable")[:NEIGHBOURS].tolist())]
        return _continued(chosen, self._epochs).tolist()  # type: ignore[no-any-return]


def _continued(trial: PastTrial, epochs: np.ndarray) -> np.ndarray:
    """Return the values of a trial at these epochs."""
    known, last = np.interp(epochs, trial.epochs, trial.values), trial.epochs[-1]
    gain = trial.values[-1] - float(np.interp(last / 2, trial.epochs, trial.values))
    doublings = np.log2(np.maximum(epochs, last) / last)
    return np.asarray(known + gain * GAIN_LEFT * (1 - GAIN_LEFT**doublings) / (1 - GAIN_LEFT))
