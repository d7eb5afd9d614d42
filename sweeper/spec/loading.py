"""Loading of sweeps: a file or a mapping becomes a model, or raises all of its problems in the order of the file."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from sweeper.core.code.user_code import TRAINABLE_PATTERN, find_trainable
from sweeper.core.errors import InputError, LocatedProblem, SpecError
from sweeper.core.schema import MAX_PROBLEMS, Key, Problem, StrictModel, dotted_key
from sweeper.core.secrets import has_secret
from sweeper.core.text import first_line, format_value
from sweeper.search.pruning.pruners import Pruner
from sweeper.search.samplers import Sampler
from sweeper.search.space import AnyDomain, Domain, check_space
from sweeper.spec.code_checks import check_command, refuse_hidden_modules
from sweeper.spec.foreign import explain_foreign
from sweeper.spec.hyperparameters import check_hyperparameters, check_points
from sweeper.spec.trainable import Command
from sweeper.spec.validation import problems_of
from sweeper.spec.yaml_file import Positions, parse_value, read_yaml

M = TypeVar("M", bound=StrictModel)


DEFAULT_TRAINABLE = "sweeper.training:train_rnn"


_DOMAIN: TypeAdapter[AnyDomain] = TypeAdapter(Domain)


@dataclass(frozen=True)
class _Source:
    """Source of declared data: a file with the positions of its keys, and the keys that options or `--set` replace."""

    name: str
    positions: Positions = field(default_factory=dict)
    overridden: Collection[Key] = ()

    def locate(self, problem: Problem) -> LocatedProblem:
        """Return a problem with its position in the file, or with the option that causes it."""
        key = problem.key
        if any(key[: len(other)] == other or self._creates(other, key) for other in self.overridden):
            return LocatedProblem(f"--set {dotted_key(key)}", problem.message)
        if key[:1] == ("enqueue",) and any(other[0] == "space" for other in self.overridden):
            way_out = "to run without start points: --set enqueue=null"
            problem = replace(problem, message=f"{problem.message}; {way_out}")
        while key and key not in self.positions:
            key = key[:-1]
        line, column = self.positions.get(key, (None, None))
        return LocatedProblem(dotted_key(problem.key), problem.message, line, column)

    def _creates(self, overridden: Key, key: Key) -> bool:
        """Return whether a key exists only because an override sets a key inside it."""
        return bool(key) and overridden[: len(key)] == key and key not in self.positions


def load_file(model: type[M], path: str | Path, overrides: Mapping[str, Any]) -> M:
    """Load a sweep from a YAML file.

    Raises:
        SpecError: all problems at once.
    """
    data, positions = read_yaml(path)
    if not isinstance(data, dict):
        seen = (
            "is empty" if data is None else "holds a list" if isinstance(data, list) else f"holds {format_value(data)}"
        )
        message = f"{seen}; a sweep is a mapping with name, budget and space"
        raise SpecError(str(path), [LocatedProblem("", message, 1, 1)])
    data, problems = override(data, overrides)
    return _load(model, data, _Source(str(path), positions, _keys(overrides)), problems)


def load(model: type[M], data: Mapping[str, Any], overrides: Mapping[str, Any]) -> M:
    """Load a sweep from a mapping.

    Raises:
        SpecError: all problems at once.
    """
    data, problems = override(data, overrides)
    return _load(model, data, _Source("sweep", overridden=_keys(overrides)), problems)


def _keys(overrides: Mapping[str, Any]) -> list[Key]:
    return [tuple(key.split(".")) for key in overrides]


def _load(model: type[M], data: Mapping[str, Any], source: _Source, problems: list[Problem]) -> M:
    loaded: M | None = None
    try:
        loaded = model.model_validate(data)
    except ValidationError as error:
        problems = problems + problems_of(error, model, data)
    problems += [*_problems_of_secrets(data), *_problems_outside_models(data)]
    problems = explain_foreign(problems, data, source.name)
    if loaded is not None and not problems:
        problems = _problems_of_valid_sweep(loaded)
    if problems or loaded is None:
        located = [source.locate(problem) for problem in problems]
        located.sort(key=lambda problem: (problem.line or math.inf, problem.column or 0))
        raise SpecError(source.name, located)
    return loaded


def _problems_of_secrets(value: Any, key: Key = ()) -> Iterator[Problem]:
    """Yield a problem for each name and text that holds a secret, since all of them are stored; URLs have own rules."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if has_secret(str(name)):
                yield Problem(key, "a name here holds a secret, and would be stored; use another name")
            else:
                yield from _problems_of_secrets(inner, (*key, name))
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _problems_of_secrets(inner, (*key, position))
    elif isinstance(value, str) and key not in (("storage",), ("tracking", "uri")) and has_secret(value):
        yield Problem(key, "holds a secret, and would be stored; let the trainable read it from the environment")


def _problems_outside_models(data: Mapping[str, Any]) -> list[Problem]:
    """Return the problems that no model sees: those of the trainable and its hyperparameters.

    Also those between parameters of a space that the model rejects because one of its domains cannot be read.
    """
    declared = data.get("space")
    space = {str(name): _read_domain(raw) for name, raw in declared.items()} if isinstance(declared, Mapping) else {}
    between = islice(check_space(space) if None in space.values() else (), MAX_PROBLEMS)
    problems = _below("space", between)
    trainable = data.get("trainable", DEFAULT_TRAINABLE)
    if trainable == DEFAULT_TRAINABLE and data.get("dataset") is None:
        problems.append(Problem(("dataset",), "is missing; try {type: mnist, fallback: digits}"))
    if isinstance(trainable, str) and TRAINABLE_PATTERN.fullmatch(trainable):
        problems += _problems_of_trainable(trainable, space)
    elif isinstance(trainable, Mapping):
        with suppress(ValidationError):  # the model reports it
            command = Command.model_validate(trainable)
            problems += _below("trainable", check_command(command, space, data.get("budget")))
    return problems


def _problems_of_trainable(trainable: str, space: Mapping[str, AnyDomain | None]) -> list[Problem]:
    try:
        refuse_hidden_modules(trainable)
        params_model = find_trainable(trainable).params_model
    except InputError as error:
        return [Problem(("trainable",), str(error))]
    if params_model is None or not space:
        return []
    return _problems_by_model(params_model, lambda model: check_hyperparameters(space, model))


def _problems_of_valid_sweep(sweep: Any) -> list[Problem]:
    """Return the problems that can be found only in a sweep without others."""
    if message := sweep.sampler.missing_package():
        return [Problem(("sampler", "type"), message)]
    if problems := _below("resources", sweep.resources.problems(sweep.space)):
        return problems
    if not isinstance(sweep.trainable, str):
        return []
    params_model = find_trainable(sweep.trainable).params_model
    return _problems_by_model(params_model, lambda model: check_points(sweep.space, model)) if params_model else []


def _problems_by_model(params_model: type[Any], check: Callable[[type[Any]], list[Problem]]) -> list[Problem]:
    try:
        return _below("space", check(params_model))
    except Exception as error:  # the model's validators are the user's code, which may raise anything
        message = f"{params_model.__name__} cannot check the space: {type(error).__name__}: {first_line(error)}"
        return [Problem(("trainable",), message)]


def _below(section: str, problems: Iterable[Problem]) -> list[Problem]:
    return [Problem((section, *problem.key), problem.message) for problem in problems]


def _read_domain(raw: Any) -> AnyDomain | None:
    try:
        return _DOMAIN.validate_python(raw)
    except ValidationError:
        return None


def override(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return a copy of the data with dotted keys set, and the problems of these keys.

    Text is read as YAML; null removes a key.
    """
    changed = copy.deepcopy(dict(data))
    for section, kinds in _KINDS.items():
        _drop_options_of_old_type(changed, section, kinds, str(overrides.get(f"{section}.type")).strip())
    problems = []
    for path, value in overrides.items():
        key: Key = tuple(path.split("."))
        try:
            _set(changed, key, parse_value(value) if isinstance(value, str) else value)
        except ValueError as error:
            problems.append(Problem(key, str(error)))
    return changed, problems


_KINDS = {"sampler": get_args(get_args(Sampler)[0]), "pruner": get_args(get_args(Pruner)[0])}


def _drop_options_of_old_type(data: dict[str, Any], section: str, kinds: tuple[Any, ...], new: str) -> None:
    """Drop the options that another type of sampler or pruner does not have, when a key changes the type alone."""
    known = next((kind.model_fields for kind in kinds if kind.model_fields["type"].default == new), None)
    if known is not None and isinstance(data.get(section), dict) and data[section].get("type") != new:
        data[section] = {key: value for key, value in data[section].items() if key in known and value is not None}


def _set(data: dict[str, Any], key: Key, value: Any) -> None:
    if not all(key):
        raise ValueError("is not a key; write it like budget.trials")
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
