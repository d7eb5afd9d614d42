"""What a sweep cost: the time of its trials, by state, and the reports that they made."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.analysis.trials import as_seen
from sweeper.study.queue import seconds_of

if TYPE_CHECKING:
    from sweeper.search.spending import Amount
    from sweeper.study.view import StudyView


def used_of(study: StudyView) -> tuple[Amount, ...]:
    """Return what a sweep has used of the limits of its budget until now; nothing without one."""
    spending = study.sweep.spending()
    for row in study.rows(with_fresh=True):
        spending.settle(row, seconds_of(study, row))
    return tuple(spending.amounts())


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
        by_state[row.state] += seconds_of(study, row)
    full = study.sweep.budget.reports
    return Costs(
        seconds=sum(by_state.values()),
        by_state=dict(by_state),
        reports_run=sum(row.step for row in rows),
        reports_budgeted=sum(full if row.state == "PRUNED" else row.step for row in rows),
    )
