"""Confirmation of the best trials: which is trained again next, which can no longer win, and what they reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev, variance
from typing import Annotated, Any

from pydantic import Field

from sweeper.core.confirmation import Confirmation, Contender, McNemar
from sweeper.core.schema import Integer, StrictModel
from sweeper.core.trials import Direction, FreshRun, TrialRecord

CONFIRMS = "confirms"
"""User attribute of a trial that trains another one again: that trial, the number of the run from 1, and its seed."""

COMPARED = "compared"
"""Fact of a study: how the best model compares with others, and the two trials that were the first then."""

MAX_MISTAKE = 0.2
"""Bound on the probability that a contender is dropped that would have ended above the leader, over all rounds.

Such a contender is close to the leader: see the table in docs/search.md for how rare it is, and what it costs."""

MAX_MISS = 0.05
"""Probability that a confirmed interval misses the mean."""

_FIRST_LOOK = 2
"""Runs of each contender before any is dropped: one run says nothing about the noise."""


class Confirm(StrictModel):
    """Train the best trials again with fresh seeds after the search; the best mean is the champion."""

    top: Annotated[Integer, Field(ge=1, le=100)] = Field(3, description="Trials to train again, the best ones.")
    seeds: Annotated[Integer, Field(ge=2, le=1000)] = Field(
        5, description="Runs of each with fresh seeds; one that can no longer win gets fewer."
    )


def fresh_seed(sweep_seed: int, trial: int, run: int) -> int:
    """Derive the seed of a fresh run, counted from 1, which no trial of the sweep and no other run has."""
    import numpy as np

    return int(np.random.SeedSequence([sweep_seed, trial, run]).generate_state(1)[0])


def confirmation_of(
    asked: Confirm, ranked: Sequence[TrialRecord], runs: Iterable[TrialRecord], *, direction: Direction, seed: int
) -> Confirmation:
    """Return how far the confirmation of the best trials has come, from the records of their fresh runs alone.

    Each contender gets its first fresh run, then each its second, and so on. After each round from the second on, those
    that can no longer win are dropped, see `_losers`; so is one of which a run fails, as it cannot be relied upon.

    Args:
        ranked: the COMPLETE trials, best first.
        runs: the fresh runs that have begun.
        seed: the sweep's.
    """
    contenders = list(ranked[: asked.top])
    sign = 1.0 if direction == "maximize" else -1.0
    known = {(row.confirms.trial, row.confirms.run): row for row in runs if row.confirms is not None}
    alive, dropped, missing, is_waiting = [row.number for row in contenders], dict[int, str](), list[FreshRun](), False
    for run in range(1, asked.seeds + 1):
        for number in list(alive):
            row = known.get((number, run))
            if row is None:
                missing.append(FreshRun(number, run, fresh_seed(seed, number, run)))
            elif row.state == "RUNNING":
                is_waiting = True
            elif row.state != "COMPLETE" or row.value is None:
                dropped[number] = f"run {run} {'was pruned by its code' if row.state == 'PRUNED' else 'failed'}"
                alive.remove(number)
        if len(alive) < 2 or not _FIRST_LOOK <= run < asked.seeds:
            continue
        if missing or is_waiting:
            break
        for number in _losers({one: _values(known, one, run) for one in alive}, asked.seeds, sign):
            dropped[number] = f"too far behind after {run} runs"
            alive.remove(number)
    found = []
    for row in contenders:
        values = _values(known, row.number, asked.seeds)
        width = None if row.number in dropped else half_width(values, len(contenders))
        found.append(Contender(row.number, row.value or 0.0, values, width, dropped.get(row.number, "")))
    found.sort(key=lambda each: (bool(each.dropped), math.inf if each.mean is None else -sign * each.mean))
    if missing or is_waiting:
        return Confirmation(tuple(found), asked.seeds, tuple(missing))
    return Confirmation(tuple(found), asked.seeds, is_complete=True, p_value=_p_value(found))


def _values(known: Mapping[tuple[int, int], TrialRecord], number: int, runs: int) -> tuple[float, ...]:
    """Return the values of the first fresh runs of a trial, as far as they are COMPLETE."""
    rows = (known.get((number, run)) for run in range(1, runs + 1))
    return tuple(row.value for row in rows if row is not None and row.state == "COMPLETE" and row.value is not None)


def _losers(values: Mapping[int, Sequence[float]], seeds: int, sign: float) -> list[int]:
    """Return the contenders that can no longer win, given as many values of each.

    After k of n runs, the difference of two means at the end is within t * s * sqrt(2 (n - k) / (n k)) of that of today
    with a known probability: a prediction interval of Student's t (Hahn, Journal of Quality Technology 1, 1969), with
    the standard deviation s pooled over all contenders. One whose interval lies below zero against the leader is
    dropped, as in racing (Maron and Moore, Hoeffding Races, 1994; Birattari et al., F-Race, 2002). The probability of a
    mistake is divided among the n - 2 looks (Bonferroni).
    """
    from scipy.special import stdtrit

    runs = len(next(iter(values.values())))
    noise = math.sqrt(fmean(variance(each) for each in values.values()))
    quantile = float(stdtrit(len(values) * (runs - 1), 1 - MAX_MISTAKE / (seeds - _FIRST_LOOK)))
    reach = quantile * noise * math.sqrt(2 * (seeds - runs) / (seeds * runs))
    means = {number: sign * fmean(each) for number, each in values.items()}
    return [number for number, mean in means.items() if max(means.values()) - mean > reach]


def half_width(values: Sequence[float], choices: int) -> float | None:
    """Return half of the 95 % interval of Student's t around the mean of some fresh runs; None for fewer than two.

    The best of several means is likely to be too good, most of all if it was lucky enough to have the others dropped.
    So the level allows each of so many contenders to be too good, and the chosen one to be too bad, with 5 % in all
    (Bonferroni). For one contender it is the ordinary interval.
    """
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    quantile = float(stdtrit(len(values) - 1, 1 - MAX_MISS / (choices + 1)))
    return quantile * stdev(values) / math.sqrt(len(values))


def first_two(found: Confirmation) -> list[int] | None:
    """Return the best trial and the runner-up, or -1 where there is none; None before the confirmation is complete."""
    if found.best is None:
        return None
    return [*(each.trial for each in found.contenders[:2]), -1][:2]


def with_compared(found: Confirmation, known: Mapping[str, Any] | None) -> Confirmation:
    """Return a confirmation with what is on record about its models; that of other trials does not count."""
    if not known or known["trials"] != first_two(found):
        return found
    return replace(found, compared=tuple(McNemar(**each) for each in known["found"]))


def _p_value(found: Sequence[Contender]) -> float | None:
    """Return how likely chance alone sets the first two means so far apart; None if their runs do not tell."""
    from scipy.stats import ttest_ind

    if len(found) < 2 or min(len(each.values) for each in found[:2]) < 2:
        return None
    if all(len(set(each.values)) == 1 for each in found[:2]):  # no noise at all
        return None
    return float(ttest_ind(found[0].values, found[1].values, equal_var=False).pvalue)
