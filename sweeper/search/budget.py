"""What a sweep may spend, and how the length of a trial is counted: epochs or gradient steps, in reports."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sweeper.core.schema import Integer, Number, Problem, StrictModel, raise_problems
from sweeper.core.text import format_value

MAX_EPOCHS = 1_000_000


class Budget(StrictModel):
    """How much is spent: on one trial, and on all of them."""

    trials: Annotated[Integer, Field(ge=1, le=1_000_000)] = Field(description="Trials to run in all.")
    epochs: Annotated[Number, Field(gt=0, le=MAX_EPOCHS)] | None = Field(
        None, description="Length of a full trial in epochs."
    )
    steps: Annotated[Integer, Field(ge=1, le=10**12)] | None = Field(
        None, description="Length of a full trial in gradient steps, instead of epochs."
    )
    reports_per_epoch: Annotated[Integer, Field(ge=1, le=10_000)] = Field(
        1, description="Reports (and so chances to stop a trial) in one epoch."
    )
    report_every: Annotated[Integer, Field(ge=1)] | None = Field(
        None, description="Gradient steps from one report to the next; a twentieth of steps by default."
    )
    parallel: Annotated[Integer, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Trials at a time; auto: as many as fit."
    )
    timeout: Duration | None = Field(None, description="Stop the sweep after this long: 30m, 1h30m, 90s.")
    stall_timeout: Duration | None = Field(
        3600.0, description="A trial that reports nothing for this long hangs, and is ended and tried again: 10m, 1h."
    )
    max_failures: Annotated[Integer, Field(ge=0)] = Field(
        3, description="Crashes of its worker that a trial may survive before it counts as failed."
    )

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        faults = []
        if self.epochs is None and self.steps is None:
            faults.append(Problem((), "says no length of a trial; give epochs, or steps"))
        if self.epochs is not None:
            if self.steps is not None:
                faults.append(Problem(("steps",), "and epochs are two lengths; leave one of the two out"))
            elif self.report_every is not None:
                faults.append(Problem(("report_every",), "goes with steps; with epochs, use reports_per_epoch"))
            if not math.isclose(self.epochs * self.reports_per_epoch, self._whole_reports(), abs_tol=1e-6):
                message = f"{self.epochs} ends between two reports at {self.reports_per_epoch} per epoch"
                faults.append(Problem(("epochs",), f"{message}; change reports_per_epoch, or the epochs"))
        elif self.steps is not None:
            if "reports_per_epoch" in self.model_fields_set and self.reports_per_epoch != 1:
                faults.append(Problem(("reports_per_epoch",), "goes with epochs; with steps, use report_every"))
            if self.report_every is not None and self.report_every > self.steps:
                faults.append(Problem(("report_every",), f"{self.report_every} is more than all {self.steps} steps"))
        if self.parallel != "auto" and self.parallel > self.trials:
            message = f"{self.parallel} is more than the {self.trials} trials there are; use {self.trials}, or auto"
            faults.append(Problem(("parallel",), message))
        raise_problems(faults)
        return self

    def _whole_reports(self) -> int:
        return max(1, round((self.epochs or 0) * self.reports_per_epoch))

    @property
    def _step_width(self) -> int:
        return self.report_every or max(1, (self.steps or 1) // 20)

    @property
    def reports(self) -> int:
        """Reports that a full trial makes."""
        return self._whole_reports() if self.steps is None else math.ceil(self.steps / self._step_width)

    def epoch_of(self, step: int) -> float:
        """The epoch (with a budget of steps: the gradient step) that report number `step` ends."""
        return step / self.reports_per_epoch if self.steps is None else min(self.steps, step * self._step_width)

    def reports_in(self, epochs: float) -> int:
        """Reports made in so many epochs (with a budget of steps: gradient steps), at least 1."""
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
        raise ValueError(f"{format_value(declared)} is no duration; write {proposal} (units d, h, m, s, as in 1h30m)")
    return float(sum(float(n or 0) * unit for n, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True)))


Duration = Annotated[
    Number,
    Field(gt=0),
    BeforeValidator(_seconds, json_schema_input_type=Annotated[str, Field(pattern=_DURATION.pattern)] | float),
]
