"""The pace of trials, fitted to those whose pace is known."""

from __future__ import annotations

import random
import statistics
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


@pytest.mark.parametrize("is_work_known", [True, False])
def test_trials_that_ran_beside_other_programs_hardly_count(space: Space, is_work_known: bool) -> None:
    """A quarter of the trials is two to six times slower; a mean would make all of them 35 % slower."""
    some, ratios = points(space, 200, seed=1), list[float]()
    for seed in range(10):
        rng, known = random.Random(seed), points(space, 24, seed=seed)
        paces = [seconds(point) * rng.lognormvariate(0, 0.05) for point in known]
        for place in rng.sample(range(24), 6):
            paces[place] *= rng.uniform(2, 6)
        estimate = Estimate(known, paces, space, *([seconds] if is_work_known else []))
        ratios.append(sum(map(estimate.of, some)) / sum(map(seconds, some)))
    assert abs(statistics.mean(ratios) - 1) < 0.1 and all(0.7 < ratio < 1.3 for ratio in ratios)


def test_few_slow_trials_of_one_structure_are_no_disturbance(space: Space) -> None:
    known = [{"cell": "gru", "units": 64, "learning_rate": 0.01}] * 12 + [{"cell": "lstm", "units": 64}] * 3
    paces = [4.0 if point["cell"] == "lstm" else 1.0 for point in known]
    estimate = Estimate(known, paces, space)
    assert estimate.of({"cell": "lstm", "units": 64}) == pytest.approx(4.0, rel=0.2)
    assert estimate.of({"cell": "gru", "units": 64}) == pytest.approx(1.0, rel=0.1)


def test_error_is_large_where_nothing_explains_the_pace(space: Space) -> None:
    rng, known = random.Random(0), points(space, 20)
    estimate = Estimate(known, [rng.lognormvariate(0, 0.5) for _ in known], space)
    assert 0.3 < estimate.error < 0.8


def test_one_trial_gives_its_pace_to_all_and_a_large_error(space: Space) -> None:
    (known,) = points(space, 1)
    estimate = Estimate([known], [2.0], space)
    assert estimate.of(points(space, 1, seed=3)[0]) == pytest.approx(2.0) and estimate.error == UNKNOWN_ERROR
