"""The time that a sweep still takes: a range, from the trials that have run so far."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul, neg

PLAYS = 60
"""How often the rest of a sweep is played out."""

MAX_PLAYED_TRIALS = 500
"""Trials to come, and trials that they are drawn from, in a play; the time of more is scaled."""

PACE_NOISE = 0.1
"""Share by which the pace of trials changes while others start, end, or share the machine."""

MIN_ENDED = 3
"""Trials that must have ended before anything is known of how long one lasts with a pruner."""


@dataclass(frozen=True)
class Effort:
    """What a trial has cost so far.

    Attributes:
        reports: reports that it has made.
        seconds: the time that they took; of a trial that has ended, all of its time.
        waited: seconds since its last report.
    """

    reports: int
    seconds: float
    waited: float = 0.0


def shares_that_stay(
    ended: Sequence[int], running: Sequence[int], full: int, *, are_unsure: bool = False
) -> list[float]:
    """Estimate which share of the trials that make report k also make a later one, for k = 0, 1, ... `full`.

    Trials that end early end first, so the mean length of the ended trials is too short, most of all at the start.
    Running trials are therefore counted too, as trials that last at least that long (the Kaplan-Meier estimate): of
    the trials that went past report k or ended there, the share that went past it. Without data trials are assumed to
    stay, so at the start every trial is expected to run in full.

    Args:
        are_unsure: count one imaginary trial that runs in full, and one that ends at any report, in equal parts.
    """
    ends = Counter(min(length, full) for length in ended)
    passed = Counter(min(length, full) for length in running)
    imaginary = 1.0 if are_unsure else 0.0
    stay = [1.0] * full + [0.0]
    beyond = 0
    for step in range(full, 0, -1):
        stayed = beyond + passed[step]
        known = stayed + ends[step]
        if step < full and known + imaginary:
            stay[step] = (stayed + imaginary) / (known + imaginary + imaginary / full)
        beyond = known
    return stay


def seconds_left(
    ended: Sequence[Effort],
    running: Sequence[Effort],
    *,
    to_come: int,
    workers: int,
    full: int,
    may_end_early: bool = False,
) -> tuple[float, float] | None:
    """Return a range in which the time until the last trial ends mostly lies; None before any trial has shown its pace.

    The rest of the sweep is played out many times: each running trial goes on at its own pace for a length that the
    trials so far make likely, and each trial to come lasts as long as one of the trials so far. Few trials that differ
    give a wide range.

    Args:
        to_come: trials that have not begun.
        workers: trials that run at a time.
        full: reports of a trial that is not ended early.
        may_end_early: whether there is a pruner. The search moves to trials that last longer than those it began with:
            one imaginary trial, in full and nearly as slow as the slowest, is counted with those so far.
    """
    paces = [trial.seconds / trial.reports for trial in (*ended, *running) if trial.reports]
    if not paces:
        return None
    pace = sum(paces) / len(paces)
    stay = shares_that_stay(
        [trial.reports for trial in ended], [trial.reports for trial in running], full, are_unsure=may_end_early
    )
    survival = list(accumulate(stay[:full], mul))  # survival[k]: the share that makes a report after report k
    longest = [full * sorted(paces)[-1 - len(paces) // 8]] if may_end_early else []
    dice = random.Random(len(ended))
    played = min(to_come, MAX_PLAYED_TRIALS)
    some = ended if len(ended) <= MAX_PLAYED_TRIALS else dice.sample(ended, MAX_PLAYED_TRIALS)
    past = [trial.seconds for trial in some]
    ends = []
    for _ in range(PLAYS):
        left = [_draw(trial, survival, full, pace, dice) for trial in running]
        lengths = longest + past + [trial.seconds + rest for trial, rest in zip(running, left, strict=True)]
        free = [max(0.0, rest - trial.waited) for trial, rest in zip(running, left, strict=True)]
        known = dice.choices(lengths, k=len(lengths))  # as uncertain as few trials make it
        ends.append(_makespan(free, dice.choices(known, k=played), workers) * max(1.0, to_come / max(1, played)))
    ends.sort()
    return ends[PLAYS // 20] * (1 - PACE_NOISE), ends[-1 - PLAYS // 20] * (1 + PACE_NOISE)


def _draw(trial: Effort, survival: list[float], full: int, pace: float, dice: random.Random) -> float:
    """Draw how many seconds a running trial lasts after its last report."""
    made = min(trial.reports, full - 1)
    threshold = dice.random() * survival[made]
    # It ends at the first report that a smaller share survives. The shares fall: bisect needs them to rise.
    last = bisect_right(survival, -threshold, made + 1, full, key=neg)
    return (last - made) * (trial.seconds / trial.reports if trial.reports else pace)


def _makespan(free: list[float], lengths: list[float], workers: int) -> float:
    """Return when the last of the trials ends if each begins as soon as a worker is free."""
    times = free + [0.0] * max(0, workers - len(free))
    heapq.heapify(times)
    for length in lengths:
        heapq.heapreplace(times, times[0] + length)
    return max(times, default=0.0)
