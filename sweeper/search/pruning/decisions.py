"""What a pruner compared when it judged a report; the verdict itself is Optuna's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial

from sweeper.core.trials import Decision
from sweeper.search.budget import Budget
from sweeper.search.optuna_internals import all_trials, is_to_be_pruned, storage_of, trial_id
from sweeper.search.pruning.optuna_internals import bracket_of, is_first_of_interval, rungs_passed, values_at_rung
from sweeper.search.pruning.patient import ObservedPatientPruner
from sweeper.search.pruning.percentile import IncrementalPercentilePruner
from sweeper.search.pruning.promotion import PromotionPruner
from sweeper.search.pruning.pruners import (
    Auto,
    Hyperband,
    NoPruner,
    Patient,
    Promotion,
    Pruner,
    SuccessiveHalving,
    Threshold,
    WrappablePruner,
)


def judge_report(trial: Trial, step: int, declared: Pruner, budget: Budget) -> tuple[bool, Decision | None]:
    """Return the verdict of the study's pruner on a trial, and what the pruner compared.

    The decision is None if it compared nothing: between two rungs, before the end of the warm-up, with too few trials.

    Args:
        step: the number of the trial's last report.
        declared: the pruner of the sweep, from which the study's was built.
    """
    if isinstance(declared, Auto):
        declared = declared.chosen(budget)
    if isinstance(declared, NoPruner):
        return is_to_be_pruned(trial), None
    compares = declared.wrapped if isinstance(declared, Patient) else declared
    is_halving = isinstance(compares, SuccessiveHalving | Hyperband)
    passed = rungs_passed(_stored(trial)) if is_halving else 0
    judged = _Judged(trial, step, is_to_be_pruned(trial), budget, passed)
    pruner = trial.study.pruner
    if not isinstance(declared, Patient):
        return judged.is_pruned, _comparison(judged, declared, pruner)
    patient = cast(ObservedPatientPruner, pruner)
    if declared.wrapped is None or patient.wrapped is None:
        return judged.is_pruned, _improvement(judged, declared)
    decision = _comparison(judged, declared.wrapped, patient.wrapped) if patient.was_asked else None
    return judged.is_pruned, decision and replace(decision, patience=declared.patience(budget))


@dataclass(frozen=True)
class _Judged:
    """A report that a pruner has judged. `rungs_before` is the number of rungs that its trial had reached by then."""

    running: Trial
    step: int
    is_pruned: bool
    budget: Budget
    rungs_before: int

    @property
    def study(self) -> Study:
        return self.running.study

    @property
    def is_maximized(self) -> bool:
        return bool(self.study.direction == StudyDirection.MAXIMIZE)

    def stored(self) -> FrozenTrial:
        return _stored(self.running)


def _stored(trial: Trial) -> FrozenTrial:
    return storage_of(trial.study).get_trial(trial_id(trial))


def _comparison(judged: _Judged, declared: WrappablePruner | Promotion, pruner: BasePruner) -> Decision | None:
    """Return what a pruner compared; None if it compared nothing."""
    if isinstance(declared, SuccessiveHalving | Hyperband):
        return _competition(judged, declared, pruner)
    if isinstance(declared, Promotion):
        return _place(judged, cast(PromotionPruner, pruner))
    if isinstance(declared, Threshold):
        return _limit(judged, declared)
    seen = cast(IncrementalPercentilePruner, pruner).seen
    if seen is None:
        return None
    value = None if math.isnan(seen.value) else seen.value
    return Decision(judged.step, declared.type, judged.is_pruned, value, seen.bar, rank=seen.rank, peers=seen.peers)


def _competition(judged: _Judged, declared: SuccessiveHalving | Hyperband, pruner: BasePruner) -> Decision | None:
    """Return the comparison at the last rung that a report decided; one report may reach several rungs."""
    trial = judged.stored()
    passed, value = rungs_passed(trial), trial.intermediate_values[judged.step]
    bracket = bracket_of(pruner, judged.study, trial) if isinstance(declared, Hyperband) else None
    shown = None if bracket is None else bracket + 1
    decision = Decision(judged.step, declared.type, judged.is_pruned, value, rung=passed, bracket=shown)
    if passed == judged.rungs_before:  # Optuna stops a trial whose value is NaN, without a comparison
        return replace(decision, value=None, rung=passed + 1) if judged.is_pruned else None
    others = [
        compared
        for other, compared in values_at_rung(all_trials(judged.study), passed - 1)
        if other.number != trial.number and (bracket is None or bracket_of(pruner, judged.study, other) == bracket)
    ]
    peers = len(others) + 1
    kept = 0 if peers <= declared.bootstrap_count else max(1, peers // declared.reduction_factor)
    ordered = sorted([*others, value])
    cutoff = ordered[-kept if judged.is_maximized else kept - 1] if kept and others else None
    better = sum(other > value if judged.is_maximized else other < value for other in others)
    return replace(decision, cutoff=cutoff, rank=better + 1, peers=peers, kept=kept)


def _place(judged: _Judged, pruner: PromotionPruner) -> Decision | None:
    """Return the comparison at the rung that a report has reached; None between two rungs."""
    at = pruner.ranked(judged.study, judged.stored())
    if at is None:
        return None
    decision = Decision(judged.step, "promotion", judged.is_pruned, at.value if math.isfinite(at.value) else None)
    return replace(decision, cutoff=at.cutoff, rung=at.rung, rank=at.rank, peers=at.peers, kept=at.kept)


def _limit(judged: _Judged, declared: Threshold) -> Decision | None:
    """Return the comparison with the limit that a value has crossed, or with the nearer one."""
    trial, first = judged.stored(), declared.first(judged.budget)
    interval = declared.interval(judged.budget)
    if judged.step < first or not is_first_of_interval(trial, judged.step, warmup=first, interval=interval):
        return None
    value, lower, upper = trial.intermediate_values[judged.step], declared.lower, declared.upper
    if math.isnan(value):
        return Decision(judged.step, declared.type, judged.is_pruned)
    is_above = upper is not None and (lower is None or value - lower > upper - value)
    return Decision(judged.step, declared.type, judged.is_pruned, value, upper if is_above else lower)


def _improvement(judged: _Judged, declared: Patient) -> Decision | None:
    """Return the comparison of a trial's best value within the patience with its best before; None if one is NaN."""
    reports, patience = judged.stored().intermediate_values, declared.patience(judged.budget)
    ordered = [reports[step] for step in sorted(reports)]
    parts = (ordered[:-patience], ordered[-patience:])
    before, since = ([value for value in part if not math.isnan(value)] for part in parts)
    if not before or not since:
        return None
    best, delta = (max, -declared.min_delta) if judged.is_maximized else (min, declared.min_delta)
    return Decision(judged.step, declared.type, judged.is_pruned, best(since), best(before) + delta, patience=patience)
