"""Pruners that compare trials at rungs, each of which only the best pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sweeper.core.schema import Integer, Number, Problem
from sweeper.search.budget import Budget
from sweeper.search.pruning.base import WithWarmup

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


MAX_RUNGS = 3
"""Rungs of `Promotion`: a trial that passed them all runs to its end."""


class _Halving(WithWarmup):
    reduction_factor: Annotated[Integer, Field(ge=2, le=1000)] = Field(
        4, description="One in this many trials passes each rung."
    )
    bootstrap_count: Annotated[Integer, Field(ge=0)] = Field(
        0, description="Trials that must reach a rung before any passes it."
    )

    def _rung(self, budget: Budget) -> int:
        return self.span("min", budget, otherwise=budget.reports // self.reduction_factor**2)

    def rungs(self, budget: Budget) -> list[int]:
        rungs = [self.first(budget)]
        while (following := rungs[-1] * self.reduction_factor) < budget.reports:
            rungs.append(following)
        return rungs

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

    def problems_of_goals(self, metrics: Sequence[str], prune_on: str | None) -> list[Problem]:
        # Optuna 5.0 hands its brackets, and the sampler, a study that has no direction if there are several goals.
        way_out = "choose type: promotion, or successive_halving"
        return [Problem(("type",), f"hyperband needs a single goal, and objective lists {len(metrics)}; {way_out}")]

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


class Promotion(WithWarmup):
    """Successive halving that loses nobody: a stopped trial continues once it is among the best at its rung.

    The rungs are at min_epochs, and at twice the epochs of the rung before.
    """

    type: Literal["promotion"] = "promotion"
    reduction_factor: Annotated[Integer, Field(ge=2, le=1000)] = Field(
        3, description="One in this many trials passes each rung but the first."
    )
    first_factor: Annotated[Integer, Field(ge=2, le=1000)] = Field(
        2, description="One in this many trials passes the first rung, where least is known."
    )
    spacing: Annotated[Integer, Field(ge=2, le=1000)] = Field(
        2, description="Epochs of a rung, divided by those of the rung before."
    )
    look_ahead: Annotated[Number, Field(ge=0, le=10)] = Field(
        0.5, description="Share of its last gain that a trial is credited with when it is compared; 0: none."
    )
    effort: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.2, description="Share of the reports of all trials, run to their ends, that the sweep spends at least."
    )

    def pauses(self, budget: Budget) -> list[int]:
        rungs = [self.first(budget)]
        while (following := rungs[-1] * self.spacing) < budget.reports:
            rungs.append(following)
        return rungs[:MAX_RUNGS]

    def first(self, budget: Budget) -> int:
        return self.span("min", budget, otherwise=budget.reports // 16)

    def build(self, budget: Budget) -> BasePruner:
        from sweeper.search.pruning.promotion import PromotionPruner

        first, *later = self.pauses(budget)
        rungs = [(first, self.first_factor), *((step, self.reduction_factor) for step in later)]
        effort = self.effort * budget.trials * budget.reports
        return PromotionPruner(rungs, budget.reports, look_ahead=self.look_ahead, effort=effort)
