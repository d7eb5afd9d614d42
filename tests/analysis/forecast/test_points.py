"""Points of a space as numbers, points like good ones, and the order in which points are measured."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sweeper.analysis.forecast.points import (
    features,
    like_the_good,
    number_at,
    points_to_measure,
    position,
    size_of,
    structure,
    varied,
)
from sweeper.search.space import Space, check_point, is_complete
from sweeper.spec import Sweep

SPACE = {
    "cell": {"type": "categorical", "choices": ["lstm", "gru"]},
    "units": {"type": "int", "low": 32, "high": 512, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.4, "step": 0.1},
    "forget_bias": {"type": "float", "low": 0.0, "high": 2.0, "when": {"cell": "lstm"}},
    "layers": 1,
}


@pytest.fixture
def space(make_sweep: Callable[..., Sweep]) -> Space:
    return make_sweep(space=SPACE).space


def test_position_and_number_are_inverse(space: Space) -> None:
    for name in ("units", "dropout", "forget_bias"):
        domain = space[name]
        for value in [value for _, value in domain.bounds()] + [domain.draw(random.Random(1))]:
            assert number_at(domain, position(domain, value)) == pytest.approx(value)  # type: ignore[arg-type]
    assert position(space["units"], 128) == pytest.approx(0.5)  # type: ignore[arg-type]


def test_parameter_that_is_not_used_is_as_far_from_all_values(space: Space) -> None:
    gru, lstm = ({"cell": cell, "units": 128, "dropout": 0.2} for cell in ("gru", "lstm"))
    assert features(gru, space) == pytest.approx([0, 1, 0, 0, 0])
    assert features(lstm | {"forget_bias": 2.0}, space) == pytest.approx([1, 0, 0, 0, 0.5])


def test_structure_is_what_is_no_number() -> None:
    one, other = (
        {"cell": "gru", "units": 32, "bidirectional": True},
        {"cell": "gru", "units": 64, "bidirectional": True},
    )
    assert structure(one) == structure(other) != structure(one | {"bidirectional": False})


def test_point_like_the_good_is_in_the_space_and_mostly_near(space: Space) -> None:
    rng = random.Random(0)
    good = [{"cell": "lstm", "units": 500, "dropout": 0.1, "forget_bias": 1.0, "layers": 1}]
    points = [like_the_good(good, space, rng) for _ in range(200)]
    assert all(is_complete(point, space) and not any(check_point(point, space)) for point in points)
    assert sum(point["cell"] == "lstm" for point in points) > 140
    assert sum(point["units"] > 300 for point in points) > 100  # type: ignore[operator]
    assert len({point["units"] for point in points}) > 30


def test_points_with_new_values_come_first(space: Space) -> None:
    same, other = {"cell": "gru", "units": 40, "dropout": 0.0}, {"cell": "lstm", "units": 400, "dropout": 0.4}
    assert varied([same, same, other], space) == [same, other, same]


def test_first_points_that_are_measured_have_all_choices_and_sizes(space: Space) -> None:
    points = points_to_measure(space, [], seed=0)
    assert {point["cell"] for point in points[:3]} == {"lstm", "gru"}
    assert {int(3 * position(space["units"], point["units"])) for point in points[:4]} >= {0, 1, 2}  # type: ignore[arg-type]
    assert points == points_to_measure(space, [], seed=0)


def test_size_is_counted_or_the_continuous_parameters_are_named(make_sweep: Callable[..., Sweep], space: Space) -> None:
    assert size_of(space) == (None, ["forget_bias"])
    assert size_of(make_sweep(space={"cell": SPACE["cell"], "dropout": SPACE["dropout"]}).space) == (10, [])
