"""Points of a space as numbers from 0 to 1, and points like those that a sampler with a model proposes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.search.domains import AnyDomain, Categorical, Float, Int, nearest_step
from sweeper.search.space import Point, Space, draw, grid_size

WIDE = 8.0
"""Ratio of the ends of a range from which on it is seen on a logarithmic scale, whatever the sampler does."""

GOOD_SHARE = 0.1
"""Share of the trials so far that TPE takes for the good ones; Optuna's own."""

FAITH = 0.7
"""Probability with which a parameter comes from a good trial. With it, the trials that TPE proposes on synthetic
curves, and these, cost the same."""

WIDTH = 0.1
"""Standard deviation of a number around that of the good trial, as a part of its range."""


def position(domain: Float | Int, value: Any) -> float:
    """Return where a number lies in its range: 0 is low, 1 is high."""
    scale = math.log if _is_wide(domain) else float
    low, high = scale(domain.low), scale(domain.high)
    return (scale(value) - low) / (high - low) if high > low else 0.5


def number_at(domain: Float | Int, place: float) -> float:
    """Return the number of a range that is nearest to a place in it."""
    place = min(1.0, max(0.0, place))
    low, high = float(domain.low), float(domain.high)
    value = low * (high / low) ** place if _is_wide(domain) else low + (high - low) * place
    value = min(high, max(low, value))
    return value if domain.step is None else nearest_step(value, domain.low, domain.high, domain.step)


def _is_wide(domain: Float | Int) -> bool:
    return domain.low > 0 and (domain.log or domain.high / domain.low >= WIDE)


def searched(space: Space) -> dict[str, AnyDomain]:
    """Return the parameters that have more than one value."""
    return {name: domain for name, domain in space.items() if domain.count() != 1}


def features(point: Mapping[str, Any], space: Space) -> list[float]:
    """Return a point as numbers: the place of each number in its range, and for each choice whether it is chosen.

    A parameter that the point does not use is as far from all as it can be: in the middle, and no choice at all.
    """
    return [number for name, domain in space.items() for number in _numbers(point, name, domain)]


def _numbers(point: Mapping[str, Any], name: str, domain: AnyDomain) -> Iterator[float]:
    if isinstance(domain, Float | Int):
        yield position(domain, point[name]) - 0.5 if name in point else 0.0
    elif isinstance(domain, Categorical):
        yield from (float(name in point and point[name] == choice) for choice in domain.choices)


def structure(point: Mapping[str, Any]) -> object:
    """Return what a point shares with those for which a compiled program can be used again: all but its numbers."""
    return frozenset((name, value) for name, value in point.items() if isinstance(value, str | bool | None))


def like_the_good(good: Sequence[Point], space: Space, rng: random.Random) -> Point:
    """Return a point near some good ones, as TPE proposes it: each parameter for itself, some from anywhere."""
    given: dict[str, Any] = {}
    for name, domain in searched(space).items():
        values = [point[name] for point in good if name in point]
        if not values or rng.random() > FAITH:
            continue
        value = rng.choice(values)
        if isinstance(domain, Float | Int):
            value = number_at(domain, rng.gauss(position(domain, value), WIDTH))
        given[name] = value
    return draw(space, rng, given)


def varied(points: Sequence[Point], space: Space) -> list[Point]:
    """Return the points in another order: each has the most that those before it have not.

    Compared are the choices, and the thirds of the ranges in which the numbers lie.
    """
    domains = searched(space)
    parts = [{(name, _part(domains[name], point[name])) for name in domains if name in point} for point in points]
    left, seen, order = list(range(len(points))), set[object](), list[int]()
    while left:
        first = max(left, key=lambda place: len(parts[place] - seen))
        if not parts[first] - seen:  # all was seen once: begin anew
            if not seen:
                return [points[place] for place in [*order, *left]]
            seen = set()
            continue
        left.remove(first)
        order.append(first)
        seen |= parts[first]
    return [points[place] for place in order]


def _part(domain: AnyDomain, value: Any) -> object:
    return min(2, int(3 * position(domain, value))) if isinstance(domain, Float | Int) else (type(value), value)


MEASURED_POOL = 100
"""Random points among which those to measure are chosen, beside the first proposals."""


def points_to_measure(space: Space, first: Sequence[Point], *, seed: int) -> list[Point]:
    """Return points, proposals and random ones, those first whose trials tell most about what a trial costs."""
    rng = random.Random(seed)
    return varied([*first, *(draw(space, rng) for _ in range(MEASURED_POOL))], space)


def size_of(space: Space) -> tuple[int | None, list[str]]:
    """Return the number of points of a space, None if it is infinite or cannot be counted, and what is continuous."""
    return grid_size(space), [name for name, domain in space.items() if domain.count() is None]
