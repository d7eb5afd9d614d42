"""Everything that the sections of a report draw from, read once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from sweeper.analysis.report.optuna_study import drawable, importance_of, label, rebuild
from sweeper.analysis.report.values import MIN_RANGED_VALUES, Importance, decisive_range, thinned
from sweeper.analysis.trials import as_seen, unit
from sweeper.core.secrets import redact
from sweeper.core.text import clean, metric
from sweeper.core.trials import Champion

if TYPE_CHECKING:
    import optuna

    from sweeper.core.predictions import Predictions
    from sweeper.core.trials import Attempt, Decision, Report, TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView


@dataclass(frozen=True)
class Evaluated:
    """What is known of the best trial beside the study's database.

    Attributes:
        metrics: those on the test set; None if they are not known.
        predictions: what it predicted for the test set; None if that was not recorded.
        champion: its model in MLflow; None if nothing is known of it.
        has_folder: whether the folder of the sweep could be read.
    """

    metrics: Mapping[str, float] | None = None
    predictions: Predictions | None = None
    champion: Champion | None = None
    has_folder: bool = False

    def with_recorded(self, study: StudyView) -> Evaluated:
        """Return this with the metrics and the model that the run of the sweep has recorded in the study."""
        best, found = study.best(), study.facts.get("outcome")
        if best is None or not isinstance(found, Mapping) or found.get("trial") != best.number:
            return self
        metrics, model, champion = found.get("test"), found.get("model"), self.champion
        if champion is None and isinstance(model, Mapping) and model.keys() == {each.name for each in fields(Champion)}:
            champion = Champion(**model)
        known = dict(metrics) if isinstance(metrics, Mapping) else None
        return replace(self, metrics=self.metrics or known, champion=champion)


@dataclass(frozen=True)
class Material:
    """A study, read once, and what its figures share.

    Attributes:
        rows: all trials, by number, with the states that people see.
        moment: when the study was read, in UTC.
    """

    study: StudyView
    rows: Sequence[TrialRecord]
    reports: Mapping[int, Sequence[Report]]
    attempts: Mapping[int, Sequence[Attempt]]
    decisions: Mapping[int, Sequence[Decision]]
    tested: Evaluated
    is_running: bool
    moment: datetime

    @classmethod
    def of(cls, study: StudyView, tested: Evaluated, *, is_running: bool, moment: datetime) -> Material:
        """Read a study."""
        rows = as_seen(study.rows(), is_running=is_running)
        numbers = {row.number for row in rows}
        attempts = {number: failed for number, failed in study.attempts().items() if number in numbers}
        read = study.all_reports(), attempts, study.decisions()
        return cls(study, rows, *read, tested.with_recorded(study), is_running, moment)

    @property
    def sweep(self) -> Sweep:
        return self.study.sweep

    @property
    def objective(self) -> str:
        """Return the objective's metric, for texts."""
        return plain(self.sweep.objective.metric)

    @property
    def drawn_objective(self) -> str:
        """Return the objective's metric, for figures."""
        return label(self.sweep.objective.metric)

    @property
    def unit(self) -> str:
        return unit(self.sweep.budget)

    @cached_property
    def best(self) -> TrialRecord | None:
        return self.study.best()

    @cached_property
    def results(self) -> list[TrialRecord]:
        """Return the trials that figures of results against parameters show."""
        return drawable(self.sweep, self.study.rows())

    @cached_property
    def optuna_study(self) -> optuna.Study:
        """Return all of `results` as a study of Optuna."""
        return rebuild(self.sweep, self.results)

    def thinned_study(self, most: int) -> optuna.Study:
        """Return at most so many of `results` as a study of Optuna."""
        if len(self.results) <= most:
            return self.optuna_study
        return rebuild(self.sweep, thinned(self.results, most, self.sweep.objective.direction))

    @cached_property
    def importance(self) -> Importance:
        return importance_of(self.optuna_study)

    @property
    def best_sentence(self) -> str:
        """Name the best trial, for people who do not see the figures."""
        best = self.best
        return f"The best is trial {best.number} with {metric(best.value)}." if best else "There is no best trial."

    def missing_results(self, needed: int = 1) -> str:
        """Return why figures of results cannot be drawn; "" if at least so many trials are there."""
        if not self.rows:
            return "No trial has started yet."
        if len(self.results) >= needed:
            return ""
        complete = sum(row.state == "COMPLETE" for row in self.rows)
        if complete > len(self.results):
            return f"{complete - len(self.results)} COMPLETE trials have parameters that are not in the space."
        if complete:
            return f"This needs {needed} COMPLETE trials, and there {_counted(complete)}."
        return "No trial has completed" + (", and all of them failed." if self.has_only_failures else " yet.")

    def range_of(self, values: Sequence[float], others: Sequence[float] = ()) -> tuple[tuple[float, float] | None, str]:
        """Return the range of an axis for these values of the objective, None for all, and a sentence about it.

        Args:
            others: values that are drawn too. They count as much as the values where these are few.
        """
        found, are_few = (
            [value for value in (*values, *others) if math.isfinite(value)],
            len(values) < MIN_RANGED_VALUES,
        )
        shown = decisive_range(found if are_few else values, self.sweep.objective.direction, others)
        if shown is None:
            return None, ""
        hidden = sum(not shown[0] <= value <= shown[1] for value in found)
        return shown, f" The axis leaves out {hidden:,} worse values; a double click on the figure shows all."

    @property
    def has_only_failures(self) -> bool:
        return all(row.state == "FAIL" for row in self.rows)


def _counted(count: int) -> str:
    return f"is {count}" if count == 1 else f"are {count}"


def origin(row: TrialRecord) -> str:
    """Return where the parameters of a trial came from."""
    return "not recorded" if row.origin is None else plain(row.origin)


def plain(text: object) -> str:
    """Return a text of the user's for the page, which escapes its markup: no secrets, no control characters."""
    return clean(redact(text))
