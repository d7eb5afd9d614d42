"""Budget of a sweep. The length of a trial is given in epochs or gradient steps, and counted in reports."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from sweeper.core.schema import Integer, Number, Problem, StrictModel, raise_problems
from sweeper.core.text import format_value

MAX_EPOCHS = 1_000_000


_Hours = Annotated[Number, Field(gt=0, le=1e9)]


class Cost(StrictModel):
    """Price of the trials, and the most that they may cost."""

    cpu_hour: Annotated[Number, Field(gt=0, le=1e9)] | None = Field(None, description="Price of a CPU-hour.")
    gpu_hour: Annotated[Number, Field(gt=0, le=1e9)] | None = Field(None, description="Price of a GPU-hour.")
    limit: Annotated[Number, Field(gt=0, le=1e12)] | None = Field(None, description="Most that the trials may cost.")
    currency: Annotated[str, StringConstraints(min_length=1, max_length=8)] = Field(
        "EUR", description="Name of the money."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.limit is None:
            raise_problems([Problem(("limit",), "a price needs the most that the trials may cost; add limit: 40")])
        if self.cpu_hour is None and self.gpu_hour is None:
            raise_problems([Problem((), "a limit needs a price; add cpu_hour: 0.05, or gpu_hour: 2.5")])
        return self

    def of(self, cpu_hours: float, gpu_hours: float) -> float:
        """Return the price of so many hours."""
        return (self.cpu_hour or 0.0) * cpu_hours + (self.gpu_hour or 0.0) * gpu_hours


class Budget(StrictModel):
    """Length of one trial, and limits of the whole sweep."""

    trials: Annotated[Integer, Field(ge=1, le=1_000_000)] = Field(description="Number of trials in the sweep.")
    epochs: Annotated[Number, Field(gt=0, le=MAX_EPOCHS)] | None = Field(
        None, description="Length of a full trial, in epochs."
    )
    steps: Annotated[Integer, Field(ge=1, le=10**12)] | None = Field(
        None, description="Length of a full trial, in gradient steps instead of epochs."
    )
    reports_per_epoch: Annotated[Integer, Field(ge=1, le=10_000)] = Field(
        1, description="Reports per epoch; a trial can be stopped at each of them."
    )
    report_every: Annotated[Integer, Field(ge=1)] | None = Field(
        None, description="Gradient steps between two reports; by default a twentieth of `steps`."
    )
    parallel: Annotated[Integer, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Trials that run at a time; `auto`: as many as the nodes have room for."
    )
    timeout: Duration | None = Field(None, description="Stop the sweep after this time: 30m, 1h30m, 90s.")
    cpu_hours: _Hours | None = Field(
        None, description="CPU-hours of all trials and attempts; at 90 % only those go on that can still end within."
    )
    gpu_hours: _Hours | None = Field(None, description="The same in GPU-hours.")
    cost: Cost | None = Field(None, description="The same in money.")
    stall_timeout: Duration | None = Field(
        3600.0,
        description="A worker that reports nothing for this long is killed, and its trial is retried: 10m, 1h.",
    )
    reuse: bool = Field(
        False,
        description="Take the reports of a finished trial with the same parameters, data, code and seed of a sweep.",
    )
    max_failures: Annotated[Integer, Field(ge=0)] = Field(
        3,
        description="Retries of a trial whose worker crashed, hung or met a network or file-system error.",
    )

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        problems: list[Problem] = []
        if self.epochs is not None:
            problems += self._problems_of_epochs(self.epochs)
        elif self.steps is not None:
            problems += self._problems_of_steps(self.steps)
        else:
            problems.append(Problem((), "has no length of a trial; give epochs, or steps"))
        if self.parallel != "auto" and self.parallel > self.trials:
            message = f"{self.parallel} is more than the sweep's {self.trials} trials; use {self.trials}, or auto"
            problems.append(Problem(("parallel",), message))
        raise_problems(problems)
        return self

    def _problems_of_epochs(self, epochs: float) -> Iterator[Problem]:
        if self.steps is not None:
            yield Problem(("steps",), "epochs and steps are both given; leave one of them out")
        elif self.report_every is not None:
            yield Problem(("report_every",), "needs steps; with epochs, use reports_per_epoch")
        if not math.isclose(epochs * self.reports_per_epoch, self._whole_reports(), abs_tol=1e-6):
            message = f"{epochs} ends between two reports at {self.reports_per_epoch} per epoch"
            yield Problem(("epochs",), f"{message}; change reports_per_epoch, or the epochs")

    def _problems_of_steps(self, steps: int) -> Iterator[Problem]:
        if "reports_per_epoch" in self.model_fields_set and self.reports_per_epoch != 1:
            yield Problem(("reports_per_epoch",), "needs epochs; with steps, use report_every")
        if self.report_every is not None and self.report_every > steps:
            yield Problem(("report_every",), f"{self.report_every} is more than the {steps} steps of a trial")

    def _whole_reports(self) -> int:
        return max(1, round((self.epochs or 0) * self.reports_per_epoch))

    @property
    def _step_width(self) -> int:
        return self.report_every or max(1, (self.steps or 1) // 20)

    @property
    def reports(self) -> int:
        """Number of reports of a full trial."""
        return self._whole_reports() if self.steps is None else math.ceil(self.steps / self._step_width)

    def epoch_of(self, step: int) -> float:
        """Return the epoch, or with a budget of steps the gradient step, at which report number `step` is made."""
        return step / self.reports_per_epoch if self.steps is None else min(self.steps, step * self._step_width)

    def reports_in(self, epochs: float) -> int:
        """Return the number of reports in some epochs, or with a budget of steps gradient steps; at least 1."""
        reports = epochs * self.reports_per_epoch if self.steps is None else epochs / self._step_width
        return max(1, math.ceil(reports - 1e-9))


_DURATION = re.compile(r"(?=.)(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def _seconds(declared: object) -> object:
    if not isinstance(declared, str):
        return declared
    match = _DURATION.fullmatch(declared)
    if match is None:
        compact = re.sub(r"\s*(d|h|m|s)[a-z]*\s*", r"\1", declared.strip().lower())
        proposal = compact if _DURATION.fullmatch(compact) else "30m"
        raise ValueError(
            f"{format_value(declared)} is not a duration; write {proposal} (units d, h, m, s, as in 1h30m)"
        )
    return float(sum(float(n or 0) * unit for n, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True)))


Duration = Annotated[
    Number,
    Field(gt=0),
    BeforeValidator(_seconds, json_schema_input_type=Annotated[str, Field(pattern=_DURATION.pattern)] | float),
]
