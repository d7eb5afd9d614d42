"""Resources of one trial: numbers, or expressions of its parameters."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, ValidationError

from sweeper.core.schema import Key, Number, Problem, StrictModel, dotted_key
from sweeper.core.text import did_you_mean, format_value
from sweeper.search.space import Point, Space, draw
from sweeper.spec.expressions import names_in, parsed, value_of
from sweeper.spec.validation import problems_of

MIN_AMOUNT = 0.0001
"""Smallest amount of a resource that Ray can count, except of memory."""


MAX_CORNERS = 1000
"""Corners of a space at which expressions are evaluated."""


RANDOM_POINTS = 100
"""Points inside a space at which expressions are evaluated."""


def _expression(text: str) -> str:
    parsed(text)
    return text


def _share_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus:g} GPUs cannot be given; use a share below 1, or whole GPUs: {math.ceil(gpus)}")
    return gpus


def _zero_or_countable(amount: float) -> float:
    if 0 < amount < MIN_AMOUNT:
        raise ValueError(f"{format_value(amount)} is too small to be counted; use 0, or at least {MIN_AMOUNT}")
    return amount


def _not_of_ray(name: str) -> str:
    if name in _KEYS_OF_RAY:
        raise ValueError(f"Ray counts {name} itself; {_KEYS_OF_RAY[name]}")
    if re.match("bundle|.*_group_", name):
        raise ValueError("Ray gives such names to the places that it reserves; choose another")
    return name


_Cpus = Annotated[Number, Field(ge=MIN_AMOUNT, le=4096)]


_Gpus = Annotated[Number, Field(ge=0, le=1024), AfterValidator(_share_or_whole), AfterValidator(_zero_or_countable)]


_Gigabytes = Annotated[Number, Field(gt=0, le=1e6)]


_Units = Annotated[Number, Field(ge=0, le=1e6), AfterValidator(_zero_or_countable)]


_Text = Annotated[str, StringConstraints(max_length=200), AfterValidator(_expression), Tag("expression")]


_Either = Discriminator(lambda value: "expression" if isinstance(value, str) else "number")


_Kind = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


_KEYS_OF_RAY = {
    "CPU": "use resources.cpus",
    "GPU": "use resources.gpus",
    "memory": "use resources.memory",
    "object_store_memory": "a trial cannot reserve any",
}


_Custom = Annotated[_Kind, AfterValidator(_not_of_ray)]


class TrialResources(StrictModel):
    """Resources of one trial, in numbers."""

    cpus: _Cpus = 1.0
    gpus: _Gpus = 0.0
    memory: _Gigabytes | None = None
    accelerator_type: str | None = None
    custom: dict[str, _Units] = Field(default_factory=dict)
    elastic: bool = True


class Resources(StrictModel):
    """Resources of one trial; each number may be an expression of the trial's parameters."""

    cpus: Annotated[Annotated[_Cpus, Tag("number")] | _Text, _Either] = Field(
        1.0, description="CPUs of one trial; also its number of threads."
    )
    gpus: Annotated[Annotated[_Gpus, Tag("number")] | _Text, _Either] = Field(
        0.0, description="GPUs of one trial; 0.5: two trials share a GPU. Or an expression: 1 if units > 512 else 0.25."
    )
    memory: Annotated[Annotated[_Gigabytes, Tag("number")] | _Text, _Either] | None = Field(
        None, description="GB of the node's memory reserved for one trial."
    )
    accelerator_type: _Kind | None = Field(None, description="Type of GPU, by its name in Ray: A100, H100, T4.")
    custom: dict[_Custom, Annotated[Annotated[_Units, Tag("number")] | _Text, _Either]] = Field(
        default_factory=dict, description="Other resources of the nodes, by the names they were started with."
    )
    elastic: bool = Field(True, description="Give CPUs that no other trial waits for to the trials that still run.")

    def for_trial(self, point: Mapping[str, Any]) -> TrialResources:
        """Return the resources of the trial with these parameters.

        Raises:
            ValueError: an expression cannot be computed, or its value is not allowed.
        """
        declared = self._evaluated(point)
        try:
            return TrialResources.model_validate(declared)
        except ValidationError as error:
            problem = problems_of(error, TrialResources, declared)[0]
            place = f"resources.{dotted_key(problem.key)} with {format_params(point)}"
            raise ValueError(f"{place}: {problem.message}") from error

    def _evaluated(self, point: Mapping[str, Any]) -> dict[str, Any]:
        declared: dict[str, Any] = {**dict(self), "custom": dict(self.custom)}
        for key, text in self._expressions():
            holder = declared["custom"] if key[0] == "custom" else declared
            holder[str(key[-1])] = _evaluate(text, point)
        return declared

    def _expressions(self) -> list[tuple[Key, str]]:
        found: dict[Key, object] = {(name,): getattr(self, name) for name in ("cpus", "gpus", "memory")}
        found |= {("custom", name): amount for name, amount in self.custom.items()}
        return [(key, text) for key, text in found.items() if isinstance(text, str)]

    def problems(self, space: Space) -> Iterator[Problem]:
        """Yield the problems of the expressions: unknown parameters, else the first point with a value not allowed."""
        of_names = list(self._problems_of_names(space))
        yield from of_names or self._problems_of_values(space)

    def _problems_of_names(self, space: Space) -> Iterator[Problem]:
        for key, text in self._expressions():
            for name in dict.fromkeys(names_in(parsed(text))):
                if name not in space:
                    hint = did_you_mean(name, space)
                    yield Problem(key, f"there is no parameter {format_value(name)} in the space. {hint}")
                elif space[name].when:
                    yield Problem(key, f"{name} is not used in some trials; use parameters that every trial has")

    def _problems_of_values(self, space: Space) -> Iterator[Problem]:
        for point in self._points(space):
            try:
                TrialResources.model_validate(self._evaluated(point))
            except ValidationError as error:
                for problem in problems_of(error, TrialResources, self._evaluated(point)):
                    yield Problem(problem.key, f"with {format_params(point)}: {problem.message}")
                return
            except ValueError as error:
                yield Problem(self._expressions()[0][0], str(error))
                return

    def corner_requests(self, space: Space) -> Iterator[tuple[TrialResources, Point]]:
        """Yield the different resources of trials at corners of the space, each with the parameters it follows from."""
        seen: list[TrialResources] = []
        for point in self._points(space):
            if (resources := self.for_trial(point)) not in seen:
                seen.append(resources)
                yield resources, point

    def _points(self, space: Space) -> Iterator[Point]:
        """Yield corners of the space and random points inside it, as the parameters that expressions use."""
        names = list(dict.fromkeys(name for _, text in self._expressions() for name in names_in(parsed(text))))
        values = [[value for _, value in space[name].bounds()] for name in names]
        yield from (dict(zip(names, corner, strict=True)) for corner in islice(product(*values), MAX_CORNERS))
        random_state = random.Random(0)
        for _ in range(RANDOM_POINTS if names else 0):
            point = draw(space, random_state)
            yield {name: point[name] for name in names}


def format_params(point: Mapping[str, Any]) -> str:
    """Return parameters as text for a message: units=64, cell=lstm."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def _evaluate(text: str, point: Mapping[str, Any]) -> Any:
    try:
        return value_of(parsed(text), point)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{format_value(text)} cannot be computed with {format_params(point)}: {error}") from error
