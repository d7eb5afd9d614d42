"""The base of all declared models: strict and frozen, with problems that name their key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from sweeper.core.text import format_value

Key = tuple[str | int, ...]
"""A place in a sweep: `("space", "units", "low")`."""


class StrictModel(BaseModel):
    """Frozen and strict: a quoted number is no number, True is no 1, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def integral(value: object) -> object:
    """3.0 is the whole number 3; anything else is what it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MAX_INTEGER = 2**53
"""Whole numbers beyond it do not survive in JSON, nor in the databases that hold a study."""


Integer = Annotated[int, BeforeValidator(integral), Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]


Number = Annotated[float, Field(allow_inf_nan=False)]


Seed = Annotated[Integer, Field(ge=0, lt=2**32)]


Scalar = str | bool | Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | Number | None


@dataclass(frozen=True)
class Problem:
    """What is wrong at a key: the value, the rule, and a proposal, in one sentence."""

    key: Key
    message: str


MAX_PROBLEMS = 100
"""Faults that one check looks for: more than anybody reads, few enough to be found at once."""


def raise_problems(found: Iterable[Problem]) -> None:
    """Raise what a pydantic validator may raise, if there is any fault; keys count from the validated object."""
    if faults := list(islice(found, MAX_PROBLEMS)):
        text = "; ".join(
            f"{dotted_key(fault.key)}: {fault.message}" if fault.key else fault.message for fault in faults
        )
        raise PydanticCustomError("faults", "{text}", {"text": text, "faults": tuple(faults)})


def dotted_key(key: Key) -> str:
    """A key as it is written: `space.units.low`, `enqueue[0].units`."""
    # Keys of a file may hold what a terminal obeys; repr() of text does not.
    names = [
        part if isinstance(part, int) or part.isprintable() and len(part) <= 80 else format_value(part) for part in key
    ]
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).removeprefix(".")


def scalar_key(value: object) -> object:
    """What makes a scalar that scalar, to compare and to hash; to Python, True is 1."""
    return isinstance(value, bool), value


def scalars_equal(one: object, other: object) -> bool:
    return scalar_key(one) == scalar_key(other)
