"""What one trial has to itself: numbers, or expressions of its parameters."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, ValidationError

from sweeper.core.schema import Key, Number, Problem, StrictModel, dotted_key
from sweeper.core.text import did_you_mean, format_value
from sweeper.search.space import Point, Space, draw
from sweeper.spec.expressions import names_in, parsed, value_of
from sweeper.spec.validation import problems_of

_CORNERS = 1000
"""Corners of a space at which expressions are tried, at most."""


_WITHIN = 100
"""Points within it."""


def _expression(text: str) -> str:
    parsed(text)
    return text


def _share_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus:g} GPUs cannot be given; use a share below 1, or whole ones: {math.ceil(gpus)}")
    return gpus


_Cpus = Annotated[Number, Field(gt=0, le=4096)]


_Gpus = Annotated[Number, Field(ge=0, le=1024), AfterValidator(_share_or_whole)]


_Gigabytes = Annotated[Number, Field(gt=0, le=1e6)]


_Units = Annotated[Number, Field(ge=0, le=1e6)]


_Text = Annotated[str, StringConstraints(max_length=200), AfterValidator(_expression), Tag("expression")]


_Either = Discriminator(lambda value: "expression" if isinstance(value, str) else "number")


_Kind = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class TrialResources(StrictModel):
    """What one trial has to itself, in numbers."""

    cpus: _Cpus = 1.0
    gpus: _Gpus = 0.0
    memory: _Gigabytes | None = None
    accelerator_type: str | None = None
    custom: dict[str, _Units] = Field(default_factory=dict)


class Resources(StrictModel):
    """What one trial has to itself; each number may be an expression of its parameters."""

    cpus: Annotated[Annotated[_Cpus, Tag("number")] | _Text, _Either] = Field(
        1.0, description="CPUs, and so threads, of one trial."
    )
    gpus: Annotated[Annotated[_Gpus, Tag("number")] | _Text, _Either] = Field(
        0.0, description="GPUs of one trial; 0.5: two share one. Or an expression: 1 if units > 512 else 0.25."
    )
    memory: Annotated[Annotated[_Gigabytes, Tag("number")] | _Text, _Either] | None = Field(
        None, description="GB of a node's memory that are set apart for one trial."
    )
    accelerator_type: _Kind | None = Field(None, description="The kind of GPU, as Ray calls it: A100, H100, T4.")
    custom: dict[_Kind, Annotated[Annotated[_Units, Tag("number")] | _Text, _Either]] = Field(
        default_factory=dict, description="What else a node must have, by the names that it was started with."
    )

    def for_trial(self, point: Mapping[str, Any]) -> TrialResources:
        """What the trial with these parameters has.

        Raises:
            ValueError: an expression gives what no trial can have.
        """
        given = self._given(point)
        try:
            return TrialResources.model_validate(given)
        except ValidationError as error:
            fault = problems_of(error, TrialResources, given)[0]
            raise ValueError(
                f"resources.{dotted_key(fault.key)} with {format_params(point)}: {fault.message}"
            ) from error

    def _given(self, point: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {**dict(self), "custom": dict(self.custom)}
        for key, text in self._expressions():
            holder = given["custom"] if key[0] == "custom" else given
            holder[str(key[-1])] = _evaluate(text, point)
        return given

    def _expressions(self) -> list[tuple[Key, str]]:
        found: dict[Key, object] = {(name,): getattr(self, name) for name in ("cpus", "gpus", "memory")}
        found |= {("custom", name): amount for name, amount in self.custom.items()}
        return [(key, text) for key, text in found.items() if isinstance(text, str)]

    def problems(self, space: Space) -> Iterator[Problem]:
        """What is wrong with the expressions, in this space."""
        is_sound = True
        for key, text in self._expressions():
            for name in dict.fromkeys(names_in(parsed(text))):
                if name not in space:
                    is_sound = False
                    yield Problem(
                        key, f"there is no parameter {format_value(name)} in the space. {did_you_mean(name, space)}"
                    )
                elif space[name].when:
                    is_sound = False
                    yield Problem(key, f"{name} plays no part in some trials; use parameters that every trial has")
        for point in self._points(space) if is_sound else ():
            try:
                TrialResources.model_validate(self._given(point))
            except ValidationError as error:
                for fault in problems_of(error, TrialResources, self._given(point)):
                    yield Problem(fault.key, f"with {format_params(point)}: {fault.message}")
                return
            except ValueError as error:
                yield Problem(self._expressions()[0][0], str(error))
                return

    def corner_requests(self, space: Space) -> Iterator[tuple[TrialResources, Point]]:
        """What trials have at the corners of the space, each with the parameters that it follows from."""
        seen: list[TrialResources] = []
        for point in self._points(space):
            if (share := self.for_trial(point)) not in seen:
                seen.append(share)
                yield share, point

    def _points(self, space: Space) -> Iterator[Point]:
        """The corners of the space, as far as expressions look at it, and some points within."""
        names = list(dict.fromkeys(name for _, text in self._expressions() for name in names_in(parsed(text))))
        values = [[value for _, value in space[name].bounds()] for name in names]
        yield from (dict(zip(names, corner, strict=True)) for corner in islice(product(*values), _CORNERS))
        random_state = random.Random(0)
        for _ in range(_WITHIN if names else 0):
            point = draw(space, random_state)
            yield {name: point[name] for name in names}


def format_params(point: Mapping[str, Any]) -> str:
    """Parameters as a sentence has them: units=64, cell=lstm."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def _evaluate(text: str, point: Mapping[str, Any]) -> Any:
    try:
        return value_of(parsed(text), point)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{format_value(text)} cannot be computed with {format_params(point)}: {error}") from error
