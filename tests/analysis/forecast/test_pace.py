"""The pace of trials, fitted to those whose pace is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sweeper.analysis.forecast.pace import UNKNOWN_ERROR, Estimate
from sweeper.search.space import Point, Space, draw
from sweeper.spec import Sweep

SPACE = {
    "cell": {"type": "categorical", "choices": ["lstm", "gru"]},
    "units": {"type": "int", "low": 32, "high": 512, "log": True},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
}


@pytest.fixture
def space(make_sweep: Callable[..., Sweep]) -> Space:
    return make_sweep(space=SPACE).space


def seconds(point: Point) -> float:
    return (2.0 if point["cell"] == "lstm" else 1.0) * float(point["units"]) ** 1.5 / 1000  # type: ignore[arg-type]


def points(space: Space, count: int, seed: int = 0) -> list[Point]:
    rng = random.Random(seed)
    return [draw(space, rng) for _ in range(count)]


def error(space: Space, known: list[Point], estimate: Estimate) -> float:
    others = points(space, 50, seed=1)
    return sum(abs(estimate.of(point) / seconds(point) - 1) for point in others) / len(others)


def test_pace_of_other_trials_follows_from_their_parameters(space: Space) -> None:
    known = points(space, 30)
    estimate = Estimate(known, [seconds(point) for point in known], space)
    assert error(space, known, estimate) < 0.1 and estimate.error < 0.2


def test_known_work_needs_few_trials(space: Space) -> None:
    known = points(space, 4)
    paces = [3 * seconds(point) for point in known]  # another machine
    estimate = Estimate(known, paces, space, seconds)
    assert all(estimate.of(point) == pytest.approx(3 * seconds(point), rel=1e-3) for point in points(space, 20, seed=2))
    assert estimate.error < 0.01


def test_error_is_large_where_nothing_explains_the_pace(space: Space) -> None:
    rng, known = random.Random(0), points(space, 20)
    estimate = Estimate(known, [rng.lognormvariate(0, 0.5) for _ in known], space)
    assert 0.3 < estimate.error < 0.8


def test_one_trial_gives_its_pace_to_all_and_a_large_error(space: Space) -> None:
    (known,) = points(space, 1)
    estimate = Estimate([known], [2.0], space)
    assert estimate.of(points(space, 1, seed=3)[0]) == pytest.approx(2.0) and estimate.error == UNKNOWN_ERROR
