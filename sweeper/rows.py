"""Trials as rows: what the study knows of each, in plain values, and who is told of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from sweeper.spec import Sweep
from sweeper.spec.space import suggest
from sweeper.trial import Report

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class TrialRow:
    """One trial as the study knows it; `step` is its last report, times are UTC."""

    number: int
    state: str
    params: dict[str, Any]
    value: float | None = None
    step: int = 0
    attempt: int = 1
    node: str | None = None
    reason: str | None = None
    started: datetime | None = None
    ended: datetime | None = None


class Listener(Protocol):
    """Is told of each change while a sweep runs. Called by the driver between trials: return at once."""

    def on_trial(self, row: TrialRow, report: Report | None) -> None:
        """A trial started (no report yet), reported, was taken up again, or ended."""

    def on_phase(self, message: str) -> None:
        """The sweep as a whole goes on to something else."""


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


def ranked(rows: Iterable[TrialRow], sweep: Sweep) -> list[TrialRow]:
    """COMPLETE trials by value, the first of equals first, then the others by how far they came."""
    order = {"COMPLETE": 0, "RUNNING": 1, "PRUNED": 2, "FAIL": 3}
    sign = -1 if sweep.objective.direction == "maximize" else 1

    def rank(row: TrialRow) -> tuple[float, ...]:
        reached = 0 if row.state == "COMPLETE" else -row.step
        return (order[row.state], reached, float("inf") if row.value is None else sign * row.value, row.number)

    return sorted(rows, key=rank)


def utc(moment: datetime | None) -> datetime | None:
    """A moment of Optuna's, which has no time zone and means local time."""
    return None if moment is None else moment.astimezone(UTC)
