"""What everything that a sweep file declares is made of: frozen strict models, checked scalars, faults with a place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Key = tuple[str | int, ...]
"""A place in a sweep: `("space", "units", "low")`."""


class Model(BaseModel):
    """Frozen and strict: a quoted number is no number, True is no 1, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def whole(value: object) -> object:
    """3.0 is the whole number 3; anything else is what it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_LARGEST = 2**53
"""Whole numbers beyond it do not survive in JSON, nor in the databases that hold a study."""

Whole = Annotated[int, BeforeValidator(whole, json_schema_input_type=int), Field(ge=-_LARGEST, le=_LARGEST)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Scalar = str | bool | Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)] | Number | None


@dataclass(frozen=True)
class Fault:
    """What is wrong at a key: the value, the rule, and a proposal, in one sentence."""

    key: Key
    message: str


MOST_FAULTS = 100
"""Faults that one check looks for: more than anybody reads, few enough to be found at once."""


def refuse(found: Iterable[Fault]) -> None:
    """Raise what a pydantic validator may raise, if there is any fault; keys count from the validated object."""
    if faults := list(islice(found, MOST_FAULTS)):
        text = "; ".join(f"{dotted(fault.key)}: {fault.message}" if fault.key else fault.message for fault in faults)
        raise PydanticCustomError("faults", "{text}", {"text": text, "faults": tuple(faults)})


def dotted(key: Key) -> str:
    """A key as it is written: `space.units.low`, `enqueue[0].units`."""
    # Keys of a file may hold what a terminal obeys; repr() of text does not.
    names = [part if isinstance(part, int) or part.isprintable() and len(part) <= 80 else shown(part) for part in key]
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).removeprefix(".")


def identity(value: object) -> object:
    """What makes a scalar that scalar, to compare and to hash; to Python, True is 1."""
    return isinstance(value, bool), value


def same(one: object, other: object) -> bool:
    return identity(one) == identity(other)


def shown(value: object) -> str:
    """A value for a message: as YAML has it, cut to 60 characters, safe to print on a terminal."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(texts: Sequence[str]) -> str:
    """Texts for a message, the first 20 of them."""
    more = f" and {len(texts) - 20:,} more" if len(texts) > 20 else ""
    return f"{', '.join(texts[:20])}{more}" or "nothing"


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "Known") -> str:
    """`Did you mean 'units'?`, or what is known when nothing is near."""
    text, names = str(name), list(known)
    near = [known for known in names if len(text) > 1 and known.startswith(text)]
    if not near and len(names) <= 200 and len(text) <= 100:  # more would take longer than anybody waits
        near = difflib.get_close_matches(text, names)
    return f"Did you mean {shown(near[0])}?" if near else f"{otherwise}: {listed(names)}."
