"""What pruners compared is on record, and Optuna's own pruners come to the same on a copy of the study."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, PatientPruner, PercentilePruner

from sweeper.core.trials import Decision, Failure, Report, TrialRecord
from sweeper.search.budget import Budget
from sweeper.search.pruners import Patient, Pruner, WrappablePruner
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.view import StudyView

MakeSweep = Callable[..., Sweep]

TRIALS, EPOCHS = 44, 12

PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"type": "median"},
    "median at intervals": {"type": "median", "interval_reports": 3, "n_startup_trials": 2, "n_min_trials": 4},
    "percentile": {"type": "percentile", "percentile": 30, "min_reports": 3},
    "halving": {"type": "successive_halving"},
    "halving with bootstrap": {
        "type": "successive_halving",
        "reduction_factor": 2,
        "bootstrap_count": 3,
        "min_early_stopping_rate": 1,
    },
    "hyperband": {"type": "hyperband", "min_reports": 1, "reduction_factor": 2},
    "threshold": {"type": "threshold", "lower": 0.1, "upper": 0.7, "min_reports": 2, "interval_reports": 2},
    "lower threshold": {"type": "threshold", "lower": 0.3},
    "patient": {"type": "patient", "patience_reports": 2, "min_delta": 0.01},
}
PRUNERS |= {
    f"patient {name}": {"type": "patient", "patience_reports": 1, "wrapped": PRUNERS[name]}
    for name in ("median", "percentile", "halving", "hyperband", "threshold")
}


def curve(number: int) -> list[float]:
    """Return the values of a trial: they rise and fall, and are rounded so that trials tie."""
    chance = random.Random(number)
    height, speed = chance.random(), chance.uniform(0.2, 2.0)
    risen = (height * (1 - math.exp(-speed * step)) for step in range(1, EPOCHS + 1))
    return [round(value + chance.uniform(-0.1, 0.1), 2) for value in risen]


def run_trials(sweep: Sweep, until: int, chance: random.Random) -> None:
    """Run trials up to a number, four at a time; some return early, and some attempts are lost and made again."""
    with open_study(sweep) as study:
        running: dict[int, Iterator[tuple[int, float]]] = {}
        while running or len(study.rows()) < until:
            if len(running) < 4 and (study.has_next() and len(study.rows()) < until or not running):
                running[row.number] = enumerate(curve((row := study.ask()).number), 1)
            number = chance.choice(list(running))
            step, value = next(running[number])
            fate = chance.random()
            if fate < 0.01 and step > 2:
                study.finish(number)
            elif fate < 0.02:
                study.fail(number, Failure("node", "its node was lost"))
            else:
                study.report(number, Report(step, time.time(), {"score": value}))
            running = {n: values for n, values in running.items() if n in {row.number for row in study.running()}}


@pytest.mark.parametrize("kind", PRUNERS)
def test_recorded_decisions_are_those_of_optuna_on_a_copy(kind: str, make_sweep: MakeSweep) -> None:
    direction = "maximize" if list(PRUNERS).index(kind) % 2 else "minimize"
    sweep = make_sweep(
        budget={"trials": TRIALS, "epochs": EPOCHS},
        pruner=PRUNERS[kind],
        objective={"metric": "score", "direction": direction},
    )
    chance = random.Random(kind)
    run_trials(sweep, TRIALS // 2, chance)
    run_trials(sweep, TRIALS, chance)  # resumed by another owner
    view = read_study(sweep.name, sweep.storage_url())
    copy = Copy(sweep)
    copy.replay(view)

    pruned = {row.number for row in view.rows() if row.state == "PRUNED"}
    assert len(view.rows()) == TRIALS and pruned
    assert copy.stopped == {(number, view.row(number).step) for number in pruned}
    assert view.decisions() == copy.decisions
    for number in pruned:
        last = view.decisions()[number][-1]
        assert last.is_pruned and last.step == view.row(number).step and is_explained(last, direction)


@pytest.mark.parametrize("kind", ["median", "halving"])
def test_trials_that_a_fork_took_over_are_peers(kind: str, make_sweep: MakeSweep) -> None:
    changes = {"budget": {"trials": 8, "epochs": EPOCHS}, "pruner": PRUNERS[kind]}
    run_trials(make_sweep(**changes), 8, random.Random(0))
    parents = read_study("climbing", make_sweep().storage_url())
    fork = make_sweep(name="fork", **changes)
    with open_study(fork, forked="climbing") as study:
        number = study.ask().number
        study.report(number, Report(1, 1.0, {"score": -1.0}))
    (decision,) = read_study("fork", fork.storage_url()).decisions()[number]
    step = {number: reports[0].metrics["score"] for number, reports in parents.all_reports().items()}
    complete = [row.number for row in parents.rows() if row.state == "COMPLETE"]
    peers = [step[number] for number in (complete if kind == "median" else step)]
    assert decision.is_pruned and decision.value == -1.0
    assert (decision.rank, decision.peers) == (len(peers) + 1, len(peers) + 1)
    assert decision.cutoff == (np.median(peers) if kind == "median" else sorted(peers)[-max(1, len(peers) // 4)])


def is_explained(decision: Decision, direction: str) -> bool:
    """Return whether the numbers of a decision say why the trial was stopped."""
    if decision.kept is not None and decision.rank is not None:
        return decision.rank > decision.kept
    assert decision.value is not None and decision.cutoff is not None
    if decision.pruner == "threshold":
        return decision.value != decision.cutoff
    return (decision.value < decision.cutoff) == (direction == "maximize")


class Copy:
    """A study of Optuna alone in which the reports of a sweep are judged again, in the order in which they came.

    Attributes:
        stopped: the trials and steps at which Optuna's own pruner stops.
        decisions: what the reports say about each comparison.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.study = optuna.create_study(
            study_name=sweep.name,
            direction=sweep.objective.direction,
            pruner=pruner_of_optuna(sweep.pruner, sweep.budget),
        )
        self.is_maximized = sweep.objective.direction == "maximize"
        self.stopped: set[tuple[int, int]] = set()
        self.decisions: dict[int, list[Decision]] = {}
        self._reports: dict[int, dict[int, float]] = {}
        self._complete: list[int] = []
        self._passed: dict[int, list[float]] = {}

    def replay(self, view: StudyView) -> None:
        trials = [self.study.ask() for _ in view.rows()]
        events: list[tuple[float, int, Report | None]] = [
            (report.time, number, report) for number, reports in view.all_reports().items() for report in reports
        ]
        events += [(row.ended.timestamp(), row.number, None) for row in view.rows() if row.ended]
        for _, number, report in sorted(events, key=lambda event: event[:2]):
            if report is None:
                self._end(trials[number], view.row(number))
                continue
            value = report.metrics["score"]
            self._reports.setdefault(number, {})[report.step] = value
            trials[number].report(value, report.step)
            if report.step < self.sweep.budget.reports:
                is_pruned = trials[number].should_prune()
                if is_pruned:
                    self.stopped.add((number, report.step))
                if decision := self._compare(number, report.step, is_pruned):
                    self.decisions.setdefault(number, []).append(decision)

    def _end(self, trial: optuna.Trial, row: TrialRecord) -> None:
        is_complete = row.state == "COMPLETE"
        self.study.tell(trial, row.value if is_complete else None, state=optuna.trial.TrialState[row.state])
        if is_complete:
            self._complete.append(row.number)

    def _compare(self, number: int, step: int, is_pruned: bool) -> Decision | None:
        declared = self.sweep.pruner
        if not isinstance(declared, Patient):
            assert declared.type != "none"
            return self._compare_as(declared, number, step, is_pruned, None)
        patience = declared.patience(self.sweep.budget)
        values = list(self._reports[number].values())
        if len(values) <= patience:
            return None
        best, delta = (max, -declared.min_delta) if self.is_maximized else (min, declared.min_delta)
        since, bar = best(values[-patience:]), best(values[:-patience]) + delta
        if declared.wrapped is None:
            return Decision(step, "patient", is_pruned, since, bar, patience=patience)
        if not self._is_worse(since, bar):
            return None
        return self._compare_as(declared.wrapped, number, step, is_pruned, patience)

    def _is_worse(self, one: float, other: float) -> bool:
        return one < other if self.is_maximized else one > other

    def _compare_as(
        self, pruner: WrappablePruner, number: int, step: int, is_pruned: bool, patience: int | None
    ) -> Decision | None:
        seen: dict[str, Any] | None = getattr(self, f"_{pruner.type}")(pruner, number, step)
        return None if seen is None else Decision(step, pruner.type, is_pruned, patience=patience, **seen)

    def _percentile(self, pruner: Any, number: int, step: int) -> dict[str, Any] | None:
        options = pruner._against(self.sweep.budget)
        peers = [self._reports[other][step] for other in self._complete if step in self._reports[other]]
        warmup = options["n_warmup_steps"]
        is_off = step < warmup or (step - warmup) % options["interval_steps"]
        if is_off or len(self._complete) < options["n_startup_trials"] or len(peers) < options["n_min_trials"]:
            return None
        kept = 50 if pruner.type == "median" else pruner.percentile
        value = (max if self.is_maximized else min)(self._reports[number].values())
        rank = 1 + sum(self._is_worse(value, other) for other in peers)
        bar = float(np.percentile(peers, 100 - kept if self.is_maximized else kept))
        return {"value": value, "cutoff": bar, "rank": rank, "peers": len(peers) + 1}

    _median = _percentile

    def _threshold(self, pruner: Any, number: int, step: int) -> dict[str, Any] | None:
        first, value = pruner.first(self.sweep.budget), self._reports[number][step]
        if step < first or (step - first) % pruner.interval(self.sweep.budget):
            return None
        limits = [limit for limit in (pruner.lower, pruner.upper) if limit is not None]
        return {"value": value, "cutoff": min(limits, key=lambda limit: abs(value - limit))}

    def _successive_halving(self, pruner: Any, number: int, step: int, bracket: int | None = None) -> Any:
        first, factor = pruner._rung(self.sweep.budget), pruner.reduction_factor
        skipped = getattr(pruner, "min_early_stopping_rate", 0) if bracket is None else bracket
        marks, value, seen = self._passed.setdefault(number, []), self._reports[number][step], None
        while step >= first * factor ** (skipped + len(marks)):
            marks.append(value)
            rivals = [number] if bracket is None else self._bracket_mates(number)
            others = [
                self._passed[other][len(marks) - 1]
                for other in (self._passed if bracket is None else rivals)
                if other != number and len(self._passed.get(other, ())) >= len(marks)
            ]
            peers, rank = len(others) + 1, 1 + sum(self._is_worse(value, other) for other in others)
            kept = 0 if peers <= pruner.bootstrap_count else max(1, peers // factor)
            ordered = sorted([*others, value], reverse=self.is_maximized)
            seen = {"value": value, "cutoff": ordered[kept - 1] if kept and others else None, "rank": rank}
            seen |= {"peers": peers, "kept": kept, "rung": len(marks)}
            if rank > kept:
                break
        return seen

    def _hyperband(self, pruner: Any, number: int, step: int) -> Any:
        bracket = self._bracket(number)
        seen = self._successive_halving(pruner, number, step, bracket)
        return seen and seen | {"bracket": bracket + 1}

    def _bracket(self, number: int) -> int:
        pruner: Any = self.study.pruner
        pruner = pruner if isinstance(pruner, HyperbandPruner) else pruner._wrapped_pruner
        return int(pruner._get_bracket_id(self.study, self.study.trials[number]))

    def _bracket_mates(self, number: int) -> list[int]:
        return [other for other in self._passed if self._bracket(other) == self._bracket(number)]


def pruner_of_optuna(pruner: Pruner, budget: Budget) -> BasePruner:
    """Return Optuna's own pruner with the options of a sweep's."""
    if pruner.type == "median":
        return MedianPruner(**pruner._against(budget))
    if pruner.type == "percentile":
        return PercentilePruner(pruner.percentile, **pruner._against(budget))
    if not isinstance(pruner, Patient):
        return pruner.build(budget)
    wrapped = None if pruner.wrapped is None else pruner_of_optuna(pruner.wrapped, budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PatientPruner(wrapped, pruner.patience(budget) - 1, pruner.min_delta)
