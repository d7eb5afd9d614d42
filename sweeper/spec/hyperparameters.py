"""Comparison of a search space with the hyperparameters that its trainable declares: names, bounds, whole points."""

from __future__ import annotations

import json
import random
from collections.abc import Container, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from sweeper.core.schema import MAX_PROBLEMS, Problem, integral
from sweeper.core.text import did_you_mean, format_list, format_value
from sweeper.search.space import AnyDomain, Space, draw
from sweeper.spec.validation import rule

RANDOM_POINTS = 100


def check_hyperparameters(space: Mapping[str, AnyDomain | None], model: type[Any]) -> list[Problem]:
    """Return what the trainable does not accept of a space; None stands for a domain that could not be read."""
    declared = _declared(model)
    return [
        *_unknown_names(space, model, declared),
        *_missing_names(space, model, declared),
        *_constants_that_vary(space, model),
        *_values_out_of_bounds(space, model, declared),
    ]


def _unknown_names(space: Iterable[str], model: type[Any], declared: Mapping[str, bool]) -> list[Problem]:
    if issubclass(model, BaseModel) and model.model_config.get("extra") == "allow":
        return []
    unknown = [name for name in space if name not in declared]
    return [
        Problem((name,), f"{model.__name__} has no such hyperparameter. {did_you_mean(name, declared)}")
        for name in unknown[:MAX_PROBLEMS]
    ]


def _missing_names(space: Container[str], model: type[Any], declared: Mapping[str, bool]) -> list[Problem]:
    missing = [name for name, is_required in declared.items() if is_required and name not in space]
    return [Problem((), f"{name} is missing; {model.__name__} needs a value for it") for name in missing]


def _constants_that_vary(space: Mapping[str, AnyDomain | None], model: type[Any]) -> list[Problem]:
    constants = _constants(model)
    return [
        Problem((name,), "must be one value for the whole sweep: a worker cannot change it between trials")
        for name, domain in space.items()
        if domain is not None and name in constants and len(list(domain.bounds())) > 1
    ]


def _values_out_of_bounds(
    space: Mapping[str, AnyDomain | None], model: type[Any], declared: Container[str]
) -> list[Problem]:
    problems = []
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    for name, domain in space.items():
        for key, value in domain.bounds() if domain and name in declared else ():
            if errors := _errors(adapter, {name: value}, name):
                problems.append(Problem((name, *key), rule(errors)))
    return problems


def check_points(space: Space, model: type[Any]) -> list[Problem]:
    """Return the first problem that the model reports for 100 random points, attached to its parameter.

    It finds what no single bound shows: parameters that do not go together.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    rng = random.Random(0)
    for point in (draw(space, rng) for _ in range(RANDOM_POINTS)):
        if errors := _errors(adapter, point):
            key = tuple(part for part in errors[0]["loc"][:1] if part in space)
            given = format_list([f"{name}: {format_value(value)}" for name, value in point.items()])
            return [Problem(key, f"{rule(errors[:1])} (as in the point {given})")]
    return []


def _declared(model: type[Any]) -> dict[str, bool]:
    """Return the names of the hyperparameters, and whether each is required."""
    if issubclass(model, BaseModel):
        return {field.alias or name: field.is_required() for name, field in model.model_fields.items()}
    return {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(model)
        if field.init
    }


def default_values(model: type[Any]) -> dict[str, Any]:
    """Return the hyperparameters that a space may leave out, with the values that they then have."""
    if issubclass(model, BaseModel):
        declared = {field.alias or name: field for name, field in model.model_fields.items()}
        return {name: field.get_default() for name, field in declared.items() if field.default is not PydanticUndefined}
    return {field.name: field.default for field in fields(model) if field.init and field.default is not MISSING}


def _constants(model: type[Any]) -> set[str]:
    """Return the hyperparameters marked with `json_schema_extra={"constant": True}`, which may not vary in a sweep."""
    found = model.model_fields.items() if issubclass(model, BaseModel) else ()
    extras = {name: field.json_schema_extra for name, field in found}
    return {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("constant")}


def _errors(adapter: TypeAdapter[Any], point: Mapping[str, Any], name: str | None = None) -> list[ErrorDetails]:
    """Return the errors of a point, read as strictly as a sweep file; with a name, only those of that parameter."""
    values = {key: integral(value) for key, value in point.items()}
    try:
        adapter.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        return found if name is None else [details for details in found if details["loc"][:1] == (name,)]
    return []
