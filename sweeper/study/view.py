"""A study as anyone may read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sweeper.core.trials import TrialRow
from sweeper.search.space import suggest
from sweeper.spec import Sweep

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def row_of(trial: FrozenTrial, sweep: Sweep) -> TrialRow:
    """The row of a trial that has started."""
    try:
        params = suggest(trial, sweep.space)
    except ValueError:  # its driver died between two parameters; the rest is drawn when the trial is taken up
        params = dict(trial.params)
    step = max(trial.intermediate_values, default=0)
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        params=params,
        value=trial.intermediate_values.get(step) if trial.value is None else trial.value,
        step=step,
        attempt=trial.user_attrs.get("attempt", 1),
        node=trial.user_attrs.get("node"),
        reason=trial.user_attrs.get("reason"),
        started=utc(trial.datetime_start),
        ended=utc(trial.datetime_complete),
    )


def utc(moment: datetime | None) -> datetime | None:
    """A moment of Optuna's, which has no time zone and means local time."""
    return None if moment is None else moment.astimezone(UTC)
