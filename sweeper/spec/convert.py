"""Conversion of a W&B sweep file: each key to its counterpart, with a comment where there is none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.core.errors import LocatedProblem, SpecError
from sweeper.core.schema import Problem, dotted_key
from sweeper.core.text import did_you_mean, format_value
from sweeper.spec.yaml_file import read_yaml

DEFAULT_TRIALS, DEFAULT_EPOCHS = 20, 10
"""Budget where a W&B file has none: W&B runs agents until they are stopped, and does not know how long a run is."""

_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
SAMPLERS = {"grid": "grid", "random": "random", "bayes": "tpe"}
"""Methods of W&B, and their samplers."""

_LOG_KINDS = (
    "log_uniform_values",
    "q_log_uniform_values",
    "inv_log_uniform_values",
    "loguniform",
    "reciprocal",
    "suggest_loguniform",
)
_EXPONENT_KINDS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
_NORMAL_KINDS = ("normal", "q_normal", "randn")
_LOG_NORMAL_KINDS = ("log_normal", "q_log_normal")
_PLAIN_KINDS = ("uniform", "q_uniform", "quniform", "float", "suggest_float", "suggest_uniform")
_INT_KINDS = ("int_uniform", "int", "randint", "suggest_int", "lograndint", "qrandint")
_CHOICE_KINDS = ("categorical", "categorical_w_probabilities", "choice", "grid_search", "suggest_categorical")
_FLOAT_KINDS = (*_PLAIN_KINDS, *_LOG_KINDS, *_EXPONENT_KINDS, *_NORMAL_KINDS, *_LOG_NORMAL_KINDS)
KINDS = (*_FLOAT_KINDS, *_INT_KINDS, *_CHOICE_KINDS, "constant")
"""Kinds of parameters of W&B, Ray Tune and Optuna that have a counterpart."""


def domain_of(raw: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the counterpart of a parameter that is written as in W&B, Ray Tune or Optuna, and a comment or "".

    Raises:
        ValueError: it has none; the message says why.
    """
    if "parameters" in raw:
        raise ValueError("has parameters of its own; write each of them with a name of its own")
    if "value" in raw:
        return raw["value"], ""
    choices = next((raw[key] for key in ("values", "choices", "options", "categories") if key in raw), None)
    kind = str(raw.get("distribution", raw.get("type", "categorical" if choices is not None else "")))
    if kind not in (*KINDS, ""):
        raise ValueError(f"has the distribution {format_value(kind)}, which is not known. {did_you_mean(kind, KINDS)}")
    if kind in _CHOICE_KINDS:
        if not isinstance(choices, list) or not choices:
            raise ValueError("has no list of values")
        comment = "the probabilities have no counterpart" if "probabilities" in raw else ""
        return (choices[0], comment) if len(choices) == 1 else ({"type": "categorical", "choices": choices}, comment)
    low, high, comment = _bounds(kind, raw)
    is_int = kind in _INT_KINDS or (kind in ("", "uniform") and isinstance(low, int) and isinstance(high, int))
    domain: dict[str, Any] = {"type": "int" if is_int and kind != "uniform" else "float", "low": low, "high": high}
    is_log = kind in (*_LOG_KINDS, *_EXPONENT_KINDS, *_LOG_NORMAL_KINDS, "lograndint")
    if is_log or raw.get("log") is True:
        domain["log"] = True
    step = raw.get("q", raw.get("step", 1 if kind == "q_uniform" else None))
    if step is not None and "log" in domain:
        comment = "the step has no counterpart on a logarithmic scale"
    elif step is not None:
        domain |= {"high": _last_step(low, high, step), "step": step}
    return domain, comment


def _bounds(kind: str, raw: Mapping[str, Any]) -> tuple[Any, Any, str]:
    """Return the lowest and the highest value, and a comment."""
    if kind in (*_NORMAL_KINDS, *_LOG_NORMAL_KINDS):
        mean, width = raw.get("mu", raw.get("mean", 0)), raw.get("sigma", raw.get("sd", 1))
        low, high = mean - 3 * width, mean + 3 * width
        comment = f"a normal distribution has no counterpart; this is its mean {mean:g} plus and minus 3 sigma"
        return (*(map(_exp, (low, high)) if kind in _LOG_NORMAL_KINDS else (low, high)), comment)
    low, high = (
        next((raw[key] for key in keys if key in raw), None)
        for keys in (("min", "low", "lower"), ("max", "high", "upper"))
    )
    numbers = [value for value in (low, high) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2:
        raise ValueError("has no numbers as min and max")
    if kind in _EXPONENT_KINDS:
        return _exp(numbers[0]), _exp(numbers[1]), f"e**{low:g} to e**{high:g}: {kind} has exponents as min and max"
    return low, high, ""


def _exp(value: float) -> float:
    return float(f"{math.exp(value):.6g}")


def _last_step(low: Any, high: Any, step: Any) -> Any:
    """Return the last value that steps from `low` reach; bounds that steps miss are refused in a sweep file."""
    last = low + math.floor((high - low) / step + 1e-9) * step
    value = float(f"{last:.12g}")
    return int(value) if all(isinstance(part, int) for part in (low, high, step)) else value


def flow(value: Any) -> str:
    """Return plain data as YAML in one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {flow(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


def is_wandb(data: Mapping[str, Any]) -> bool:
    """Return whether the keys of a file are those of a W&B sweep."""
    return "space" not in data and isinstance(data.get("parameters"), Mapping)


def convert_file(path: Path) -> str:
    """Return a W&B sweep file as a sweep file.

    Raises:
        SpecError: it cannot be read, is no W&B sweep, or has something that cannot be converted.
    """
    data, positions = read_yaml(path)
    if not isinstance(data, Mapping) or not is_wandb(data):
        raise SpecError(str(path), [LocatedProblem("", "is no W&B sweep: it has no mapping `parameters`", 1, 1)])
    converter = _Converter(data)
    text = "\n".join([f"# Converted from {path.name}, a sweep of W&B.", *converter.lines()]) + "\n"
    if converter.problems:
        located = [
            LocatedProblem(dotted_key(problem.key), problem.message, *positions.get(problem.key, (None, None)))
            for problem in converter.problems
        ]
        raise SpecError(str(path), located)
    return text


class _Converter:
    """Converts the content of one file, section by section."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self.problems: list[Problem] = []
        self._names = {str(name): re.sub(r"\W|^(?=\d)", "_", str(name)) for name in data["parameters"]}

    def lines(self) -> Iterator[str]:
        """Yield the lines of the sweep file."""
        data = self._data
        yield "# wandb.log is not read. Report with a line on stdout, METRIC=0.93, or with sweeper.report(METRIC=0.93)."
        for key in ("entity", "controller", "imageuri", "job", "schedule", "tags", "state", "apiVersion", "kind"):
            if key in data:
                yield f"# {key}: {flow(data[key])} has no counterpart."
        yield f"name: {self._name()}"
        if data.get("description"):
            yield f"description: {flow(str(data['description']))}"
        yield from self._command()
        yield from self._objective()
        yield from self._budget()
        yield from self._sampler()
        yield from self._pruner()
        yield "space:"
        for name, raw in data["parameters"].items():
            yield from self._parameter(str(name), raw)
        if data.get("project"):
            yield f"tracking: {{experiment: {flow(str(data['project']))}}}"

    def _fail(self, message: str, *key: str) -> None:
        self.problems.append(Problem(key, message))

    def _name(self) -> str:
        wanted = self._data.get("name") or Path(str(self._data.get("program", "sweep"))).stem
        return flow(re.sub(r"[^A-Za-z0-9._-]+", "-", str(wanted)).strip("-._")[:64] or "sweep")

    def _command(self) -> Iterator[str]:
        program, words = self._data.get("program"), self._data.get("command", _DEFAULT_COMMAND)
        if not isinstance(words, list | tuple):
            words = str(words).split()
        yield "trainable:"
        found: list[str] = []
        for word in map(str, words):
            if word == "${args_no_boolean_flags}":
                yield "  # ${args_no_boolean_flags} has no counterpart: a flag that is true is --flag=true here."
            found += self._word(word, program)
        yield f"  command: {flow([part for part in found if part])}"

    def _word(self, word: str, program: Any) -> list[str]:
        braced = {name: f"{{{own}}}" for name, own in self._names.items()}
        pairs = [f"{name}={placeholder}" for name, placeholder in braced.items()]
        known = {
            "${env}": [],
            "${interpreter}": ["python"],
            "${program}": [str(program)],
            "${args}": [f"--{pair}" for pair in pairs],
            "${args_no_boolean_flags}": [f"--{pair}" for pair in pairs],
            "${args_no_hyphens}": pairs,
            "${args_json}": ["{params}"],
        }
        if word == "${program}" and program is None:
            self._fail("is missing: the command refers to it", "program")
        if word in known:
            return known[word]
        if "${" in word:
            self._fail(f"has {word}, which cannot be converted; let the script read it", "command")
        return [word.replace("{", "{{").replace("}", "}}")]

    def _objective(self) -> Iterator[str]:
        metric = self._data.get("metric")
        if not isinstance(metric, Mapping) or not metric.get("name"):
            yield "# The file names no metric: write the one that the script reports."
            metric = {"name": "loss"}
        direction = str(metric.get("goal", "minimize"))
        yield f"objective: {{metric: {flow(str(metric['name']))}, direction: {direction}}}"
        if "target" in metric:
            yield f"# metric.target: {flow(metric['target'])} has no counterpart; `sweeper stop NAME` ends a sweep."

    def _budget(self) -> Iterator[str]:
        early, trials = self._early(), self._data.get("run_cap")
        raw = self._data["parameters"].get("epochs")
        epochs = early.get("max_iter", raw.get("value") if isinstance(raw, Mapping) else raw)
        if not isinstance(epochs, int):
            epochs = DEFAULT_EPOCHS
            yield f"# epochs: as often as the script reports. W&B does not say; {DEFAULT_EPOCHS} is a guess."
        if trials is None:
            trials = self._grid_size() if self._data.get("method") == "grid" else None
            if trials is None:
                yield f"# trials: the file has no run_cap; {DEFAULT_TRIALS} is a guess."
        yield f"budget: {{trials: {trials or DEFAULT_TRIALS}, epochs: {epochs}}}"

    def _grid_size(self) -> int | None:
        lists = [raw.get("values") for raw in self._data["parameters"].values() if isinstance(raw, Mapping)]
        return math.prod(len(values) for values in lists if isinstance(values, list)) or None

    def _early(self) -> Mapping[str, Any]:
        early = self._data.get("early_terminate")
        return early if isinstance(early, Mapping) else {}

    def _sampler(self) -> Iterator[str]:
        method = str(self._data.get("method", "bayes"))
        if method not in SAMPLERS:
            self._fail(f"{format_value(method)} is not known. {did_you_mean(method, SAMPLERS)}", "method")
        if method == "bayes":
            yield "# W&B's bayes is a Gaussian process: {type: gp} is like it, and needs pip install 'sweeper[gp]'."
        yield f"sampler: {{type: {SAMPLERS.get(method, 'tpe')}}}"

    def _pruner(self) -> Iterator[str]:
        early = self._early()
        if not early:
            yield "pruner: {type: none}"
            return
        if early.get("type", "hyperband") != "hyperband":
            self._fail(f"{format_value(early['type'])} is not known; only hyperband is", "early_terminate", "type")
        eta = int(early.get("eta", 3))
        first = early.get("min_iter") or max(1, round(early.get("max_iter", eta) / eta ** int(early.get("s", 1))))
        if early.get("strict") is not None:
            yield "# early_terminate.strict has no counterpart."
        yield f"pruner: {{type: successive_halving, min_reports: {first}, reduction_factor: {eta}}}"

    def _parameter(self, name: str, raw: Any) -> Iterator[str]:
        try:
            domain, comment = domain_of(raw) if isinstance(raw, Mapping) else (raw, "")
        except ValueError as error:
            self._fail(str(error), "parameters", name)
            return
        if isinstance(domain, list):
            self._fail("is a list, which cannot be a value; write numbers or text", "parameters", name)
        yield f"  {self._names[name]}: {flow(domain)}" + (f"  # {comment}" if comment else "")
