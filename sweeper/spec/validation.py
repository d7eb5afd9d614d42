"""pydantic's errors as problems that people can solve: the key, the value, the rule, a proposal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sweeper.core.schema import MAX_PROBLEMS, Key, Problem
from sweeper.core.text import did_you_mean, format_value

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}


_BOUNDS = {
    "greater_than": "> {gt}",
    "greater_than_equal": ">= {ge}",
    "less_than": "< {lt}",
    "less_than_equal": "<= {le}",
    "string_too_long": "at most {max_length} characters long",
}


_TRUE, _FALSE = ("yes", "on", "y"), ("no", "off", "n")


def problems_of(error: ValidationError, model: type[BaseModel], data: Any) -> list[Problem]:
    """Return the problems of data that could not become a model: one for each key."""
    found: dict[Key, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # pydantic counts valid items only; the others have errors of their own
        found.setdefault(_key(details, data), []).append(details)
    problems = []
    for key, group in islice(found.items(), MAX_PROBLEMS):
        first = group[0]
        if first["type"] == "faults":
            problems += [Problem((*key, *inner.key), inner.message) for inner in first["ctx"]["faults"]]
        elif first["type"] == "extra_forbidden":
            message = f"unknown key. {did_you_mean(key[-1], _fields(model, first['loc'][:-1]))}"
            problems.append(Problem(key, message))
        else:
            problems.append(Problem(key, rule(group, hint=_hint(key, first["input"]))))
    return problems


def rule(group: list[ErrorDetails], *, hint: str = "") -> str:
    """Return a value and the rule that it breaks; the errors of the alternatives of one value make one rule."""
    first = group[0]
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    if any(details["type"] == "finite_number" for details in group):
        return f"{format_value(value)} must be a finite number"
    if kind == "missing":
        return "is missing"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind == "faults":
        return str(context["text"])
    if value is None:
        return "is null; give a value, or leave the key out"
    if kind in ("too_short", "string_too_short"):
        return "is empty; give at least one value"
    if kind in ("union_tag_invalid", "literal_error"):
        names = re.findall(r"'([^']*)'", context.get("expected_tags") or context["expected"])
        tag = context.get("tag", value)
        return f"{format_value(tag)} is not known. {did_you_mean(tag, names, otherwise='One of')}"
    if kind == "union_tag_not_found":
        return "is missing; name the kind"
    wanted = [_wanted(details) for details in group]
    if None in wanted:
        return f"{format_value(value)}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{format_value(value)} must be {' or '.join(dict.fromkeys(str(kind) for kind in wanted))}{hint}"


def _wanted(details: ErrorDetails) -> str | None:
    if details["type"] == "literal_error":
        return str(details["ctx"]["expected"]).replace("'", "")
    if details["type"] in _BOUNDS:
        limits = {k: f"{v:g}" if isinstance(v, float) else v for k, v in details["ctx"].items()}
        return _BOUNDS[details["type"]].format(**limits)
    return _KINDS.get(details["type"])


def _hint(key: Key, value: object) -> str:
    """Return what was probably meant."""
    if isinstance(value, str):
        if len(value) <= 30 and re.fullmatch(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?([eE][-+]?[0-9]+)?", value):
            return f"; write it without quotes: {value.replace('_', '')}"
        if value.lower() in (*_TRUE, *_FALSE):
            return f"; write {'true' if value.lower() in _TRUE else 'false'}"
        if key and key[-1] in ("sampler", "pruner", "dataset", "wrapped") and value.isidentifier():
            return f"; try {{type: {value[:30]}}}"
    if isinstance(value, bool | int | float) and key and key[-1] in ("name", "description", "metric"):
        return f'; write "{format_value(value)}"'
    if isinstance(value, list) and key and key[0] == "space":
        return f"; try {{type: categorical, choices: {format_value(value)}}}"
    return ""


def _key(details: ErrorDetails, data: Any) -> Key:
    """Return the key of an error. pydantic's location also names the alternatives of a union, which are not keys."""
    key: list[str | int] = []
    for part in details["loc"]:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        key.append(part)
    if details["type"] == "missing":
        key.append(details["loc"][-1])
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key.append("type")
    return tuple(key)


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed at a location."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        inner = [
            found
            for outer in models
            if part in (fields := _by_key(outer))
            for found in _models(fields[str(part)].annotation)
        ]
        tagged = [found for found in models if part in _tags(found)]
        models = inner or tagged or models
    return [key for found in models for key in _by_key(found)]


def _by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models(argument)]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
