"""What one parameter may be: a range of numbers, one of some values, a constant; and what that is to Optuna."""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sweeper.core.schema import Integer, Key, Number, Problem, Scalar, StrictModel, raise_problems, scalar_key
from sweeper.core.text import format_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
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
    """What every domain answers:

    is_active(point)    whether the parameter plays a part in a point
    contains(value)     whether the parameter can have this value
    normal(value)       such a value in the domain's own type
    count(), values()   how many values there are (None: no end of them), and all of them in order
    draw(rng)           any one value
    bounds()            the values as they were declared, each with its key
    suggest(), distribution()   what it is to Optuna; a constant is nothing to it
    """

    when: Conditions = Field(
        default_factory=dict, description="Used only with such values of others: {optimizer: sgd}."
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
    log: bool = Field(False, description="Search the logarithm: for values that differ by orders of magnitude.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        faults = []
        if self.low > self.high:
            faults.append(Problem(("low",), f"{self.low} is above high: {self.high}; swap them"))
        if not math.isfinite(self.high - self.low):
            faults.append(Problem(("low",), f"{self.low} to {self.high} is too wide for floating-point numbers"))
        if self.log and self.low <= 0:
            proposal = 1 if isinstance(self.low, int) else "1e-5"
            faults.append(Problem(("low",), f"{self.low} is not allowed with log: true, must be > 0; try {proposal}"))
        if not faults and self.step is not None:
            faults += self._faults_of_step(self.step)
        raise_problems(faults)
        return self

    def _faults_of_step(self, step: float) -> list[Problem]:
        if self.log:
            wrong = isinstance(self.step, float) or step != 1
            return [Problem(("step",), f"{step} is not allowed with log: true; leave one of the two out")] * wrong
        low, high, width = _as_fractions(self.low, self.high, step)
        if isinstance(self.step, float) and (high - low) / width > MAX_STEPS:
            return [Problem(("step",), f"{step} is too small for steps from {self.low} to {self.high}; leave it out")]
        if (high - low) % width:
            last = type(self.high)(low + (high - low) // width * width)
            return [Problem(("step",), f"{step} does not lead from {self.low} to {self.high}; it does to high: {last}")]
        return []

    def contains(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-8)

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
        return type(self.low)(value)

    def bounds(self) -> list[tuple[Key, Value]]:
        return [(("low",), self.low), (("high",), self.high)]


MAX_STEPS = 10**15
"""Of more, a floating-point number and Optuna's decimals would lose count."""


def _as_fractions(*numbers: float) -> list[Fraction]:
    """What was written, as decimals: 0.3 is three steps of 0.1 only there."""
    return [Fraction(str(number)) for number in numbers]


class Float(_Range):
    """Real numbers from low to high, both included."""

    type: Literal["float"] = "float"
    low: Number = Field(description="The least value.")
    high: Number = Field(description="The greatest value.")
    step: Annotated[Number, Field(gt=0)] | None = Field(None, description="Only low, low + step, low + 2 step, ...")

    def draw(self, rng: random.Random) -> Value:
        if self.step is not None:
            return self._value(rng.randrange(self.count() or 1))
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return min(self.high, max(self.low, drawn))
        return rng.uniform(self.low, self.high)

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


class Int(_Range):
    """Whole numbers from low to high, both included."""

    type: Literal["int"] = "int"
    low: Integer = Field(description="The least value.")
    high: Integer = Field(description="The greatest value.")
    step: Annotated[Integer, Field(gt=0)] = Field(1, description="Only low, low + step, low + 2 step, ...")

    def draw(self, rng: random.Random) -> Value:
        return self._value(rng.randrange(self.count() or 1))

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)


class _Choice(_Domain):
    @property
    @abstractmethod
    def _values(self) -> tuple[Value, ...]: ...

    @cached_property
    def _by_identity(self) -> dict[object, Value]:
        return {scalar_key(value): value for value in self._values}

    def contains(self, value: object) -> bool:
        return isinstance(value, Value) and scalar_key(value) in self._by_identity

    def count(self) -> int:
        return len(self._values)

    def values(self) -> Iterator[Value]:
        return iter(self._values)

    def normal(self, value: Value) -> Value:
        return self._by_identity[scalar_key(value)]

    def draw(self, rng: random.Random) -> Value:
        return rng.choice(self._values)


class Categorical(_Choice):
    """One of some values that have no order."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)] = Field(
        description="The values: all text, all numbers, or true and false; null beside any."
    )

    @property
    def _values(self) -> tuple[Value, ...]:
        return self.choices

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        faults = []
        seen: set[object] = set()
        for i, choice in enumerate(self.choices):
            if scalar_key(choice) in seen:
                faults.append(Problem(("choices", i), f"{format_value(choice)} is there already; give each value once"))
            seen.add(scalar_key(choice))
        kinds = " and ".join(sorted({_kind(choice) for choice in self.choices if choice is not None}))
        if " and " in kinds:
            faults.append(Problem(("choices",), f"mixes {kinds}; use one kind (quoted, all is text)"))
        raise_problems(faults)
        return self

    def bounds(self) -> list[tuple[Key, Value]]:
        return [(("choices", i), choice) for i, choice in enumerate(self.choices)]

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return trial.suggest_categorical(name, self.choices)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)


def _kind(value: Value) -> str:
    return "true/false" if isinstance(value, bool) else "text" if isinstance(value, str) else "numbers"


class Constant(_Choice):
    """A value that is the same in all trials; a plain `cell: lstm` is short for it."""

    type: Literal["constant"] = "constant"
    value: Scalar = Field(description="The value.")

    @property
    def _values(self) -> tuple[Value, ...]:
        return (self.value,)

    def bounds(self) -> list[tuple[Key, Value]]:
        return [((), self.value)]

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return self.value

    def distribution(self) -> None:
        return None


def _constant(declared: Any) -> Any:
    """A plain value is a constant."""
    return {"type": "constant", "value": declared} if isinstance(declared, str | int | float | None) else declared


AnyDomain = Float | Int | Categorical | Constant


_Tagged = Annotated[AnyDomain, Field(discriminator="type")]


Domain = Annotated[_Tagged, BeforeValidator(_constant, json_schema_input_type=_Tagged | Scalar)]
