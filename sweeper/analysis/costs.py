"""What a sweep cost: the time of its trials, by state, and the reports that they made."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sweeper.analysis.trials import as_seen

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.study.view import StudyView


@dataclass(frozen=True)
class Costs:
    """The cost of a sweep.

    Attributes:
        seconds: sum over its trials, all their attempts included; trials that run at the same time count each.
        by_state: the same by state, as people see it.
        reports_run: reports that were made.
        reports_budgeted: reports that would have been made without the pruner.
    """

    seconds: float
    by_state: dict[str, float]
    reports_run: int
    reports_budgeted: int


def costs_of(study: StudyView) -> Costs:
    """Return what a sweep cost until now, without the trials that were added with their values."""
    by_state: dict[str, float] = defaultdict(float)
    rows = [row for row in study.rows() if not row.is_added]
    for row in as_seen(rows, is_running=study.is_running):
        by_state[row.state] += _seconds(study, row)
    full = study.sweep.budget.reports
    return Costs(
        seconds=sum(by_state.values()),
        by_state=dict(by_state),
        reports_run=sum(row.step for row in rows),
        reports_budgeted=sum(full if row.state == "PRUNED" else row.step for row in rows),
    )


def _seconds(study: StudyView, row: TrialRecord) -> float:
    """Return the time of a trial; of one that has not ended until now, or until the last report if nothing runs it."""
    begun = row.resumed or row.started
    if row.seconds is not None or begun is None:
        return row.seconds or row.spent
    if study.is_running:
        until = datetime.now(UTC)
    else:
        last = study.reports(row.number)[-1:]
        until = datetime.fromtimestamp(last[0].time, UTC) if last else begun
    return row.spent + max(0.0, (until - begun).total_seconds())
