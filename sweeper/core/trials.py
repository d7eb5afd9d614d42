"""The values that rooms hand each other: a trial's record, its reports, its failures, and the order of trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Report:
    """One report of a trial: its number within the trial (1 is the first), when, and every metric."""

    step: int
    time: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrialRecord:
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

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """A trial started (no report yet), reported, was taken up again, or ended."""

    def on_phase(self, message: str) -> None:
        """The sweep as a whole goes on to something else."""


Direction = Literal["maximize", "minimize"]

_STATES = {"COMPLETE": 0, "RUNNING": 1, "PRUNED": 2, "FAIL": 3}


def leaderboard(rows: Iterable[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """Sort trials: COMPLETE ones by value, the lower number first of equals; then the others by how far they came.

    This is the only order of trials in the package.
    """
    sign = -1 if direction == "maximize" else 1

    def rank(row: TrialRecord) -> tuple[float, ...]:
        reached = 0 if row.state == "COMPLETE" else -row.step
        return (_STATES[row.state], reached, float("inf") if row.value is None else sign * row.value, row.number)

    return sorted(rows, key=rank)


def best_trial(rows: Iterable[TrialRecord], direction: Direction) -> TrialRecord | None:
    """Return the COMPLETE trial that leads the leaderboard, None if no trial is COMPLETE."""
    return next(iter(leaderboard((row for row in rows if row.state == "COMPLETE"), direction)), None)


FailureKind = Literal["driver", "node", "crash", "stall", "io", "memory", "gpu", "error", "diverged"]


@dataclass(frozen=True)
class Failure:
    """What went wrong with one attempt, with a line for the user."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True)
class Attempt:
    """An attempt that failed; `step` is the last report that is on record by then."""

    attempt: int
    kind: FailureKind
    reason: str
    step: int
    node: str | None
    ended: datetime
