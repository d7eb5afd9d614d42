"""What the report says about a sweep, as plain values: history, importance, survival by rung, failures by class."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.core.trials import best_trial, leaderboard

if TYPE_CHECKING:
    from sweeper.core.trials import Attempt, Decision, Direction, TrialRecord
    from sweeper.search.budget import Budget

MIN_TRIALS_OF_IMPORTANCE = 20
"""Complete trials below which the importance of parameters is hardly more than chance."""


@dataclass(frozen=True)
class Improvement:
    """A trial that was better than all before it."""

    number: int
    value: float


def improvements(rows: Iterable[TrialRecord], direction: Direction) -> tuple[Improvement, ...]:
    """Return the COMPLETE trials that were better than all with a lower number, in the order of their numbers."""
    found: list[TrialRecord] = []
    for row in sorted(rows, key=lambda row: row.number):
        is_result = row.state == "COMPLETE" and not row.is_added and row.value is not None and math.isfinite(row.value)
        if is_result and (not found or best_trial([found[-1], row], direction) is row):
            found.append(row)
    return tuple(Improvement(row.number, row.value) for row in found if row.value is not None)


MIN_RANGED_VALUES, MAX_DECISIVE_SHARE = 8, 0.6
"""Values from which on an axis may leave some out, and the share of all that the rest must be below."""


def decisive_range(
    values: Iterable[float], direction: Direction, others: Iterable[float] = ()
) -> tuple[float, float] | None:
    """Return the range of an axis in which good trials can be told apart: from the worse quartile to the best value.

    Args:
        others: values that are drawn too, and do not matter as much.

    Returns:
        None if an axis for all values shows that as well.
    """
    found = sorted(value for value in values if math.isfinite(value))
    if len(found) < MIN_RANGED_VALUES:
        return None
    low, high = found[0], found[-1]
    if direction == "maximize":
        low = found[len(found) // 4]
    else:
        high = found[-1 - len(found) // 4]
    drawn = [*found, *filter(math.isfinite, others)]
    if not 0 < high - low < MAX_DECISIVE_SHARE * (max(drawn) - min(drawn)):
        return None
    margin = (high - low) / 20
    return low - margin, high + margin


@dataclass(frozen=True)
class Importance:
    """How much of the objective's variation each parameter explains.

    Attributes:
        shares: parameters and their shares, which sum to 1, the most important first.
        trials: number of COMPLETE trials that this rests on.
    """

    shares: tuple[tuple[str, float], ...]
    trials: int

    @property
    def is_weak(self) -> bool:
        """Return whether it rests on so few trials that it may be chance."""
        return self.trials < MIN_TRIALS_OF_IMPORTANCE

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.shares]


@dataclass(frozen=True)
class Rung:
    """A report at which trials ended, or at which the pruner compared them.

    Attributes:
        step, position: the number of the report, and its place in the unit of the budget.
        reached: trials that made this report.
        pruned, failed, complete: those of them that ended there.
        stopped: those that neither run nor have ended there: they are interrupted, or still run.
        cutoffs: the lowest and the highest value that the pruner asked for here; None if that is not recorded.
    """

    step: int
    position: float
    reached: int
    pruned: int
    failed: int
    complete: int
    stopped: int
    cutoffs: tuple[float, float] | None = None

    @property
    def went_on(self) -> int:
        return self.reached - self.pruned - self.failed - self.complete - self.stopped


def survival(
    rows: Iterable[TrialRecord], budget: Budget, decisions: Mapping[int, Sequence[Decision]]
) -> tuple[Rung, ...]:
    """Return the rungs of a sweep: every report at which a trial ended or was compared, the first one first."""
    at: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.step and not row.is_added:
            at[row.step][row.state] += 1
    cutoffs: defaultdict[int, list[float]] = defaultdict(list)
    for decision in (each for recorded in decisions.values() for each in recorded):
        at[decision.step]  # a rung, also if no trial ended there
        if decision.cutoff is not None and math.isfinite(decision.cutoff):
            cutoffs[decision.step].append(decision.cutoff)
    rungs, left = [], sum(sum(states.values()) for states in at.values())
    for step in sorted(at):
        states, asked = at[step], cutoffs[step]
        pruned, failed, complete = states["PRUNED"], states["FAIL"], states["COMPLETE"]
        stopped = sum(states.values()) - pruned - failed - complete
        known = (min(asked), max(asked)) if asked else None
        rungs.append(Rung(step, budget.epoch_of(step), left, pruned, failed, complete, stopped, known))
        left -= sum(states.values())
    return tuple(rungs)


@dataclass(frozen=True)
class FailureClass:
    """Failed attempts of one class.

    Attributes:
        kind: the class, as in `core.trials.FailureKind`; "unknown" where no attempt was recorded.
        attempts: number of failed attempts.
        trials: numbers of the trials that had them.
        lost: those of these trials that such a failure ended.
        reason: the most frequent reason.
    """

    kind: str
    attempts: int
    trials: tuple[int, ...]
    lost: tuple[int, ...]
    reason: str


MEANINGS = {
    "driver": "the sweep was interrupted; the trial was resumed, and this does not count against it",
    "node": "a node was lost; the trial was retried, and this does not count against it",
    "crash": "the worker's process died",
    "stall": "the worker reported nothing for too long and was killed",
    "io": "the network or a file system failed",
    "memory": "the node ran out of memory",
    "gpu": "the GPU ran out of memory",
    "error": "the trainable raised an error",
    "diverged": "the objective became NaN or infinite",
    "unknown": "not recorded",
}
"""What each class of failures means."""


def failures(rows: Iterable[TrialRecord], attempts: Mapping[int, Sequence[Attempt]]) -> tuple[FailureClass, ...]:
    """Return the classes of failed attempts, the most frequent first."""
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, failed in attempts.items():
        for attempt in failed:
            found[attempt.kind].append((number, attempt.reason))
    lost: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.state == "FAIL" and not attempts.get(row.number):  # enqueued with a value outside the space
            found["unknown"].append((row.number, row.reason or "unknown reason"))
        if row.state == "FAIL":
            last = max(attempts.get(row.number, ()), key=lambda attempt: attempt.attempt, default=None)
            lost["unknown" if last is None else last.kind].append(row.number)
    classes = []
    for kind, entries in found.items():
        numbers = sorted({number for number, _ in entries})
        reason = Counter(reason for _, reason in entries).most_common(1)[0][0]
        classes.append(FailureClass(kind, len(entries), tuple(numbers), tuple(sorted(lost[kind])), reason))
    return tuple(sorted(classes, key=lambda each: (-each.attempts, each.kind)))


def thinned(rows: Sequence[TrialRecord], most: int, direction: Direction) -> list[TrialRecord]:
    """Return at most so many trials, in their order: the best half of them, and others at even distances."""
    if len(rows) <= most:
        return list(rows)
    best = {row.number for row in leaderboard(rows, direction)[: most // 2]}
    others = [row for row in rows if row.number not in best]
    room = most - len(best)
    kept = best | {others[place * len(others) // room].number for place in range(room)}
    return [row for row in rows if row.number in kept]
