"""Learning curves of trials as plain values: the objective, or another metric, by epoch or by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.analysis.trials import as_seen

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.study.view import StudyView

MAX_SINGLE_READS = 20
"""Trials that are read one by one; with more, one query that reads the reports of all trials is faster."""


@dataclass(frozen=True)
class Curve:
    """The learning curve of one trial.

    Attributes:
        state: as people see it, INTERRUPTED included.
        epochs: where the reports were made, in the unit of the budget: epochs, or gradient steps.
        values: the metric there. Values that are not finite are left out, and so are reports without the metric.
    """

    number: int
    state: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]


def curves_of(study: StudyView, rows: Sequence[TrialRecord], metric: str | None = None) -> list[Curve]:
    """Read the curves of these trials, in their order; that of a trial without reports is empty.

    Args:
        metric: by default that of the objective.
    """
    name, epoch_of = metric or study.sweep.objective.metric, study.sweep.budget.epoch_of
    reports: Mapping[int, Sequence[Report]]
    if len(rows) <= MAX_SINGLE_READS:
        reports = {row.number: study.reports(row.number) for row in rows}
    else:
        reports = study.all_reports()
    found = []
    for row in as_seen(rows, is_running=study.is_running):
        points = [
            (epoch_of(report.step), report.metrics[name])
            for report in reports.get(row.number, ())
            if math.isfinite(report.metrics.get(name, math.nan))
        ]
        epochs, values = tuple(epoch for epoch, _ in points), tuple(value for _, value in points)
        found.append(Curve(row.number, row.state, epochs, values))
    return found
