"""Types of values in a sweep file: names, metrics and goals, descriptions, addresses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, WrapValidator

from sweeper.core.code.user_code import TRAINABLE_PATTERN
from sweeper.core.schema import Problem, StrictModel, raise_problems
from sweeper.core.text import did_you_mean, format_value
from sweeper.core.trials import Direction
from sweeper.core.urls import expand, problem_of_database_url, problem_of_tracking_uri

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


_METRIC = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./ -]{0,99}")


def _passes(problem_of: Callable[[str], str | None]) -> AfterValidator:
    """Return a validator that raises the problem of a text, if it has one."""

    def check(text: str) -> str:
        if problem := problem_of(text):
            raise ValueError(problem)
        return text

    return AfterValidator(check)


def _problem_of_name(text: str) -> str | None:
    # The name is also that of a folder, a study and an MLflow run, and part of URLs: no character needs quoting there.
    if not text:
        return "is empty; give it a name"
    if len(text) > 64:
        return f"has {len(text)} characters; at most 64 are allowed"
    if not _SLUG.fullmatch(text):
        proposal = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
        hint = f"; try {proposal}" if proposal else ""
        rule = "must be letters a-z, digits, '.', '_' and '-', and begin with a letter or digit"
        return f"{format_value(text)} {rule}{hint}"
    if _RESERVED.fullmatch(text):
        return f"{format_value(text)} is reserved on some systems; choose another name"
    return None


def _problem_of_metric(text: str) -> str | None:
    if _METRIC.fullmatch(text):
        return None
    rule = "use letters, digits, '_', '.', '/', '-' and spaces, at most 100 characters"
    return f"{format_value(text)} is not a name of a metric; {rule}"


def _problem_of_label(text: str) -> str | None:
    if not text.strip() or not text.isprintable() or len(text) > 250:
        return f"{format_value(text)} must be 1 to 250 characters without control characters"
    return None


def _problem_of_description(text: str) -> str | None:
    if all(character.isprintable() or character == "\n" for character in text):
        return None
    return "has a control character; remove it"


def _problem_of_model(text: str) -> str | None:
    if _SLUG.fullmatch(text):
        return None
    return f"{format_value(text)} must be letters a-z, digits, '.', '_' and '-', at most 64"


_SCRIPT = re.compile(r"\S+\.(py|sh|R|jl)(\s|$)|\S+\s+\S")


def _problem_of_trainable(text: str) -> str | None:
    if TRAINABLE_PATTERN.fullmatch(text):
        return None
    if _SCRIPT.match(text):
        command = text if " " in text.strip() else f"python {text}"
        return f"{format_value(text)} is no function; to run a script, write {{command: {format_value(command)}}}"
    return f"{format_value(text)} must be package.module:function; try sweeper.training:train_rnn"


Name = Annotated[str, _passes(_problem_of_name), Field(json_schema_extra={"pattern": f"^{_SLUG.pattern}$"})]


Metric = Annotated[str, _passes(_problem_of_metric)]


class Objective(StrictModel):
    """Metric that the sweep optimises."""

    metric: Metric = Field("val_accuracy", description="Metric that trials report and the sweep optimises.")
    direction: Direction = Field("maximize", description="Whether a higher or a lower value is better.")


MAX_GOALS = 5
"""Goals of a sweep. With more, hardly any trial betters another in all of them, so that nearly all are on the front."""


def _read_goals(declared: Any, read: Callable[[Any], tuple[Objective, ...]]) -> tuple[Objective, ...]:
    """Return the goals of a sweep, from one mapping or from a list of them."""
    if not isinstance(declared, list | tuple):
        return (Objective.model_validate(declared),)
    if not 2 <= len(declared) <= MAX_GOALS:
        rule = f"a list holds 2 to {MAX_GOALS} goals, and this one {len(declared)}"
        raise_problems([Problem((), f"{rule}; for a single one, write {{metric: val_accuracy, direction: maximize}}")])
    goals = read(declared)
    metrics = [goal.metric for goal in goals]
    raise_problems(
        Problem((place, "metric"), f"{format_value(metric)} is a goal already; name each metric once")
        for place, metric in enumerate(metrics)
        if metric in metrics[:place]
    )
    return goals


Goals = Annotated[
    tuple[Objective, ...],
    Field(strict=False),
    WrapValidator(
        _read_goals,
        json_schema_input_type=Objective | Annotated[list[Objective], Field(min_length=2, max_length=MAX_GOALS)],
    ),
    PlainSerializer(lambda goals: goals[0] if len(goals) == 1 else goals),
]
"""Metrics that a sweep optimises: one mapping, or a list of them."""


def problems_of_prune_on(metric: str | None, goals: Sequence[Objective]) -> list[Problem]:
    """Return the problem of the metric that is to prune: it has to be one of the goals."""
    names = [goal.metric for goal in goals]
    if metric is None or not names or metric in names:
        return []
    hint = did_you_mean(metric, names, otherwise="One of")
    return [Problem((), f"{format_value(metric)} is no metric of objective. {hint}")]


Label = Annotated[str, _passes(_problem_of_label)]


Description = Annotated[str, _passes(_problem_of_description), Field(max_length=2000)]


ModelName = Annotated[str, _passes(_problem_of_model)]


Trainable = Annotated[str, _passes(_problem_of_trainable)]


Database = Annotated[str, _passes(problem_of_database_url)]


TrackingUri = Annotated[str, _passes(problem_of_tracking_uri)]


class Tracking(StrictModel):
    """MLflow server, experiment and registered model of the sweep."""

    experiment: Label = Field("sweeper", description="MLflow experiment of the sweep.")
    model: ModelName | None = Field(
        None, description="Name that the best trial's model is registered under when it becomes the champion."
    )
    uri: TrackingUri | None = Field(
        None,
        description="MLflow server or store; by default MLFLOW_TRACKING_URI, else a local file. "
        "May contain ${env:NAME} for secrets.",
    )

    def resolved_uri(self) -> str | None:
        """Return the address with its references to the environment resolved."""
        return None if self.uri is None else expand(self.uri)
