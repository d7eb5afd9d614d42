"""What a sweep is: the models behind its YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from sweeper.core.schema import Problem, Scalar, Seed, StrictModel, raise_problems
from sweeper.core.trials import Direction
from sweeper.core.urls import expand
from sweeper.datasets.catalog import AnyDataset
from sweeper.search.budget import Budget
from sweeper.search.pruners import Hyperband, Median, NoPruner, Pruner
from sweeper.search.samplers import Grid, Sampler, Tpe
from sweeper.search.space import AnyDomain, Domain, check_point, check_space, grid_size, normalized, suspicious_settings
from sweeper.spec.loading import load, load_file
from sweeper.spec.names import Database, Description, Label, Metric, ModelName, Name, TrackingUri, Trainable
from sweeper.spec.resources import Resources


class Objective(StrictModel):
    """What makes one trial better than another."""

    metric: Metric = Field("val_accuracy", description="The metric that trials report and the sweep optimises.")
    direction: Direction = Field("maximize", description="Which way is better.")


class Tracking(StrictModel):
    """Where MLflow shows the sweep."""

    experiment: Label = Field("sweeper", description="MLflow experiment that the sweep appears in.")
    model: ModelName | None = Field(None, description="Registered model that the best trial becomes a version of.")
    uri: TrackingUri | None = Field(
        None, description="MLflow server or store; else MLFLOW_TRACKING_URI, else a local file. May hold ${env:NAME}."
    )

    def resolved_uri(self) -> str | None:
        """The address with its references to the environment resolved."""
        return None if self.uri is None else expand(self.uri)


class Sweep(StrictModel):
    """A sweep as declared. Frozen: what happens to it is in its study."""

    name: Name = Field(description="Name of the sweep; the same name and storage continue it.")
    description: Description = Field("", description="What the sweep is for, in your words.")
    trainable: Trainable = Field(
        "sweeper.training:train_rnn", description="The function that trains, package.module:function."
    )
    seed: Seed = Field(0, description="Everything random derives from it and the number of the trial.")
    dataset: AnyDataset | None = Field(None, description="What the trainable is given to learn from.")
    objective: Objective = Field(default_factory=Objective, description="What makes one trial better than another.")
    budget: Budget = Field(description="How much is spent: on one trial, and on all of them.")
    resources: Resources = Field(default_factory=Resources, description="What one trial has to itself.")
    space: Annotated[dict[str, Domain], Field(min_length=1)] = Field(
        description="Hyperparameters: what is searched, and by plain values what is fixed."
    )
    sampler: Sampler = Field(default_factory=Tpe, description="How the next point is chosen.")
    pruner: Pruner = Field(default_factory=Median, description="When a hopeless trial is stopped.")
    enqueue: Annotated[tuple[dict[str, Scalar], ...], Field(strict=False)] = Field(
        (), description="Points to try first; parameters left out are chosen by the sampler."
    )
    tracking: Tracking = Field(default_factory=Tracking, description="Where MLflow shows the sweep.")
    storage: Database = Field(
        "sqlite:///sweeper.db", description="SQL database that holds the study. May hold ${env:NAME} for secrets."
    )

    @field_validator("space")
    @classmethod
    def _is_consistent(cls, space: dict[str, AnyDomain]) -> dict[str, AnyDomain]:
        raise_problems(check_space(space))
        return space

    # Each of these looks at fields validated before it, and says nothing when one of those is at fault itself.

    @field_validator("sampler")
    @classmethod
    def _can_search(cls, sampler: Sampler, info: ValidationInfo) -> Sampler:
        if "space" in info.data and (objection := sampler.unsupported_reason(info.data["space"])):
            raise_problems([Problem(("type",), objection)])
        return sampler

    @field_validator("pruner")
    @classmethod
    def _fits_the_budget(cls, pruner: Pruner, info: ValidationInfo) -> Pruner:
        if "budget" in info.data:
            raise_problems(pruner.problems(info.data["budget"]))
        return pruner

    @field_validator("enqueue")
    @classmethod
    def _is_in_the_space(cls, points: tuple[dict[str, Any], ...], info: ValidationInfo) -> tuple[dict[str, Any], ...]:
        if (space := info.data.get("space")) is None:
            return points
        faults = ((i, fault) for i, point in enumerate(points) for fault in check_point(point, space))
        raise_problems(Problem((i, *fault.key), fault.message) for i, fault in faults)
        return tuple(normalized(point, space) for point in points)

    @classmethod
    def from_mapping(cls, declared: Mapping[str, Any]) -> Sweep:
        """A sweep from Python, checked like a file.

        Raises:
            SpecError: every fault at once.
        """
        return load(cls, declared, {})

    def changed(self, overrides: Mapping[str, Any]) -> Sweep:
        """The sweep with values in the place of others, by dotted key, checked like a file.

        Raises:
            SpecError: every fault at once.
        """
        return load(Sweep, self.model_dump(mode="json"), overrides)

    @property
    def sampler_seed(self) -> int:
        return self.seed if self.sampler.seed is None else self.sampler.seed

    @property
    def trial_limit(self) -> int:
        """Trials that the sweep will run: those of the budget, or fewer if a grid has no more points."""
        points = grid_size(self.space) if isinstance(self.sampler, Grid) else None
        return self.budget.trials if points is None else min(self.budget.trials, points)

    def storage_url(self) -> str:
        """The database with its references to the environment resolved; not for printing.

        Raises:
            InputError: a variable is not set.
        """
        return expand(self.storage)

    def warnings(self) -> list[str]:
        """What is allowed and still looks like a slip."""
        found = suspicious_settings(self.space)
        if (limit := self.trial_limit) < self.budget.trials:
            found.append(f"the grid has {limit} points: the sweep ends after them, not {self.budget.trials}")
        if self.budget.reports == 1 and not isinstance(self.pruner, NoPruner):
            found.append("a trial reports once, at its end: nothing can be pruned; raise budget.reports_per_epoch")
        if isinstance(self.pruner, Hyperband) and self.budget.trials < 40:
            found.append("hyperband divides the trials among brackets and needs 40 or more; try successive_halving")
        if len(self.enqueue) > self.budget.trials:
            found.append(f"only {self.budget.trials} of the {len(self.enqueue)} points in enqueue will be tried")
        return found


def load_sweep(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """Load a sweep from a YAML file.

    Args:
        overrides: values over those of the file, by dotted key: `{"budget.trials": 5}`. Text is read as YAML; None and
            `null` remove a key.

    Raises:
        SpecError: every fault of the file at once, each with its place.
    """
    return load_file(Sweep, path, overrides or {})


def sweep_schema() -> dict[str, Any]:
    """The JSON Schema of a sweep file, for editors."""
    schema = Sweep.model_json_schema()
    for definition in schema["$defs"].values():  # the `type` of a kind is described by the kind
        definition["properties"].get("type", {}).setdefault("description", definition.get("description", ""))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema
