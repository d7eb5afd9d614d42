"""The search space: parameters, conditions between them, and the points that they form."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

from sweeper.core.schema import Problem, scalar_key, scalars_equal
from sweeper.core.text import did_you_mean, format_list, format_value
from sweeper.search.domains import AnyDomain, Categorical, Constant, Domain, Float, Int, Value

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = ["AnyDomain", "Categorical", "Constant", "Domain", "Float", "Int", "Point", "Space"]


Space = Mapping[str, AnyDomain]


Point = dict[str, Value]


GRID_LIMIT = 10_000


MAX_NAME_CHARS = 64


def suggest(trial: BaseTrial, space: Space) -> Point:
    """Return the parameters that Optuna chooses for a trial, and the constants, in the order of the space.

    Parameters whose conditions do not hold are left out. A second call for the same trial, also after the sweep was
    resumed, returns the same values.
    """
    point: Point = {}
    for name in _parents_first(space):
        if space[name].is_active(point):
            point[name] = space[name].suggest(trial, name)
    return _in_order(point, space)


def recorded(params: Mapping[str, Value], space: Space) -> Point | None:
    """Return what `suggest` returns for a trial that has these parameters; None if one of them is missing.

    `suggest` compares each distribution with the recorded one, and a study has many trials.
    """
    point: Point = {}
    for name in _parents_first(space):
        domain = space[name]
        if not domain.is_active(point):
            continue
        if isinstance(domain, Constant):
            point[name] = domain.value
        elif name in params:
            point[name] = domain.normal(params[name]) if isinstance(domain, Float) else params[name]
        else:
            return None
    return _in_order(point, space)


def point_key(point: Mapping[str, Value]) -> object:
    """Return a key that is equal for equal points. Old studies have 0.30000000000000004 where the space has 0.3."""
    return frozenset(
        (name, scalar_key(float(f"{value:.12g}") if isinstance(value, float) else value))
        for name, value in point.items()
    )


def is_complete(point: Mapping[str, Value], space: Space) -> bool:
    """Return whether a point has every parameter that it uses."""
    return all(name in point for name, domain in space.items() if domain.is_active(point))


def draw(space: Space, rng: random.Random, given: Mapping[str, Value] | None = None) -> Point:
    """Return a random point of the space.

    Args:
        given: values of some parameters, which the point has where it uses these parameters.
    """
    point: Point = {}
    for name in _parents_first(space):
        if space[name].is_active(point):
            point[name] = given[name] if given and name in given else space[name].draw(rng)
    return _in_order(point, space)


def grid_size(space: Space) -> int | None:
    """Return the number of points; None if it is infinite or, with conditions, larger than `GRID_LIMIT`."""
    counts = {name: count for name, domain in space.items() if (count := domain.count()) is not None}
    if len(counts) < len(space):
        return None
    linked = {name for child, domain in space.items() if domain.when for name in (child, *domain.when)}
    try:
        points = len(grid({name: space[name] for name in space if name in linked}))
    except ValueError:
        return None
    return points * prod(count for name, count in counts.items() if name not in linked)


def grid(space: Space) -> list[Point]:
    """Return every point of the space once; the values of a parameter that a point does not use add no points.

    Raises:
        ValueError: there are more than `GRID_LIMIT` points. They are counted before they are made.
    """
    points: list[Point] = [{}]
    for name in _parents_first(space):
        domain, count = space[name], space[name].count()
        active = [domain.is_active(point) for point in points]
        if count is None or len(points) + sum(active) * (count - 1) > GRID_LIMIT:
            raise ValueError(f"the grid has more than {GRID_LIMIT:,} points")
        values = list(domain.values()) if any(active) else []
        points = list(
            chain.from_iterable(
                [{**point, name: value} for value in values] if is_active else [point]
                for point, is_active in zip(points, active, strict=True)
            )
        )
    return [_in_order(point, space) for point in points]


def check_space(space: Mapping[str, AnyDomain | None]) -> Iterator[Problem]:
    """Yield the problems of names and conditions; None stands for a domain that could not be read."""
    yield from (Problem((name,), message) for name in space if (message := _problem_of_name(name)))
    for name, domain in space.items():
        for parent, values in domain.when.items() if domain else ():
            yield from (Problem((name, "when", parent), text) for text in _problems_of_parent(parent, values, space))
    yield from _problems_of_circles(space)


def _problem_of_name(name: str) -> str | None:
    if not name.isidentifier() or unicodedata.normalize("NFC", name) != name:
        return f"{format_value(name)} is not a name of a parameter; use letters, digits and _"
    return f"is longer than {MAX_NAME_CHARS} characters" if len(name) > MAX_NAME_CHARS else None


def _problems_of_parent(parent: str, values: Iterable[Value], space: Mapping[str, AnyDomain | None]) -> list[str]:
    if parent not in space:
        return [f"there is no parameter {format_value(parent)} in this space. {did_you_mean(parent, space)}"]
    domain = space[parent]
    if domain is None:
        return []
    problems = []
    for value in values:
        if not domain.contains(value):
            problems.append(f"{parent} is never {format_value(value)}, only {_allowed(domain)}")
        elif (normal := domain.normal(value)) != value:
            problems.append(f"{parent} is never exactly {format_value(value)}; write {format_value(normal)}")
    return problems


def _allowed(domain: AnyDomain) -> str:
    if isinstance(domain, Float | Int):
        return f"{domain.low} to {domain.high}" + (
            f" in steps of {domain.step}" if domain.step not in (None, 1) else ""
        )
    return format_list([format_value(value) for _, value in domain.bounds()])


def _problems_of_circles(space: Mapping[str, AnyDomain | None]) -> list[Problem]:
    try:
        TopologicalSorter({name: domain.when if domain else () for name, domain in space.items()}).prepare()
    except CycleError as error:
        circle = error.args[1]
        message = f"the conditions form a circle: {' <- '.join(_shortened(circle))}; remove one of them"
        return [Problem((circle[0], "when"), message)]
    return []


def _shortened(circle: list[str]) -> list[str]:
    return circle if len(circle) <= 10 else [*circle[:8], "...", circle[-1]]


def check_point(point: Mapping[str, object], space: Space) -> Iterator[Problem]:
    """Yield the problems of a start point, which may leave parameters out."""
    for name, value in point.items():
        if name not in space:
            yield Problem((name,), f"there is no such parameter in the space. {did_you_mean(name, space)}")
        elif not space[name].contains(value):
            yield Problem((name,), f"{format_value(value)} is not in the space, which has {_allowed(space[name])}")
        else:
            for parent, values in space[name].when.items():
                if not _parent_matches(point, space, parent, values):
                    needed = " or ".join(format_value(value) for value in values)
                    message = f"is used only when {parent} is {needed}; add {parent}, or leave this out"
                    yield Problem((name,), message)


def _parent_matches(point: Mapping[str, object], space: Space, parent: str, values: Iterable[Value]) -> bool:
    domain = space[parent]
    given = point.get(parent, domain.value if isinstance(domain, Constant) else _MISSING)
    return any(scalars_equal(given, value) for value in values)


_MISSING = object()


def normalized(point: Mapping[str, Value], space: Space) -> Point:
    """Return a checked start point as the study keeps it: values in the types of their domains, no constants."""
    return {name: space[name].normal(v) for name, v in point.items() if not isinstance(space[name], Constant)}


def suspicious_settings(space: Space) -> list[str]:
    """Return messages about domains that are allowed and still look like mistakes."""
    return [
        f"space.{name} has one value only; write {name}: {format_value(next(domain.values()))}"
        for name, domain in space.items()
        if not isinstance(domain, Constant) and domain.count() == 1
    ]


def _parents_first(space: Space) -> list[str]:
    """Return the names in the order of the space, but each after the parameters that its conditions name."""
    ordered: dict[str, None] = {}
    for start in space:
        todo = [start]
        while todo:
            parents = [parent for parent in space[todo[-1]].when if parent not in ordered]
            if parents:
                todo.append(parents[0])
            else:
                ordered[todo.pop()] = None
    return list(ordered)


def _in_order(point: Point, space: Space) -> Point:
    return {name: point[name] for name in space if name in point}
