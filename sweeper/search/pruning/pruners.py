"""Pruners, which stop bad trials early: one class for each pruner that a sweep file can declare."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sweeper.core.schema import Integer, Number, Problem, raise_problems
from sweeper.search.budget import Budget
from sweeper.search.pruning.base import Epochs, PrunerOptions, Reports, WithWarmup
from sweeper.search.pruning.halving import Hyperband, Promotion, SuccessiveHalving

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

__all__ = ["Hyperband", "Promotion", "SuccessiveHalving"]


MIN_REPORTS, MIN_TRIALS = 4, 4
"""Reports of a trial, and trials of a sweep, below which nothing is gained by stopping trials early."""


class _AtIntervals(WithWarmup):
    interval_epochs: Epochs | None = Field(None, description="Epochs between two checks.")
    interval_reports: Reports | None = Field(None, description="Reports between two checks; by default 1.")

    def interval(self, budget: Budget) -> int:
        """Return the number of reports between two checks."""
        return self.span("interval", budget, otherwise=1)

    def _pace(self, budget: Budget) -> dict[str, int]:
        # With 0 warm-up steps, Optuna's first interval is one step short; first() is at least 1.
        return {"n_warmup_steps": self.first(budget), "interval_steps": self.interval(budget)}


class _ComparedWithComplete(_AtIntervals):
    n_startup_trials: Annotated[Integer, Field(ge=0)] | None = Field(
        None, description="Trials that must complete before any is stopped; by default a quarter, 1 to 5."
    )
    n_min_trials: Reports = Field(1, description="Complete trials needed at a report before it is used to judge.")

    def first(self, budget: Budget) -> int:
        return self.span("min", budget, otherwise=budget.reports // 8)

    def _against(self, budget: Budget) -> dict[str, Any]:
        startup = min(5, max(1, budget.trials // 4)) if self.n_startup_trials is None else self.n_startup_trials
        return self._pace(budget) | {"n_startup_trials": startup, "n_min_trials": self.n_min_trials}


class Median(_ComparedWithComplete):
    """Stops a trial whose best value is worse than the median of complete trials at the same report."""

    type: Literal["median"] = "median"

    def build(self, budget: Budget) -> BasePruner:
        from sweeper.search.pruning.percentile import IncrementalPercentilePruner

        return IncrementalPercentilePruner(50.0, **self._against(budget))


class Percentile(_ComparedWithComplete):
    """As median, with another percentile."""

    type: Literal["percentile"] = "percentile"
    percentile: Annotated[Number, Field(ge=0, le=100)] = Field(25.0, description="Percentage of trials to keep.")

    def build(self, budget: Budget) -> BasePruner:
        from sweeper.search.pruning.percentile import IncrementalPercentilePruner

        return IncrementalPercentilePruner(self.percentile, **self._against(budget))


class Threshold(_AtIntervals):
    """Stops a trial whose metric leaves a range."""

    type: Literal["threshold"] = "threshold"
    lower: Number | None = Field(None, description="Lowest allowed value.")
    upper: Number | None = Field(None, description="Highest allowed value.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.lower is None and self.upper is None:
            raise_problems([Problem((), "a threshold needs lower, or upper, or both")])
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise_problems([Problem(("lower",), f"{self.lower} must be below upper: {self.upper}")])
        return self

    def first(self, budget: Budget) -> int:
        return self.span("min", budget, otherwise=1)

    def build(self, budget: Budget) -> BasePruner:
        from optuna.pruners import ThresholdPruner

        return ThresholdPruner(self.lower, self.upper, **self._pace(budget))


class NoPruner(PrunerOptions):
    """Stops no trial."""

    type: Literal["none"] = "none"

    def problems_of_goals(self, metrics: Sequence[str], prune_on: str | None) -> list[Problem]:
        return []

    def build(self, budget: Budget) -> BasePruner:
        from optuna.pruners import NopPruner

        return NopPruner()


WrappablePruner = Annotated[
    Median | Percentile | SuccessiveHalving | Hyperband | Threshold, Field(discriminator="type")
]


class Patient(PrunerOptions):
    """Lets another pruner judge a trial only after it stopped improving."""

    type: Literal["patient"] = "patient"
    wrapped: WrappablePruner | None = Field(None, description="That pruner; without one, the trial is stopped.")
    patience_epochs: Epochs | None = Field(None, description="Epochs without improvement.")
    patience_reports: Reports | None = Field(
        None, description="Reports without improvement; by default a quarter of the trial's reports."
    )
    min_delta: Annotated[Number, Field(ge=0)] = Field(0.0, description="Smallest difference that counts as worse.")

    def patience(self, budget: Budget) -> int:
        """Return the number of reports without improvement that it waits for."""
        return self.span("patience", budget, otherwise=budget.reports // 4)

    def first(self, budget: Budget) -> int:
        return max(self.patience(budget) + 1, self.wrapped.first(budget) if self.wrapped else 1)

    def problems(self, budget: Budget) -> list[Problem]:
        inner = self.wrapped.problems(budget) if self.wrapped else []
        return super().problems(budget) + [Problem(("wrapped", *problem.key), problem.message) for problem in inner]

    def problems_of_goals(self, metrics: Sequence[str], prune_on: str | None) -> list[Problem]:
        found = super().problems_of_goals(metrics, prune_on)
        inner = self.wrapped.problems_of_goals(metrics, prune_on) if self.wrapped and not found else []
        return found + [Problem(("wrapped", *problem.key), problem.message) for problem in inner]

    def build(self, budget: Budget) -> BasePruner:
        from optuna.exceptions import ExperimentalWarning

        from sweeper.search.pruning.patient import ObservedPatientPruner

        wrapped = self.wrapped.build(budget) if self.wrapped else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Optuna compares the last patience + 1 reports with those before them.
            return ObservedPatientPruner(wrapped, self.patience(budget) - 1, self.min_delta)


class Auto(PrunerOptions):
    """The pruner that does best in docs/search.md: promotion; none for few trials or reports, or several goals."""

    type: Literal["auto"] = "auto"

    def problems_of_goals(self, metrics: Sequence[str], prune_on: str | None) -> list[Problem]:
        return []

    def chosen(self, budget: Budget) -> Promotion | NoPruner:
        return NoPruner() if budget.reports < MIN_REPORTS or budget.trials < MIN_TRIALS else Promotion()

    def build(self, budget: Budget) -> BasePruner:
        return self.chosen(budget).build(budget)


Pruner = Annotated[
    Auto | Median | Percentile | SuccessiveHalving | Hyperband | Promotion | Threshold | Patient | NoPruner,
    Field(discriminator="type"),
]
