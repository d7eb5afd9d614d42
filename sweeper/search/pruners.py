"""Pruners, which stop bad trials early: one class for each pruner of Optuna that judges learning curves.

Optuna counts steps; here a step is the number of a report, and the first is 1. Options that are spans of training are
given in epochs (`min_epochs`) or in reports (`min_reports`); those in epochs do not depend on `reports_per_epoch`. A
trial is never judged at its last report: a trial that makes it is complete.
"""

from __future__ import annotations

import re
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sweeper.core.schema import Integer, Number, Problem, StrictModel, raise_problems
from sweeper.search.budget import MAX_EPOCHS, Budget

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Epochs = Annotated[Number, Field(gt=0, le=MAX_EPOCHS)]


Reports = Annotated[Integer, Field(ge=1)]


class _Pruner(StrictModel):
    @abstractmethod
    def build(self, budget: Budget) -> BasePruner: ...

    def first(self, budget: Budget) -> int:
        """Return the first report at which a trial can be stopped."""
        return 1

    def problems(self, budget: Budget) -> list[Problem]:
        """Return the problems of the options with this budget."""
        problems = [
            Problem((name,), f"counts epochs, but the budget counts steps; use {_in_reports(name)}")
            for name in type(self).model_fields
            if name.endswith("_epochs") and getattr(self, name) is not None and budget.epochs is None
        ]
        if not problems and self.first(budget) >= budget.reports > 1:
            given = [name for name in self.model_fields_set if re.fullmatch("(min|patience)_(epochs|reports)", name)]
            seen = f"judges from report {self.first(budget)} on, but a trial has {budget.reports} reports"
            message = f"{seen}, and the last one is never judged; use a smaller value"
            problems.append(Problem((*given, "type")[:1], message))
        return problems

    @model_validator(mode="after")
    def _counts_once(self) -> Self:
        pairs = ((name, _in_reports(name)) for name in type(self).model_fields if name.endswith("_epochs"))
        twice = [pair for pair in pairs if None not in (getattr(self, pair[0]), getattr(self, pair[1]))]
        raise_problems(
            Problem((reports,), f"{epochs} and {reports} are both given; leave one of them out")
            for epochs, reports in twice
        )
        return self

    def _reports(self, name: str, budget: Budget, *, otherwise: int) -> int:
        """Return a span of training in reports, from `NAME_epochs` or `NAME_reports`."""
        epochs, reports = getattr(self, f"{name}_epochs"), getattr(self, f"{name}_reports")
        if epochs is not None:
            return budget.reports_in(epochs)
        return max(1, otherwise) if reports is None else int(reports)


def _in_reports(name: str) -> str:
    return name.removesuffix("epochs") + "reports"


class _WithWarmup(_Pruner):
    min_epochs: Epochs | None = Field(
        None, description="Epochs before the first possible stop; by default a share of the trial's length."
    )
    min_reports: Reports | None = Field(
        None, description="Reports before the first possible stop; by default a share of the trial's length."
    )


class _AtIntervals(_WithWarmup):
    interval_epochs: Epochs | None = Field(None, description="Epochs between two checks.")
    interval_reports: Reports | None = Field(None, description="Reports between two checks; by default 1.")

    def interval(self, budget: Budget) -> int:
        """Return the number of reports between two checks."""
        return self._reports("interval", budget, otherwise=1)

    def _pace(self, budget: Budget) -> dict[str, int]:
        # With 0 warm-up steps, Optuna's first interval is one step short; first() is at least 1.
        return {"n_warmup_steps": self.first(budget), "interval_steps": self.interval(budget)}


class _ComparedWithComplete(_AtIntervals):
    n_startup_trials: Annotated[Integer, Field(ge=0)] | None = Field(
        None, description="Trials that must complete before any is stopped; by default a quarter, 1 to 5."
    )
    n_min_trials: Reports = Field(1, description="Complete trials needed at a report before it is used to judge.")

    def first(self, budget: Budget) -> int:
        return self._reports("min", budget, otherwise=budget.reports // 8)

    def _against(self, budget: Budget) -> dict[str, Any]:
        startup = min(5, max(1, budget.trials // 4)) if self.n_startup_trials is None else self.n_startup_trials
        return self._pace(budget) | {"n_startup_trials": startup, "n_min_trials": self.n_min_trials}


class Median(_ComparedWithComplete):
    """Stops a trial whose best value is worse than the median of complete trials at the same report."""

    type: Literal["median"] = "median"

    def build(self, budget: Budget) -> BasePruner:
        from sweeper.search.bounded import IncrementalPercentilePruner

        return IncrementalPercentilePruner(50.0, **self._against(budget))


class Percentile(_ComparedWithComplete):
    """As median, with another percentile."""

    type: Literal["percentile"] = "percentile"
    percentile: Annotated[Number, Field(ge=0, le=100)] = Field(25.0, description="Percentage of trials to keep.")

    def build(self, budget: Budget) -> BasePruner:
        from sweeper.search.bounded import IncrementalPercentilePruner

        return IncrementalPercentilePruner(self.percentile, **self._against(budget))


class _Halving(_WithWarmup):
    reduction_factor: Annotated[Integer, Field(ge=2, le=1000)] = Field(
        4, description="One in this many trials passes each rung."
    )
    bootstrap_count: Annotated[Integer, Field(ge=0)] = Field(
        0, description="Trials that must reach a rung before any passes it."
    )

    def _rung(self, budget: Budget) -> int:
        return self._reports("min", budget, otherwise=budget.reports // self.reduction_factor**2)

    def problems(self, budget: Budget) -> list[Problem]:
        problems = super().problems(budget)
        if self.bootstrap_count >= budget.trials:
            message = f"{self.bootstrap_count} would stop all {budget.trials} trials at the first rung"
            problems.append(Problem(("bootstrap_count",), message))
        return problems


class SuccessiveHalving(_Halving):
    """Lets only the best trials continue at each rung: min_epochs, then times reduction_factor."""

    type: Literal["successive_halving"] = "successive_halving"
    min_early_stopping_rate: Annotated[Integer, Field(ge=0, le=50)] = Field(
        0, description="Rungs to skip at the beginning."
    )

    def first(self, budget: Budget) -> int:
        return int(self._rung(budget) * self.reduction_factor**self.min_early_stopping_rate)

    def build(self, budget: Budget) -> BasePruner:
        from optuna.pruners import SuccessiveHalvingPruner

        return SuccessiveHalvingPruner(
            min_resource=self._rung(budget),
            reduction_factor=self.reduction_factor,
            min_early_stopping_rate=self.min_early_stopping_rate,
            bootstrap_count=self.bootstrap_count,
        )


class Hyperband(_Halving):
    """Successive halving in brackets whose first rungs differ; for 40 trials or more."""

    type: Literal["hyperband"] = "hyperband"
    reduction_factor: Annotated[Integer, Field(ge=2, le=1000)] = Field(
        3, description="One in this many trials passes each rung."
    )

    def first(self, budget: Budget) -> int:
        return self._rung(budget)

    def build(self, budget: Budget) -> BasePruner:
        from optuna.pruners import HyperbandPruner

        # Optuna uses max_resource only to count brackets, by a logarithm that rounds: log(243, 3) is 4.999, which gives
        # one bracket too few. Where the budget is a whole power, one more report corrects this and changes no more.
        rung, factor, top = self._rung(budget), self.reduction_factor, self._rung(budget)
        while top < budget.reports:
            top *= factor
        return HyperbandPruner(
            min_resource=rung,
            max_resource=budget.reports + (top == budget.reports),
            reduction_factor=factor,
            bootstrap_count=self.bootstrap_count,
        )


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
        return self._reports("min", budget, otherwise=1)

    def build(self, budget: Budget) -> BasePruner:
        from optuna.pruners import ThresholdPruner

        return ThresholdPruner(self.lower, self.upper, **self._pace(budget))


class NoPruner(_Pruner):
    """Stops no trial."""

    type: Literal["none"] = "none"

    def build(self, budget: Budget) -> BasePruner:
        from optuna.pruners import NopPruner

        return NopPruner()


WrappablePruner = Annotated[
    Median | Percentile | SuccessiveHalving | Hyperband | Threshold, Field(discriminator="type")
]


class Patient(_Pruner):
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
        return self._reports("patience", budget, otherwise=budget.reports // 4)

    def first(self, budget: Budget) -> int:
        return max(self.patience(budget) + 1, self.wrapped.first(budget) if self.wrapped else 1)

    def problems(self, budget: Budget) -> list[Problem]:
        inner = self.wrapped.problems(budget) if self.wrapped else []
        return super().problems(budget) + [Problem(("wrapped", *problem.key), problem.message) for problem in inner]

    def build(self, budget: Budget) -> BasePruner:
        from optuna.exceptions import ExperimentalWarning

        from sweeper.search.observed import ObservedPatientPruner

        wrapped = self.wrapped.build(budget) if self.wrapped else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Optuna compares the last patience + 1 reports with those before them.
            return ObservedPatientPruner(wrapped, self.patience(budget) - 1, self.min_delta)


Pruner = Annotated[
    Median | Percentile | SuccessiveHalving | Hyperband | Threshold | Patient | NoPruner, Field(discriminator="type")
]
