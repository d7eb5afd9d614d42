"""Successive halving that takes trials up again: one that was stopped continues once it ranks high enough."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.optuna_internals import all_trials

PAUSED = "paused"
"""User attribute of a trial that a `PromotionPruner` has stopped, and may take up again."""

_Place = tuple[float, int]
"""Value of a trial at a rung, smaller is better, and its number: equal trials are ordered by that."""


@dataclass(frozen=True)
class Ranked:
    """A trial's place among those that reached a rung; `rung` and `rank` count from 1, and `kept` of them continue."""

    rung: int
    value: float
    rank: int
    peers: int
    kept: int
    cutoff: float | None

    @property
    def continues(self) -> bool:
        return self.rank <= self.kept


@dataclass
class _Rung:
    """The trials that reached one rung, best first, and those of them that wait there."""

    step: int
    factor: int
    reached: list[_Place] = field(default_factory=list)
    waiting: list[_Place] = field(default_factory=list)


class PromotionPruner(BasePruner):
    """Asynchronous successive halving that promotes (Li et al., A System for Massively Parallel Hyperparameter Tuning).

    At each rung, one in some of the trials that reached it continues. A trial that does not is stopped and waits:
    `revival` names it when enough worse ones have come. So no trial is lost because it came early, as it is with
    Optuna's SuccessiveHalvingPruner and with Ray's ASHA, which only stop.

    Trials are compared by `expected`, not by their last values: a slow starter is not taken for a bad one.

    What it knows follows from the reports and the states in the study alone, so that it is the same after a restart.

    Args:
        rungs: the steps at which trials are compared, ascending, each with how many trials reach it for one that
            passes.
        reports: reports of a whole trial, of which the last is not judged.
        look_ahead: see `expected`.
        effort: reports that all trials together make at least, where there are trials to make them. A running trial
            counts with those that it makes until it is compared next.
    """

    def __init__(
        self, rungs: Sequence[tuple[int, int]], reports: int, *, look_ahead: float = 0.0, effort: float = 0.0
    ) -> None:
        self.revived: list[int] = []
        """The trials that this process has taken up again, in order."""
        self._declared = list(rungs)
        self._reports, self._look_ahead, self._effort = reports, look_ahead, effort
        self._steps: dict[int, int] = {}  # of each trial with reports: the step at which it stops, or has stopped
        self.forget()

    def forget(self) -> None:
        """Read the study again at the next call: a write to it has failed, or changed a trial that had ended."""
        self._rungs: list[_Rung] | None = None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        ranked = self.ranked(study, trial)
        step = trial.last_step or 0
        stops = ranked is not None and not ranked.continues
        self._steps[trial.number] = step if stops else self._next_stop(step)
        return stops

    def ranked(self, study: Study, trial: FrozenTrial) -> Ranked | None:
        """Return the place of a running trial at the rung that its last report has reached; None between two rungs."""
        rungs = self._read(study)
        at = next((rung for rung in rungs if rung.step == trial.last_step), None)
        if at is None:
            return None
        place = self._place(trial, at.step, study)
        index = bisect_left(at.reached, place)
        if at.reached[index : index + 1] != [place]:
            at.reached.insert(index, place)
        kept, sign = len(at.reached) // at.factor, _sign(study)
        cutoff = sign * at.reached[kept - 1][0] if kept else None
        return Ranked(rungs.index(at) + 1, sign * place[0], index + 1, len(at.reached), kept, cutoff)

    def note_end(self, study: Study, number: int) -> None:
        """Let a trial that has ended wait at its rung, if it was paused there."""
        trial = all_trials(study)[number]
        if trial.intermediate_values:
            self._steps[number] = min(trial.last_step or 0, self._reports - 1)
        if PAUSED not in trial.user_attrs:
            return
        at = next(rung for rung in self._read(study) if rung.step == trial.last_step)
        place = self._place(trial, at.step, study)
        if place not in at.waiting[(index := bisect_left(at.waiting, place)) : index + 1]:
            at.waiting.insert(index, place)

    def revival(self, study: Study, *, is_last_round: bool = False) -> int | None:
        """Return the number of the waiting trial that continues, one of the highest rung; None if there is none.

        Args:
            is_last_round: whether no new trial will come. Then the shares that pass are rounded up, and the best of
                those that wait continue until the effort is spent.
        """
        rungs = [rung for rung in reversed(self._read(study)) if rung.waiting]
        for rung in rungs:
            passing = -(-len(rung.reached) // rung.factor) if is_last_round else len(rung.reached) // rung.factor
            if bisect_left(rung.reached, rung.waiting[0]) < passing:
                return rung.waiting[0][1]
        return rungs[0].waiting[0][1] if rungs and is_last_round and sum(self._steps.values()) < self._effort else None

    def note_revived(self, number: int) -> None:
        """Let a trial wait no longer."""
        self.revived.append(number)
        for rung in self._rungs or ():
            if rung.waiting and rung.waiting[0][1] == number:
                del rung.waiting[0]
                self._steps[number] = self._next_stop(rung.step)

    def _next_stop(self, step: int) -> int:
        """Return the step at which a trial is compared next; after the last rung, the last step that is judged."""
        return next((rung for rung, _ in self._declared if rung > step), self._reports - 1)

    def _read(self, study: Study) -> list[_Rung]:
        if self._rungs is None:
            trials = all_trials(study)
            self._steps = {
                one.number: self._next_stop(step) if one.state == TrialState.RUNNING else min(step, self._reports - 1)
                for one in trials
                if (step := max(one.intermediate_values, default=0))
            }
            self._rungs = [_Rung(step, factor) for step, factor in self._declared]
            for rung in self._rungs:
                reached = [trial for trial in trials if rung.step in trial.intermediate_values]
                rung.reached = sorted(self._place(trial, rung.step, study) for trial in reached)
                rung.waiting = sorted(self._place(trial, rung.step, study) for trial in waiting_at(rung.step, reached))
        return self._rungs

    def _place(self, trial: FrozenTrial, step: int, study: Study) -> _Place:
        return expected(trial.intermediate_values, step, self._look_ahead, _sign(study)), trial.number


def expected(values: Mapping[int, float], step: int, look_ahead: float, sign: float) -> float:
    """Return what to expect of a trial after some steps, smaller is better: its best value, and a part of its gain.

    The gain is what the best value has improved since half of these steps. With 0.5, a trial is credited with going on
    at half its pace for as long again. A positive value that is minimized, such as a loss, is credited with a part of
    the factor by which it fell, and so never expected below zero: a loss that fell from 2 to 1 is far from one that
    fell from 0.02 to 0.01. On the tables of benchmarks/replay, this predicts the order at the end better than the last
    value does, most of all where values jump while the learning rate is high.

    Args:
        values: the reports by their steps.
        sign: 1 to minimize, -1 to maximize.
    """
    reached = [(at, sign * value) for at, value in values.items() if at <= step and not math.isnan(value)]
    if math.isnan(values[step]) or not reached:
        return math.inf
    best = min(value for _, value in reached)
    before = min((value for at, value in reached if at <= max(1, step // 2)), default=best)
    if not math.isfinite(before) or before == best:
        return best
    return best * (best / before) ** look_ahead if best >= 0 else best - look_ahead * (before - best)


def promotion_of(study: Study) -> PromotionPruner | None:
    """Return the pruner of a study, if it takes trials up again."""
    return study.pruner if isinstance(study.pruner, PromotionPruner) else None


def revival(study: Study, *, is_last_round: bool) -> int | None:
    """Return the number of the paused trial that continues now; None if none does. See `PromotionPruner.revival`."""
    pruner = promotion_of(study)
    return None if pruner is None else pruner.revival(study, is_last_round=is_last_round)


def note_end(study: Study, number: int) -> None:
    """Let a trial that has ended wait at its rung, if it was paused there."""
    if pruner := promotion_of(study):
        pruner.note_end(study, number)


def note_revived(study: Study, number: int) -> None:
    """Let a trial that waited at a rung wait no longer."""
    if pruner := promotion_of(study):
        pruner.note_revived(number)


def forget_rungs(study: Study) -> None:
    """Let the pruner read the study again: it may have changed."""
    if pruner := promotion_of(study):
        pruner.forget()


def waiting_at(step: int, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return those trials that wait at the rung of this step."""
    pruned = (trial for trial in trials if trial.state == TrialState.PRUNED and PAUSED in trial.user_attrs)
    return [trial for trial in pruned if trial.last_step == step]


def _sign(study: Study) -> float:
    return -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
