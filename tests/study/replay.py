"""Judges the reports of a sweep again, in a copy of its study that has Optuna's own pruner."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, PatientPruner, PercentilePruner

from sweeper.core.trials import Decision, Report, TrialRecord
from sweeper.search.budget import Budget
from sweeper.search.pruning.pruners import Patient, Pruner, WrappablePruner
from sweeper.spec import Sweep
from sweeper.study.view import StudyView

Event = tuple[int, Report | None]
"""A report of the trial with this number, or its end."""


def events_by_time(view: StudyView) -> list[Event]:
    """Return the reports and the ends of a study's trials by their times."""
    events: list[tuple[float, int, Report | None]] = [
        (report.time, number, report) for number, reports in view.all_reports().items() for report in reports
    ]
    events += [(row.ended.timestamp(), row.number, None) for row in view.rows() if row.ended]
    return [event[1:] for event in sorted(events, key=lambda event: event[:2])]


def events_by_row(view: StudyView, database: Path) -> list[Event]:
    """Return the reports and the ends of a study's trials in the order in which SQLite got them.

    The times of reports are those of the workers, and two workers may report in the same moment. A trial that did not
    fail ended in the transaction of its last report.
    """
    query = "SELECT number, step FROM sweeper_reports WHERE sweep = ? ORDER BY rowid"
    with closing(sqlite3.connect(database)) as connection:
        order = connection.execute(query, (view.name,)).fetchall()
    reports = {(number, report.step): report for number, all_ in view.all_reports().items() for report in all_}
    events: list[Event] = []
    for number, step in order:
        events.append((number, reports[number, step]))
        if step == view.row(number).step:
            events.append((number, None))
    return events


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

    def replay(self, view: StudyView, events: Iterable[Event]) -> None:
        """Judge the reports of a sweep in this order."""
        trials = [self.study.ask() for _ in view.rows()]
        for number, report in events:
            if report is None:
                self._end(trials[number], view.row(number))
                continue
            value = report.metrics[self.sweep.objective.metric]
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
            return None if declared.type == "none" else self._compare_as(declared, number, step, is_pruned, None)
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
