"""Finished trials whose reports a new trial may take, so that it does not have to be trained: `budget.reuse`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna

from sweeper.core.errors import StorageError
from sweeper.core.trials import Failure, Report, TrialRecord, Verdict
from sweeper.search.space import point_key
from sweeper.study.database import open_database
from sweeper.study.open import find_study
from sweeper.study.storage.outage import storage_errors
from sweeper.study.view import DELETING, StudyView

if TYPE_CHECKING:
    from sweeper.study.study import SweepStudy


class FinishedTrials:
    """The COMPLETE trials of the sweeps in a study's storage whose results mean the same there, by their parameters.

    Those of other sweeps are read once. A trial that was added or has itself taken its reports is no source.
    """

    def __init__(self, study: SweepStudy) -> None:
        self._study = study
        self._others: dict[object, dict[str, list[Report]]] = {}
        with open_database(study.sweep.storage_url(), read_only=True) as database, storage_errors(database):
            for name in sorted(optuna.get_all_study_names(database.optuna)):
                try:
                    view = find_study(name, database)
                except StorageError:  # it is not sweeper's
                    continue
                if name != study.name and DELETING not in view.facts and _identity(view) == _identity(study):
                    self._add(view, view.all_reports())

    def _add(self, view: StudyView, reports: Mapping[int, list[Report]]) -> None:
        for row in filter(_is_source, view.rows()):
            if len(made := reports.get(row.number, [])) == view.sweep.budget.reports:
                self._others.setdefault(point_key(row.params), {})[f"{view.name}:{row.number}"] = made

    def _sources(self, row: TrialRecord) -> dict[str, list[Report]]:
        """Return the reports of the finished trials with the parameters of a trial, by the name of each."""
        key, study, full = point_key(row.params), self._study, self._study.sweep.budget.reports
        same = [other for other in study.rows() if _is_source(other) and point_key(other.params) == key]
        own = {f"{study.name}:{other.number}": study.reports(other.number) for other in same if other.step == full}
        return self._others.get(key, {}) | own

    def give(self, row: TrialRecord) -> bool:
        """Report for a trial what a finished one with its parameters has reported; return False if a worker has to.

        The pruner judges each report, as if a worker had made it. Nothing is given to a trial with reports of its own:
        its seed is another one. For the same reason a trial that took some reports, as before it was paused, takes the
        rest from the same trial, and fails if that is gone.
        """
        if row.step and row.reused is None:
            return False
        sources = self._sources(row)
        source = row.reused or next(iter(sources), None)
        if source is None:
            return False
        if source not in sources:
            gone = Failure("error", f"the trial that its reports were taken from, {source}, is gone or has changed")
            self._study.fail(row.number, gone)
            return True
        for report in sources[source][row.step :]:
            made = replace(report, time=time.time(), source=source)
            if self._study.report(row.number, made) is Verdict.STOP:
                break
        return True


def _is_source(row: TrialRecord) -> bool:
    return row.state == "COMPLETE" and not row.is_added


def _identity(study: StudyView) -> dict[str, Any]:
    """Return what must be the same for equal parameters to mean equal results, but for the number in a trial's seed."""
    sweep, facts = study.sweep, study.facts
    return {
        "code": [sweep.trainable, facts.get("code"), facts.get("files")],
        "sweeper": facts.get("versions", {}).get("sweeper") if facts.get("code") == "sweeper" else None,
        "data": [sweep.dataset is None, facts.get("dataset", {}).get("digest")],
        "length": sweep.budget.model_dump(include={"epochs", "steps", "reports_per_epoch", "report_every"}),
        "metrics": sorted(goal.metric for goal in sweep.goals),
        "seed": sweep.seed,
    }
