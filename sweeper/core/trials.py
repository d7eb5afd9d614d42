"""Values that the rooms exchange: a trial's record, its reports and failures, the order of trials, the champion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from operator import gt
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Report:
    """One report of a trial.

    Attributes:
        step: its number within the trial, from 1.
        time: Unix time in seconds.
        metrics: every metric that was reported.
        cpus: the CPUs that computed it, since the report before; None if unknown.
        source: the finished trial that it was taken from, as in `lstm:17`; None if the trial's worker made it.
    """

    step: int
    time: float
    metrics: dict[str, float]
    cpus: int | None = None
    source: str | None = None


@dataclass(frozen=True)
class FreshRun:
    """What a run with a fresh seed confirms: a trial of the search; `run` counts its runs from 1."""

    trial: int
    run: int
    seed: int


Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class GoalValue:
    """What a trial last reported of a goal beside the objective, in a sweep with several goals."""

    metric: str
    value: float
    direction: Direction

    @property
    def loss(self) -> float:
        """The value, with its sign changed if it is maximized: less is better."""
        return -self.value if self.direction == "maximize" else self.value


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study records it. `step` is the number of its last report; times are UTC.

    Attributes:
        value: what it last reported of the objective; of several goals, of the one that prunes.
        others: what it last reported of the other goals, as far as it has.
        started, ended: when its first attempt started, and when its last one ended.
        resumed: when its current attempt started, if that is not the first.
        spent: seconds that the attempts before the current one ran.
        is_added: whether the trial was not trained here, so that it has no checkpoint: somebody added it to the study
            with its value, or its reports were taken from another.
        origin: where its parameters came from: the type of the sampler, "random start-up" before that has a model,
            "start point", "fork", or another phrase, and what its reports were taken from; None in an old record.
        is_paused: whether it is PRUNED, but continues if it ranks higher later.
        reused: the finished trial that its reports were taken from, as in `lstm:17`.
        cpus: each change of the CPUs that computed it: the first report, and how many; one before the first change.
        confirms: the trial that it trains again with a fresh seed; None for a trial of the search.
    """

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
    resumed: datetime | None = None
    spent: float = 0.0
    is_added: bool = False
    origin: str | None = None
    is_paused: bool = False
    reused: str | None = None
    cpus: tuple[tuple[int, int], ...] = ()
    confirms: FreshRun | None = None
    others: tuple[GoalValue, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Seconds that its attempts ran, without the time between them; None while it has not ended."""
        begun = self.resumed or self.started
        if begun is None or self.ended is None:
            return None
        return self.spent + max(0.0, (self.ended - begun).total_seconds())  # the clock may have been set back


class Verdict(Enum):
    """What a trial does after a report."""

    CONTINUE = "continue"
    STOP = "stop"


class Listener(Protocol):
    """Receives every change of a running sweep, also of its fresh runs. The driver waits for each call: be quick."""

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Handle a trial that started, reported, resumed or ended; `report` is None unless it reported."""

    def on_phase(self, message: str) -> None:
        """Handle the start of a new phase of the sweep, described by `message`."""


_STATES = {"COMPLETE": 0, "RUNNING": 1, "PRUNED": 2, "FAIL": 3}


def leaderboard(rows: Iterable[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """Sort trials, best first: COMPLETE by value, then RUNNING, PRUNED and FAIL by their last report.

    Equal trials are sorted by their other goals if they are COMPLETE, then by number. This is the only order of trials
    in the package.
    """
    sign = -1 if direction == "maximize" else 1

    def rank(row: TrialRecord) -> tuple[float, ...]:
        is_complete = row.state == "COMPLETE"
        value = float("inf") if row.value is None else sign * row.value
        others = [other.loss for other in row.others] if is_complete else []
        return (_STATES[row.state], 0 if is_complete else -row.step, value, *others, row.number)

    return sorted(rows, key=rank)


def best_trial(rows: Iterable[TrialRecord], direction: Direction) -> TrialRecord | None:
    """Return the first trial of the leaderboard that is COMPLETE and was trained here; None if there is none."""
    trained = (row for row in rows if row.state == "COMPLETE" and not row.is_added)
    return next(iter(leaderboard(trained, direction)), None)


def pareto_front(rows: Iterable[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """Return the COMPLETE trials that no other one equals or betters in every goal, the best by the objective first.

    Of equal trials all are returned. A trial that somebody added to the study is none of them.
    """
    sign, found = -1 if direction == "maximize" else 1, list[tuple[tuple[float, ...], TrialRecord]]()
    for row in leaderboard(rows, direction):  # no later trial betters an earlier one in every goal
        if row.state != "COMPLETE" or row.value is None or (row.is_added and row.reused is None):
            continue
        losses = (sign * row.value, *(other.loss for other in row.others))
        if all(better == losses or any(map(gt, better, losses)) for better, _ in found):
            found.append((losses, row))
    return [row for _, row in found]


FailureKind = Literal["driver", "node", "crash", "stall", "io", "memory", "gpu", "error", "diverged"]


@dataclass(frozen=True)
class Failure:
    """Failure of one attempt: its kind, and a reason in one line for the user."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True)
class Attempt:
    """One failed attempt of a trial. `step` is the last report that was recorded before it failed."""

    attempt: int
    kind: FailureKind
    reason: str
    step: int
    node: str | None
    ended: datetime


@dataclass(frozen=True)
class Decision:
    """What a pruner saw when it judged a report.

    Attributes:
        step: the number of the report.
        pruner: type of the pruner that compared, as in the sweep file; of the wrapped one, if `patient` wraps one.
        is_pruned: its verdict.
        value: the value that it compared, which may be an earlier one of the trial; None if it was not a number.
        cutoff: the value that the trial had to reach; None if there was none, as at the first trial of a rung.
        rung: number of the rung, from 1; None for a pruner without rungs.
        bracket: number of Hyperband's bracket, from 1.
        rank, peers: place of the trial, from 1, among so many compared trials, itself included. Equal ones share it.
        kept: how many of these the pruner lets continue; None for a percentile, which has its cut-off instead.
        patience: reports without improvement that `patient` waited for.
    """

    step: int
    pruner: str
    is_pruned: bool
    value: float | None = None
    cutoff: float | None = None
    rung: int | None = None
    bracket: int | None = None
    rank: int | None = None
    peers: int | None = None
    kept: int | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Champion:
    """The best model of a sweep in MLflow, and whether it is the champion now.

    `name` is None if the sweep has no `tracking.model`; `version` is None if the model was not registered. `previous`
    is the version that was the champion before, or still is, if it is another one.
    """

    name: str | None
    version: int | None
    promoted: bool
    previous: int | None
    reason: str
    uri: str
    run_id: str
    model_id: str
