"""A search space against the hyperparameters its trainable declares: names, bounds, and whole points."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sweeper.core.schema import MAX_PROBLEMS, Problem, integral
from sweeper.core.text import did_you_mean, format_list, format_value
from sweeper.search.space import AnyDomain, Space, draw
from sweeper.spec.validation import rule

_DRAWS = 100


def check_hyperparameters(space: Mapping[str, AnyDomain | None], model: type[Any]) -> list[Problem]:
    """What the trainable would not accept of a space; None stands for a domain that could not be read."""
    declared = _declared(model)
    takes_any = issubclass(model, BaseModel) and model.model_config.get("extra") == "allow"
    unknown = [name for name in space if name not in declared and not takes_any]
    faults = [
        Problem((name,), f"{model.__name__} has no such hyperparameter. {did_you_mean(name, declared)}")
        for name in unknown[:MAX_PROBLEMS]
    ]
    missing = [name for name, is_required in declared.items() if is_required and name not in space]
    faults += [Problem((), f"{name} is missing; {model.__name__} needs a value for it") for name in missing]
    faults += [
        Problem((name,), "must be one value for the whole sweep: a worker cannot change it between trials")
        for name, domain in space.items()
        if domain is not None and name in _constants(model) and len(list(domain.bounds())) > 1
    ]
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    for name, domain in space.items():
        for key, value in domain.bounds() if domain and name in declared else ():
            if errors := _errors(adapter, {name: value}, name):
                faults.append(Problem((name, *key), rule(errors)))
    return faults


def check_points(space: Space, model: type[Any]) -> list[Problem]:
    """What no single bound shows: the first of some random points that the model refuses, told at its parameter."""
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    rng = random.Random(0)
    for point in (draw(space, rng) for _ in range(_DRAWS)):
        if errors := _errors(adapter, point):
            key = tuple(part for part in errors[0]["loc"][:1] if part in space)
            given = format_list([f"{name}: {format_value(value)}" for name, value in point.items()])
            return [Problem(key, f"{rule(errors[:1])} (as in the point {given})")]
    return []


def _declared(model: type[Any]) -> dict[str, bool]:
    """The names of the hyperparameters, and whether each must be given."""
    if issubclass(model, BaseModel):
        return {field.alias or name: field.is_required() for name, field in model.model_fields.items()}
    return {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(model)
        if field.init
    }


def _constants(model: type[Any]) -> set[str]:
    """The hyperparameters marked with `json_schema_extra={"constant": True}`: they may not vary within a sweep."""
    found = model.model_fields.items() if issubclass(model, BaseModel) else ()
    extras = {name: field.json_schema_extra for name, field in found}
    return {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("constant")}


def _errors(adapter: TypeAdapter[Any], point: Mapping[str, Any], name: str | None = None) -> list[ErrorDetails]:
    """What the model says of a point, read as strictly as a sweep file; with a name, what it says of that one."""
    values = {key: integral(value) for key, value in point.items()}
    try:
        adapter.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        return found if name is None else [details for details in found if details["loc"][:1] == (name,)]
    return []
