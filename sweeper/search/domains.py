"""Domains of one parameter: a range of numbers, one of several values, a constant."""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sweeper.core.schema import Integer, Key, Number, Problem, Scalar, StrictModel, raise_problems, scalar_key
from sweeper.core.text import format_value

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Value = str | int | float | bool | None


def _tuples(when: object) -> object:
    if not isinstance(when, dict):
        return when
    return {name: values if isinstance(values, list | tuple) else (values,) for name, values in when.items()}


Conditions = Annotated[
    dict[str, Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)]],
    BeforeValidator(_tuples, json_schema_input_type=dict[str, Scalar | Annotated[list[Scalar], Field(min_length=1)]]),
]


class _Domain(StrictModel):
    """Base of all domains, which have these methods:

    is_active(point)      returns whether the parameter is used in a point
    contains(value)       returns whether the parameter can have this value
    normal(value)         returns such a value in the domain's own type, a step as the decimal that was written
    count(), values()     return the number of values (None: infinitely many), and all of them in order
    draw(rng)             returns a random value
    bounds()              returns the values as they were declared, each with its key
    suggest(trial, name)  returns the value that Optuna chooses for a trial
    """

    when: Conditions = Field(
        default_factory=dict,
        description="Use this parameter only when others have these values, as in {optimizer: sgd}.",
    )

    @cached_property
    def _conditions(self) -> dict[str, set[object]]:
        return {parent: {scalar_key(value) for value in values} for parent, values in self.when.items()}

    def is_active(self, point: Mapping[str, Value]) -> bool:
        return all(name in point and scalar_key(point[name]) in wanted for name, wanted in self._conditions.items())


class _Range(_Domain):
    low: float
    high: float
    step: float | None
    log: bool = Field(False, description="Search on a logarithmic scale.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        problems = []
        if self.low > self.high:
            problems.append(Problem(("low",), f"{self.low} is above high: {self.high}; swap them"))
        if not math.isfinite(self.high - self.low):
            problems.append(Problem(("low",), f"{self.low} to {self.high} is too wide for floating-point numbers"))
        if self.log and self.low <= 0:
            proposal = 1 if isinstance(self.low, int) else "1e-5"
            problems.append(Problem(("low",), f"{self.low} must be > 0 with log: true; try {proposal}"))
        if not problems and self.step is not None:
            problems += self._problems_of_step(self.step)
        raise_problems(problems)
        return self

    def _problems_of_step(self, step: float) -> list[Problem]:
        if self.log:
            wrong = isinstance(self.step, float) or step != 1
            return [Problem(("step",), f"{step} is not allowed with log: true; leave one of the two out")] * wrong
        low, high, width = _as_fractions(self.low, self.high, step)
        if isinstance(self.step, float) and (high - low) / width > MAX_STEPS:
            return [Problem(("step",), f"{step} is too small for steps from {self.low} to {self.high}; leave it out")]
        if (high - low) % width:
            last = type(self.high)(low + (high - low) // width * width)
            return [Problem(("step",), f"steps of {step} from {self.low} do not reach {self.high}; use high: {last}")]
        return []

    def contains(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.step is None:
            return self.low <= value <= self.high
        nearest = nearest_step(value, self.low, self.high, self.step)
        if isinstance(self.step, int):
            return nearest == value
        return math.isclose(nearest, value, rel_tol=1e-12, abs_tol=1e-9 * self.step)

    def count(self) -> int | None:
        if self.low == self.high:
            return 1
        if self.step is None:
            return None
        low, high, width = _as_fractions(self.low, self.high, self.step)
        return int((high - low) / width) + 1

    def values(self) -> Iterator[Value]:
        return map(self._value, range(self.count() or 0))

    def _value(self, index: int) -> Value:
        low, width = _as_fractions(self.low, self.step or 0)
        return type(self.low)(low + index * width)

    def normal(self, value: Value) -> Value:
        assert isinstance(value, int | float)
        return type(self.low)(
            nearest_step(value, self.low, self.high, self.step) if isinstance(self.step, float) else value
        )

    def bounds(self) -> list[tuple[Key, Value]]:
        return [(("low",), self.low), (("high",), self.high)]


MAX_STEPS = 10**15
"""Largest number of steps that floating-point numbers and Optuna's decimals count exactly."""


def _as_fractions(*numbers: float) -> list[Fraction]:
    """Return numbers as the decimals that were written: only so is 0.3 exactly three steps of 0.1."""
    return [Fraction(str(number)) for number in numbers]


@lru_cache(maxsize=4096)  # a study of 10,000 trials has the same few values again and again
def nearest_step(value: float, low: float, high: float, step: float) -> float:
    """Return the allowed value that is nearest to `value`, as the decimal that people write.

    Optuna computes `low + index * step` in floating-point numbers: 0.1 + 2 * 0.1 is 0.30000000000000004 there.
    """
    first, last, width = _as_fractions(low, high, step)
    index = min(max(round((Fraction(value) - first) / width), 0), int((last - first) / width))
    return type(low)(first + index * width)


class Float(_Range):
    """Real numbers from low to high, both included."""

    type: Literal["float"] = "float"
    low: Number = Field(description="Lowest value.")
    high: Number = Field(description="Highest value.")
    step: Annotated[Number, Field(gt=0)] | None = Field(
        None, description="Distance between allowed values, counted from low."
    )

    def draw(self, rng: random.Random) -> Value:
        if self.step is not None:
            return self._value(rng.randrange(self.count() or 1))
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return min(self.high, max(self.low, drawn))
        return rng.uniform(self.low, self.high)

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return self.normal(trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step))


class Int(_Range):
    """Whole numbers from low to high, both included."""

    type: Literal["int"] = "int"
    low: Integer = Field(description="Lowest value.")
    high: Integer = Field(description="Highest value.")
    step: Annotated[Integer, Field(gt=0)] = Field(1, description="Distance between allowed values, counted from low.")

    def draw(self, rng: random.Random) -> Value:
        return self._value(rng.randrange(self.count() or 1))

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)


class _Choice(_Domain):
    @property
    @abstractmethod
    def _values(self) -> tuple[Value, ...]: ...

    @cached_property
    def _by_key(self) -> dict[object, Value]:
        return {scalar_key(value): value for value in self._values}

    def contains(self, value: object) -> bool:
        return isinstance(value, Value) and scalar_key(value) in self._by_key

    def count(self) -> int:
        return len(self._values)

    def values(self) -> Iterator[Value]:
        return iter(self._values)

    def normal(self, value: Value) -> Value:
        return self._by_key[scalar_key(value)]

    def draw(self, rng: random.Random) -> Value:
        return rng.choice(self._values)


class Categorical(_Choice):
    """One of several values without an order."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)] = Field(
        description="Values of one kind (text, numbers, or true and false); null may be added to any."
    )

    @property
    def _values(self) -> tuple[Value, ...]:
        return self.choices

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        problems = []
        seen: set[object] = set()
        for i, choice in enumerate(self.choices):
            if scalar_key(choice) in seen:
                problems.append(Problem(("choices", i), f"{format_value(choice)} is repeated; give each value once"))
            seen.add(scalar_key(choice))
        kinds = " and ".join(sorted({_kind(choice) for choice in self.choices if choice is not None}))
        if " and " in kinds:
            problems.append(Problem(("choices",), f"mixes {kinds}; use one kind (in quotes, every value is text)"))
        raise_problems(problems)
        return self

    def bounds(self) -> list[tuple[Key, Value]]:
        return [(("choices", i), choice) for i, choice in enumerate(self.choices)]

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return trial.suggest_categorical(name, self.choices)


def _kind(value: Value) -> str:
    return "true/false" if isinstance(value, bool) else "text" if isinstance(value, str) else "numbers"


class Constant(_Choice):
    """A value that is the same in all trials; `cell: lstm` is short for it."""

    type: Literal["constant"] = "constant"
    value: Scalar = Field(description="Value in all trials.")

    @property
    def _values(self) -> tuple[Value, ...]:
        return (self.value,)

    def bounds(self) -> list[tuple[Key, Value]]:
        return [((), self.value)]

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return self.value


def _constant(declared: Any) -> Any:
    """Return a plain value as a constant."""
    return {"type": "constant", "value": declared} if isinstance(declared, str | int | float | None) else declared


AnyDomain = Float | Int | Categorical | Constant


_Tagged = Annotated[AnyDomain, Field(discriminator="type")]


Domain = Annotated[_Tagged, BeforeValidator(_constant, json_schema_input_type=_Tagged | Scalar)]
