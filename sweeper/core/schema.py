"""Base of all declared models: strict, frozen, with problems that name their key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from sweeper.core.text import format_value

Key = tuple[str | int, ...]
"""Path to a value of a sweep: `("space", "units", "low")`."""


class StrictModel(BaseModel):
    """Frozen and strict base class: a quoted number is not a number, True is not 1, an unknown key is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def integral(value: object) -> object:
    """Return 3 for 3.0, and any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MAX_INTEGER = 2**53
"""Largest integer; larger ones lose digits in JSON and in the databases of studies."""


Integer = Annotated[int, BeforeValidator(integral), Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]


Number = Annotated[float, Field(allow_inf_nan=False)]


Seed = Annotated[Integer, Field(ge=0, lt=2**32)]


Scalar = str | bool | Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | Number | None


@dataclass(frozen=True)
class Problem:
    """One problem at a key; the message has the value, the rule and a proposal, in one sentence."""

    key: Key
    message: str


MAX_PROBLEMS = 100
"""Problems that one check reports: more than anybody reads, and few enough to find quickly."""


def raise_problems(found: Iterable[Problem]) -> None:
    """Raise the problems as one error that pydantic accepts from a validator. Keys start at the validated object.

    Does nothing if there are no problems.
    """
    if problems := list(islice(found, MAX_PROBLEMS)):
        text = "; ".join(f"{dotted_key(item.key)}: {item.message}" if item.key else item.message for item in problems)
        raise PydanticCustomError("faults", "{text}", {"text": text, "faults": tuple(problems)})


def dotted_key(key: Key) -> str:
    """Return a key as users write it: `space.units.low`, `enqueue[0].units`."""
    # Keys of a file may contain terminal control codes; repr() of text does not.
    names = [
        part if isinstance(part, int) or part.isprintable() and len(part) <= 80 else format_value(part) for part in key
    ]
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).removeprefix(".")


def scalar_key(value: object) -> object:
    """Return a key that compares and hashes like the scalar, but tells True from 1."""
    return isinstance(value, bool), value


def scalars_equal(one: object, other: object) -> bool:
    """Return whether two scalars are equal, and both or neither is a bool."""
    return scalar_key(one) == scalar_key(other)


_BOUNDS = {
    "ge": ("minimum", max),
    "le": ("maximum", min),
    "gt": ("exclusiveMinimum", max),
    "lt": ("exclusiveMaximum", min),
}
"""Names of bounds in pydantic and in JSON Schema, and the function that returns the stricter of two bounds."""


def json_schema(model: type[StrictModel]) -> dict[str, Any]:
    """Return the JSON Schema of what a model declares, for editors."""
    schema = model.model_json_schema()
    schema["description"] = schema["description"].partition("\n\n")[0]
    for definition in schema["$defs"].values():  # an editor shows the class's docstring at its `type`
        definition["properties"].get("type", {}).setdefault("description", definition.get("description", ""))
    _rename_bounds(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _rename_bounds(schema: Any) -> None:
    """Give the bounds of integers the names that JSON Schema has for them.

    pydantic 2.14 writes its own names where a bound follows a BeforeValidator, as in `Integer`; editors
    ignore these. The bound cannot precede the validator: then 0 passes `ge=1`.
    """
    if isinstance(schema, list):
        for item in schema:
            _rename_bounds(item)
    elif isinstance(schema, dict):
        if schema.get("type") == "integer":
            for name, (standard, stricter) in _BOUNDS.items():
                if (bound := schema.pop(name, None)) is not None:
                    schema[standard] = stricter(bound, schema.get(standard, bound))
        for item in schema.values():
            _rename_bounds(item)
