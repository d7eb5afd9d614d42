"""From declared data to a model: every fault at once, in the order of the file, each with its place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sweeper.core.errors import InputError, LocatedProblem, SpecError
from sweeper.core.schema import MAX_PROBLEMS, Key, Problem, StrictModel, dotted_key
from sweeper.core.text import format_value
from sweeper.core.user_code import TRAINABLE_PATTERN, find_trainable
from sweeper.search.space import AnyDomain, Domain, check_space
from sweeper.spec.hyperparameters import check_hyperparameters, check_points
from sweeper.spec.validation import problems_of
from sweeper.spec.yaml_file import Positions, parse_value, read_yaml

M = TypeVar("M", bound=StrictModel)


DEFAULT_TRAINABLE = "sweeper.training:train_rnn"


_DOMAIN: TypeAdapter[AnyDomain] = TypeAdapter(Domain)


@dataclass(frozen=True)
class _Source:
    """Where declared data comes from: a file with places, and keys set beside it."""

    name: str
    places: Positions = field(default_factory=dict)
    overridden: Collection[Key] = ()

    def problem(self, fault: Problem) -> LocatedProblem:
        key = fault.key
        if any(key[: len(other)] == other or self._makes(other, key) for other in self.overridden):
            return LocatedProblem(f"--set {dotted_key(key)}", fault.message)
        if key[:1] == ("enqueue",) and any(other[0] == "space" for other in self.overridden):
            way_out = "to do without start points: --set enqueue=null"
            fault = replace(fault, message=f"{fault.message}; {way_out}")
        while key and key not in self.places:
            key = key[:-1]
        line, column = self.places.get(key, (None, None))
        return LocatedProblem(dotted_key(fault.key), fault.message, line, column)

    def _makes(self, overridden: Key, key: Key) -> bool:
        """Whether a key is there only because one within it was set."""
        return bool(key) and overridden[: len(key)] == key and key not in self.places


def load_file(model: type[M], path: str | Path, overrides: Mapping[str, Any]) -> M:
    """The sweep in a YAML file."""
    data, places = read_yaml(path)
    if not isinstance(data, dict):
        kind = (
            "is empty" if data is None else "holds a list" if isinstance(data, list) else f"holds {format_value(data)}"
        )
        raise SpecError(
            str(path), [LocatedProblem("", f"{kind}; a sweep is a mapping with name, budget and space", 1, 1)]
        )
    data, faults = override(data, overrides)
    return _load(model, data, _Source(str(path), places, _keys(overrides)), faults)


def load(model: type[M], data: Mapping[str, Any], overrides: Mapping[str, Any]) -> M:
    """The sweep in a mapping."""
    data, faults = override(data, overrides)
    return _load(model, data, _Source("sweep", overridden=_keys(overrides)), faults)


def _keys(overrides: Mapping[str, Any]) -> list[Key]:
    return [tuple(key.split(".")) for key in overrides]


def _load(model: type[M], data: Mapping[str, Any], source: _Source, faults: list[Problem]) -> M:
    loaded: M | None = None
    try:
        loaded = model.model_validate(data)
    except ValidationError as error:
        faults = faults + problems_of(error, model, data)
    faults += _problems_outside_models(data)
    if loaded is not None and not faults:
        faults = _problems_of_valid_sweep(loaded)
    if faults or loaded is None:
        problems = [source.problem(fault) for fault in faults]
        problems.sort(key=lambda problem: (problem.line or math.inf, problem.column or 0))
        raise SpecError(source.name, problems)
    return loaded


def _problems_outside_models(data: Mapping[str, Any]) -> list[Problem]:
    """What the models do not see: the trainable and what it takes, and a space of which a part cannot be read."""
    declared = data.get("space")
    space = {str(name): _read_domain(raw) for name, raw in declared.items()} if isinstance(declared, Mapping) else {}
    between = islice(check_space(space) if None in space.values() else (), MAX_PROBLEMS)
    faults = [Problem(("space", *fault.key), fault.message) for fault in between]
    trainable = data.get("trainable", DEFAULT_TRAINABLE)
    if trainable == DEFAULT_TRAINABLE and data.get("dataset") is None:
        faults.append(Problem(("dataset",), "is missing; try {type: mnist, fallback: digits}"))
    if isinstance(trainable, str) and TRAINABLE_PATTERN.fullmatch(trainable):
        faults += _problems_of_trainable(trainable, space)
    return faults


def _problems_of_trainable(trainable: str, space: Mapping[str, AnyDomain | None]) -> list[Problem]:
    try:
        params_model = find_trainable(trainable).params_model
    except InputError as error:
        return [Problem(("trainable",), str(error))]
    if params_model is None or not space:
        return []
    return _problems_by_model(params_model, lambda model: check_hyperparameters(space, model))


def _problems_of_valid_sweep(sweep: Any) -> list[Problem]:
    """What can be asked only of a sweep without other faults."""
    if message := sweep.sampler.missing_package():
        return [Problem(("sampler", "type"), message)]
    if faults := [Problem(("resources", *fault.key), fault.message) for fault in sweep.resources.problems(sweep.space)]:
        return faults
    params_model = find_trainable(sweep.trainable).params_model
    return _problems_by_model(params_model, lambda model: check_points(sweep.space, model)) if params_model else []


def _problems_by_model(params_model: type[Any], check: Callable[[type[Any]], list[Problem]]) -> list[Problem]:
    try:
        return [Problem(("space", *fault.key), fault.message) for fault in check(params_model)]
    except Exception as error:  # its validators are the user's, and may raise anything
        first = (str(error).splitlines() or [""])[0]
        message = f"{params_model.__name__} cannot check the space: {type(error).__name__}: {first}"
        return [Problem(("trainable",), message)]


def _read_domain(raw: Any) -> AnyDomain | None:
    try:
        return _DOMAIN.validate_python(raw)
    except ValidationError:
        return None


def override(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The data with dotted keys set; text is read as YAML, and null removes a key."""
    changed = copy.deepcopy(dict(data))
    faults = []
    for path, value in overrides.items():
        key: Key = tuple(path.split("."))
        try:
            _set(changed, key, parse_value(value) if isinstance(value, str) else value)
        except ValueError as error:
            faults.append(Problem(key, str(error)))
    return changed, faults


def _set(data: dict[str, Any], key: Key, value: Any) -> None:
    if not all(key):
        raise ValueError("is no key; write it like budget.trials")
    inner: Any = data
    for i, part in enumerate(key[:-1]):
        if inner.get(part) is None:
            if value is None:
                return
            inner[part] = {}
        inner = inner[part]
        if not isinstance(inner, dict):
            above = ".".join(str(part) for part in key[: i + 1])
            raise ValueError(f"{above} is {format_value(inner)}, which has no keys; set {above} as a whole")
    if value is None:
        inner.pop(key[-1], None)
    else:
        inner[key[-1]] = value
