"""A study as anyone may read it; only its owner, `SweepStudy`, writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from sweeper.core.sweep_folder import is_remote
from sweeper.core.trials import Attempt, Report, TrialRecord, best_trial, leaderboard
from sweeper.search.space import suggest
from sweeper.spec import Sweep
from sweeper.study.database import Database
from sweeper.study.outage import storage_errors
from sweeper.study.tables import Attempts, Reports

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FACTS = "facts"
"""The study's user attribute for facts about the sweep: its folder, its data, versions."""


class StudyView:
    """The trials of one sweep as they were when it was opened: their parameters, reports and ends."""

    def __init__(self, sweep: Sweep, study: Study, database: Database) -> None:
        self.sweep = sweep
        self.name = sweep.name
        self._study = study
        self._database = database
        self._reports = Reports(database.engine, sweep.name)
        self._attempts = Attempts(database.engine, sweep.name)
        self._read()

    def _read(self) -> list[FrozenTrial]:
        """Read the facts and all trials; return the trials as Optuna has them."""
        self._facts: dict[str, Any] = self._study.user_attrs.get(FACTS, {})
        frozen = self._study.get_trials(deepcopy=False)
        started = [trial for trial in frozen if trial.state != TrialState.WAITING]
        self._rows = {trial.number: record_of(trial, self.sweep) for trial in started}
        return frozen

    @property
    def id(self) -> str | None:
        """The id that tells this study from any other; None if sweeper 0.1 made it and no owner has opened it since."""
        return self._facts.get("id")

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the sweep: its folder, the dataset and its digest, versions, the best model's digest."""
        return dict(self._facts)

    @property
    def storage(self) -> str:
        """The URL of the study's database, without a password."""
        return self._database.display_url

    @property
    def folder(self) -> Path | str:
        """The folder of the sweep: a path, or a URL if its nodes share no disk."""
        folder = str(self._facts.get("folder", f"sweeps/{self.name}"))
        return folder if is_remote(folder) else Path(folder)

    def rows(self) -> list[TrialRecord]:
        """Return all trials that have started, by number."""
        return [self._rows[number] for number in sorted(self._rows)]

    def row(self, number: int) -> TrialRecord:
        """Return one trial.

        Raises:
            KeyError: it has not started.
        """
        return self._rows[number]

    def reports(self, number: int) -> list[Report]:
        """Read every report of a trial, in order."""
        with storage_errors(self._database):
            return self._reports.of(number)

    def attempts(self) -> Mapping[int, list[Attempt]]:
        """Read the failed attempts, by the number of their trial."""
        with storage_errors(self._database):
            return self._attempts.all()

    def best(self) -> TrialRecord | None:
        """Return the COMPLETE trial with the best value, the lower number of equals; None if there is none."""
        return best_trial(self._rows.values(), self.sweep.objective.direction)

    def leaderboard(self) -> list[TrialRecord]:
        """Return COMPLETE trials by value, then the others by how far they came."""
        return leaderboard(self._rows.values(), self.sweep.objective.direction)


def record_of(trial: FrozenTrial, sweep: Sweep) -> TrialRecord:
    """Return the record of a trial that has started."""
    try:
        params = suggest(trial, sweep.space)
    except ValueError:  # its driver died between two parameters; the rest is drawn when the trial is resumed
        params = dict(trial.params)
    step = max(trial.intermediate_values, default=0)
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        params=params,
        value=trial.intermediate_values.get(step) if trial.value is None else trial.value,
        step=step,
        attempt=trial.user_attrs.get("attempt", 1),
        node=trial.user_attrs.get("node"),
        reason=trial.user_attrs.get("reason"),
        started=utc(trial.datetime_start),
        ended=utc(trial.datetime_complete),
    )


def utc(moment: datetime | None) -> datetime | None:
    """Convert a moment of Optuna's, which has no time zone and means local time."""
    return None if moment is None else moment.astimezone(UTC)
