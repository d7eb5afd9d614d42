"""What pruners have in common: options that are spans of training, in epochs or in reports.

Optuna counts steps; here a step is the number of a report, and the first is 1. Options that are spans of training are
given in epochs (`min_epochs`) or in reports (`min_reports`); those in epochs do not depend on `reports_per_epoch`. A
trial is never judged at its last report: a trial that makes it is complete.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from sweeper.core.schema import Integer, Number, Problem, StrictModel, raise_problems
from sweeper.search.budget import MAX_EPOCHS, Budget

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Epochs = Annotated[Number, Field(gt=0, le=MAX_EPOCHS)]


Reports = Annotated[Integer, Field(ge=1)]


class PrunerOptions(StrictModel):
    """Options of one pruner of a sweep file, and how to build it."""

    def chosen(self, budget: Budget) -> Any:
        """Return the options of the pruner that is used: these, unless they leave the choice to sweeper."""
        return self

    @abstractmethod
    def build(self, budget: Budget) -> BasePruner: ...

    def first(self, budget: Budget) -> int:
        """Return the first report at which a trial can be stopped."""
        return 1

    def pauses(self, budget: Budget) -> list[int]:
        """Return the reports at which a trial may be stopped for a while only."""
        return []

    def rungs(self, budget: Budget) -> list[int]:
        """Return the reports at which trials are compared, of a pruner that compares them at a few only."""
        return self.pauses(budget)

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

    def problems_of_goals(self, metrics: Sequence[str], prune_on: str | None) -> list[Problem]:
        """Return the problems of the options in a sweep of several goals, of which one may prune."""
        if prune_on is not None:
            return []
        way_out = f"name it, as in prune_on: {metrics[0]}; or choose type: none"
        return [Problem(("type",), f"a pruner judges by one goal, and objective lists {len(metrics)}; {way_out}")]

    @model_validator(mode="after")
    def _counts_once(self) -> Self:
        pairs = ((name, _in_reports(name)) for name in type(self).model_fields if name.endswith("_epochs"))
        twice = [pair for pair in pairs if None not in (getattr(self, pair[0]), getattr(self, pair[1]))]
        raise_problems(
            Problem((reports,), f"{epochs} and {reports} are both given; leave one of them out")
            for epochs, reports in twice
        )
        return self

    def span(self, name: str, budget: Budget, *, otherwise: int) -> int:
        """Return a span of training in reports, from `NAME_epochs` or `NAME_reports`."""
        epochs, reports = getattr(self, f"{name}_epochs"), getattr(self, f"{name}_reports")
        if epochs is not None:
            return budget.reports_in(epochs)
        return max(1, otherwise) if reports is None else int(reports)


def _in_reports(name: str) -> str:
    return name.removesuffix("epochs") + "reports"


class WithWarmup(PrunerOptions):
    """Options of a pruner that judges from some report on."""

    min_epochs: Epochs | None = Field(
        None, description="Epochs before the first possible stop; by default a share of the trial's length."
    )
    min_reports: Reports | None = Field(
        None, description="Reports before the first possible stop; by default a share of the trial's length."
    )
