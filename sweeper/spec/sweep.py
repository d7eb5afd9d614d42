"""Models of a sweep, which check its YAML file and hold it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from sweeper.core.code.user_code import leaves_model
from sweeper.core.schema import Problem, Scalar, Seed, StrictModel, json_schema, raise_problems
from sweeper.core.urls import expand
from sweeper.datasets.catalog import AnyDataset
from sweeper.search.budget import Budget
from sweeper.search.confirming import Confirm
from sweeper.search.pruning.pruners import Hyperband, Median, NoPruner, Pruner
from sweeper.search.samplers import Grid, Sampler, Tpe
from sweeper.search.space import AnyDomain, Domain, check_point, check_space, grid_size, normalized, suspicious_settings
from sweeper.search.spending import Spending
from sweeper.spec.code_checks import unused_parameters
from sweeper.spec.loading import DEFAULT_TRAINABLE, load, load_file
from sweeper.spec.names import Database, Description, Goals, Metric, Name, Objective, Tracking, problems_of_prune_on
from sweeper.spec.resources import Resources
from sweeper.spec.trainable import AnyTrainable, Command


class Sweep(StrictModel):
    """A sweep as declared. It is frozen; the trials and their results are in its study.

    Example:
        >>> sweep = Sweep.from_mapping(
        ...     {
        ...         "name": "gru",
        ...         "dataset": {"type": "digits"},
        ...         "budget": {"trials": 10, "epochs": 3},
        ...         "space": {"cell": "gru", "units": {"type": "int", "low": 16, "high": 64}},
        ...     }
        ... )
        >>> sweep.changed({"budget.trials": 20, "space.units.high": 128}).budget.trials
        20

    Raises:
        SpecError: `from_mapping` and `changed` raise all problems at once, each with its key. (The constructor is
            pydantic's: it raises a ValidationError, and does not check the trainable.)
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: Name = Field(
        description="Name of the sweep: up to 64 letters, digits, '.', '_' and '-'. "
        "The same name and storage continue the sweep."
    )
    description: Description = Field("", description="Purpose of the sweep, in your words.")
    trainable: AnyTrainable = Field(
        DEFAULT_TRAINABLE,
        description="Function that trains, as package.module:function; or a command that runs a script.",
    )
    seed: Seed = Field(0, description="Seed of the sweep; all randomness derives from it and the trial's number.")
    dataset: AnyDataset | None = Field(None, description="Data that the trainable learns from.")
    declared_goals: Goals = Field(
        default_factory=lambda: (Objective(),),
        alias="objective",
        description="Metric that the sweep optimises; or a list of several.",
    )
    prune_on: Metric | None = Field(
        None,
        description="Metric of several in `objective` by which trials are pruned and ranked; without it, none is.",
    )
    budget: Budget = Field(description="Length of one trial, and limits of the whole sweep.")
    resources: Resources = Field(default_factory=Resources, description="CPUs, GPUs and memory of one trial.")
    space: Annotated[dict[str, Domain], Field(min_length=1)] = Field(
        description="Hyperparameters: those to search, and constants as plain values."
    )
    sampler: Sampler = Field(default_factory=Tpe, description="How the next trial's parameters are chosen.")
    pruner: Pruner = Field(default_factory=Median, description="When a bad trial is stopped early.")
    enqueue: Annotated[tuple[dict[str, Scalar], ...], Field(strict=False)] = Field(
        (), description="Points to try first; the sampler chooses the parameters that they leave out."
    )
    confirm: Confirm | None = Field(None, description="Train the best trials again with fresh seeds after the search.")
    tracking: Tracking = Field(
        default_factory=Tracking, description="MLflow server, experiment and registered model of the sweep."
    )
    storage: Database = Field(
        "sqlite:///sweeper.db", description="SQL database of the study. May contain ${env:NAME} for secrets."
    )

    @model_validator(mode="before")
    @classmethod
    def _is_not_pruned_by_default(cls, declared: Any) -> Any:
        """Choose no pruner where a sweep names neither one nor which of its goals prunes."""
        if not isinstance(declared, Mapping) or not isinstance(declared.get("objective"), list | tuple):
            return declared
        return declared if declared.get("prune_on") else {"pruner": NoPruner(), **declared}

    @field_validator("space")
    @classmethod
    def _is_consistent(cls, space: dict[str, AnyDomain]) -> dict[str, AnyDomain]:
        raise_problems(check_space(space))
        return space

    # Each of these needs fields that are validated before it, and reports nothing if one of them has problems itself.

    @field_validator("prune_on")
    @classmethod
    def _is_a_goal(cls, metric: str | None, info: ValidationInfo) -> str | None:
        raise_problems(problems_of_prune_on(metric, info.data.get("declared_goals", ())))
        return metric

    @field_validator("sampler")
    @classmethod
    def _can_search(cls, sampler: Sampler, info: ValidationInfo) -> Sampler:
        if "space" in info.data and (reason := sampler.unsupported_reason(info.data["space"])):
            raise_problems([Problem(("type",), reason)])
        if len(info.data.get("declared_goals", ())) > 1 and not sampler.TAKES_GOALS:
            raise_problems([Problem(("type",), f"{sampler.type} searches for one goal; choose type: tpe, or nsga2")])
        return sampler

    @field_validator("pruner")
    @classmethod
    def _fits_the_budget(cls, pruner: Pruner, info: ValidationInfo) -> Pruner:
        if "budget" in info.data:
            raise_problems(pruner.problems(info.data["budget"]))
        if len(goals := info.data.get("declared_goals", ())) > 1 and "prune_on" in info.data:
            raise_problems(pruner.problems_of_goals([goal.metric for goal in goals], info.data["prune_on"]))
        return pruner

    @field_validator("enqueue")
    @classmethod
    def _is_in_the_space(cls, points: tuple[dict[str, Any], ...], info: ValidationInfo) -> tuple[dict[str, Any], ...]:
        if (space := info.data.get("space")) is None:
            return points
        found = ((i, problem) for i, point in enumerate(points) for problem in check_point(point, space))
        raise_problems(Problem((i, *problem.key), problem.message) for i, problem in found)
        return tuple(normalized(point, space) for point in points)

    @field_validator("confirm")
    @classmethod
    def _has_fresh_seeds(cls, confirm: Confirm | None, info: ValidationInfo) -> Confirm | None:
        if confirm is not None and "seed" in info.data.get("space", {}):
            raise_problems([Problem((), "space.seed gives each run of a trial the same seed; leave one of them out")])
        return confirm

    @classmethod
    def from_mapping(cls, declared: Mapping[str, Any]) -> Sweep:
        """Make a sweep from a mapping, checked like a file.

        Raises:
            SpecError: all problems at once.
        """
        return load(cls, declared, {})

    def changed(self, overrides: Mapping[str, Any]) -> Sweep:
        """Return a copy of the sweep with values replaced, by dotted key, checked like a file.

        Raises:
            SpecError: all problems at once.
        """
        return load(Sweep, self.model_dump(mode="json"), overrides)

    @property
    def objective(self) -> Objective:
        """The goal that prunes and ranks trials: that of `prune_on`, else the first. Most sweeps have no other."""
        return self.goals[0]

    @property
    def goals(self) -> tuple[Objective, ...]:
        """All goals, `objective` first, then the others in the order of the file."""
        return tuple(sorted(self.declared_goals, key=lambda goal: self.prune_on not in (None, goal.metric)))

    @property
    def sampler_seed(self) -> int:
        """Seed of the sampler: its own, else the sweep's."""
        return self.seed if self.sampler.seed is None else self.sampler.seed

    @property
    def chosen_sampler(self) -> Sampler:
        """The sampler that is used: the declared one, or what `auto` chooses."""
        chosen: Sampler = self.sampler.chosen(self.space, self.budget.trials)
        return chosen

    @property
    def chosen_pruner(self) -> Pruner:
        """The pruner that is used: the declared one, or what `auto` chooses."""
        # By one of several goals, each pruner loses more of the front than its epochs gain; see docs/search.md.
        is_unpruned = len(self.declared_goals) > 1 and self.pruner.type == "auto"
        chosen: Pruner = NoPruner() if is_unpruned else self.pruner.chosen(self.budget)
        return chosen

    @property
    def trial_limit(self) -> int:
        """Number of trials that the sweep runs: that of the budget, or fewer if a grid has fewer points."""
        points = grid_size(self.space) if isinstance(self.chosen_sampler, Grid) else None
        return self.budget.trials if points is None else min(self.budget.trials, points)

    def storage_url(self) -> str:
        """Return the database with its references to the environment resolved. Do not print it: it may have a password.

        Raises:
            InputError: a variable is not set.
        """
        return expand(self.storage)

    def leaves_model(self, code: Path | None = None) -> bool:
        """Return whether the trainable's code mentions what leaves a model to register; see `core.code.user_code`."""
        return leaves_model(self.trainable, code)

    def spending(self, **options: Any) -> Spending:
        """Return what its trials have used of the budget: nothing yet.

        Args:
            options: more arguments of `Spending`.
        """

        def resources_of(params: Mapping[str, Any]) -> tuple[float, float]:
            resources = self.resources.for_trial(params)
            return resources.cpus, resources.gpus

        sign = -1.0 if self.objective.direction == "maximize" else 1.0
        return Spending(self.budget, resources_of, sign, **options)

    def warnings(self) -> list[str]:
        """Return messages about settings that are allowed and still look like mistakes."""
        found = suspicious_settings(self.space)
        if isinstance(self.trainable, Command):
            found += unused_parameters(self.trainable, self.space)
        if (limit := self.trial_limit) < self.budget.trials:
            found.append(f"the grid has {limit} points: the sweep ends after {limit} trials, not {self.budget.trials}")
        if self.budget.reports == 1 and not isinstance(self.chosen_pruner, NoPruner):
            found.append("a trial reports once, at its end, so that none can be pruned; raise budget.reports_per_epoch")
        if isinstance(self.pruner, Hyperband) and self.budget.trials < 40:
            found.append(
                "hyperband divides the trials among brackets and needs 40 or more of them; try successive_halving"
            )
        if self.tracking.model is not None and not self.leaves_model():
            lacks = (
                "the command has no {model}, and no script of it names SWEEPER_MODEL; see docs/scripts.md"
                if isinstance(self.trainable, Command)
                else f"{self.trainable} calls neither trial.save_model(model) nor trial.keras(model), returns no "
                "model, and has no `evaluate`; see docs/trainables.md"
            )
            found.append(f"nothing can be registered as tracking.model {self.tracking.model!r}: {lacks}")
        if len(self.enqueue) > self.budget.trials:
            found.append(f"only {self.budget.trials} of the {len(self.enqueue)} points in enqueue will be tried")
        return found


def load_sweep(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """Load a sweep from a YAML file.

    Args:
        path: the file, in YAML 1.2.
        overrides: values that replace those of the file, by dotted key. Text is read as YAML; None and `null` remove a
            key.

    Example:
        >>> sweep = load_sweep("search_spaces/lstm.yaml", {"budget.trials": 5})
        >>> sweep.name, sweep.budget.trials
        ('lstm', 5)

    Raises:
        SpecError: the file cannot be read, or has problems: all of them at once, each with its line and column.
    """
    return load_file(Sweep, path, overrides or {})


def sweep_schema() -> dict[str, Any]:
    """Return the JSON Schema of a sweep file, for editors."""
    return json_schema(Sweep)
