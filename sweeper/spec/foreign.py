"""Keys that W&B, Ray Tune and Optuna users write by habit, each with its counterpart."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sweeper.core.schema import Key, Problem
from sweeper.core.text import format_value
from sweeper.spec.convert import KINDS, SAMPLERS, domain_of, flow, is_wandb

_OWN_KINDS = ("float", "int", "categorical", "constant")
_FOREIGN_KEYS = ("values", "min", "max", "lower", "upper", "distribution", "options", "categories", "q", "mu", "sigma")


_CALL = re.compile(r"(?:tune\.|trial\.(?=suggest_)|hp\.)(\w+)\((.*)\)")
"""A call of Ray Tune, Optuna or Hyperopt, which would be the constant text in a sweep file."""


def _setting(section: str, key: str) -> Callable[[Any], str]:
    return lambda value: f"{section}: {{{key}: {_shown(value)}}}"


def _direction(value: Any) -> str:
    words = {"min": "minimize", "max": "maximize"}
    return f"objective: {{direction: {_shown(words.get(str(value), value))}}}"


def _objective(value: Any) -> str:
    metric = value if isinstance(value, Mapping) else {"name": value}
    goal = metric.get("goal", metric.get("mode", "minimize"))
    return f"objective: {{metric: {_shown(metric.get('name', 'loss'))}, direction: {_shown(goal)}}}"


def _sampler(value: Any) -> str:
    return f"sampler: {{type: {SAMPLERS.get(str(value), 'tpe')}}}"


def _pruner(value: Any) -> str:
    early = value if isinstance(value, Mapping) else {}
    first, eta = early.get("min_iter", early.get("grace_period", 1)), early.get("eta", early.get("reduction_factor", 3))
    return f"pruner: {{type: successive_halving, min_epochs: {_shown(first)}, reduction_factor: {_shown(eta)}}}"


def _space(_: Any) -> str:
    return "space, with {type: float, low: 0, high: 1} and the like"


def _program(value: Any) -> str:
    return f"trainable: {{command: {format_value(f'python {value} --lr {{lr}}')}}}"


def _command(value: Any) -> str:
    return f"trainable: {{command: {flow(value) if isinstance(value, list) else format_value(value)}}}"


def _shown(value: Any) -> str:
    return flow(value) if isinstance(value, str | int | float) and len(str(value)) <= 60 else "..."


COUNTERPARTS: dict[Key, Callable[[Any], str]] = {
    ("method",): _sampler,
    ("search_alg",): _sampler,
    ("algorithm",): _sampler,
    ("parameters",): _space,
    ("param_space",): _space,
    ("search_space",): _space,
    ("config",): _space,
    ("hyperparameters",): _space,
    ("program",): _program,
    ("script",): _program,
    ("command",): _command,
    ("metric",): _objective,
    ("early_terminate",): _pruner,
    ("early_stopping",): _pruner,
    ("scheduler",): _pruner,
    ("run_cap",): _setting("budget", "trials"),
    ("num_samples",): _setting("budget", "trials"),
    ("n_trials",): _setting("budget", "trials"),
    ("max_trials",): _setting("budget", "trials"),
    ("max_epochs",): _setting("budget", "epochs"),
    ("max_concurrent_trials",): _setting("budget", "parallel"),
    ("n_jobs",): _setting("budget", "parallel"),
    ("time_budget_s",): _setting("budget", "timeout"),
    ("resources_per_trial",): lambda _: "resources: {cpus: 1, gpus: 0}",
    ("study_name",): lambda value: f"name: {_shown(value)}",
    ("direction",): _direction,
    ("mode",): _direction,
    ("goal",): _direction,
    ("project",): _setting("tracking", "experiment"),
    ("experiment",): _setting("tracking", "experiment"),
    ("objective", "goal"): _direction,
    ("objective", "mode"): _direction,
    ("objective", "name"): _setting("objective", "metric"),
    ("budget", "run_cap"): _setting("budget", "trials"),
    ("budget", "n_trials"): _setting("budget", "trials"),
    ("budget", "num_samples"): _setting("budget", "trials"),
    ("budget", "max_epochs"): _setting("budget", "epochs"),
    ("budget", "max_t"): _setting("budget", "epochs"),
    ("budget", "max_concurrent_trials"): _setting("budget", "parallel"),
    ("budget", "n_jobs"): _setting("budget", "parallel"),
    ("pruner", "min_iter"): _setting("pruner", "min_epochs"),
    ("pruner", "grace_period"): _setting("pruner", "min_epochs"),
    ("pruner", "max_iter"): _setting("budget", "epochs"),
    ("pruner", "max_t"): _setting("budget", "epochs"),
    ("pruner", "eta"): _setting("pruner", "reduction_factor"),
}
"""Keys of other tools that a sweep file does not have, and what is written in their place, by their value."""

_WITHOUT_COUNTERPART = ("entity", "controller", "load_if_exists")


def explain_foreign(problems: list[Problem], data: Mapping[str, Any], source: str) -> list[Problem]:
    """Return the problems of a file with the counterparts of the keys that other tools have."""
    domains = dict(_foreign_domains(data.get("space")))
    explained = [_explained(problem, data) for problem in problems if problem.key[1:2] not in _keys(domains, problem)]
    explained += [Problem(("space", name), message) for name, message in domains.items()]
    if is_wandb(data) and explained:
        explained = [problem for problem in explained if not _is_missing(problem)]
        command = shlex.join(["sweeper", "convert", source])
        explained.append(Problem((), f"is a sweep of W&B; write it as a sweep file with: {command}"))
    return explained


def _keys(domains: Mapping[str, str], problem: Problem) -> list[Key]:
    return [(name,) for name in domains] if problem.key[:1] == ("space",) else []


def _is_missing(problem: Problem) -> bool:
    return len(problem.key) == 1 and problem.message.startswith("is missing")


def _explained(problem: Problem, data: Mapping[str, Any]) -> Problem:
    if not problem.message.startswith("unknown key"):
        return problem
    if problem.key[-1] in _WITHOUT_COUNTERPART:
        return Problem(problem.key, "has no counterpart; leave it out")
    value: Any = data
    for part in problem.key:
        value = value[part]
    counterpart = COUNTERPARTS.get(problem.key)
    return problem if counterpart is None else Problem(problem.key, f"unknown key. Write {counterpart(value)}")


def _foreign_domains(space: Any) -> Iterator[tuple[str, str]]:
    """Yield the parameters that are written as in another tool, with a message."""
    for name, raw in space.items() if isinstance(space, Mapping) else ():
        if isinstance(raw, str) and (call := _CALL.fullmatch(raw.strip())):
            raw = _arguments(call[1], call[2])
            if not raw:
                yield str(name), "is a call in Python; write {type: float, low: 0, high: 1} or the like"
        if not isinstance(raw, Mapping):
            continue
        suggested = next((key for key in raw if str(key).startswith("suggest_")), None)
        if suggested is not None and isinstance(raw[suggested], Mapping):
            raw = {**raw[suggested], "type": suggested}
        kind = raw.get("type")
        is_foreign = kind in set(KINDS) - set(_OWN_KINDS) if isinstance(kind, str) else False
        if not is_foreign and not any(key in raw for key in _FOREIGN_KEYS):
            continue
        try:
            domain, comment = domain_of(raw)
        except (ValueError, TypeError, OverflowError):  # the model says what is wrong
            continue
        yield str(name), f"is written as in another tool; write {flow(domain)}{comment and f' ({comment})'}"


def _arguments(kind: str, text: str) -> dict[str, Any]:
    """Return the arguments of a call as the keys of a parameter; {} if they are no plain values."""
    try:
        values = ast.literal_eval(f"[{text}]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    if len(values) > 1 and isinstance(values[0], str):  # the name of the parameter
        del values[0]
    keys = ("values",) if values and isinstance(values[0], list) else ("min", "max", "q")
    return {"type": kind, **dict(zip(keys, values, strict=False))}
