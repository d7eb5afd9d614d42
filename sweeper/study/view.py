"""StudyView: a study for reading only. Its owner has `SweepStudy`, which can also write."""

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
"""User attribute of the study that holds facts about the sweep: its id, folder, dataset, versions."""


class StudyView:
    """The study of one sweep, for reading only; `read_study` returns one.

    `rows`, `row`, `best`, `leaderboard` and `facts` return what was recorded when the study was opened; open it again
    to see newer trials. `reports` and `attempts` query the database at each call, and raise StorageError if it cannot
    be read.

    A `TrialRecord` has the objective's metric as `value`, the number of its last report as `step` (1 is the first), and
    `started` and `ended` as datetimes in UTC. A `Report` has its `time` in seconds since the Unix epoch (UTC). An
    `Attempt` is one that failed, with the reason and the moment it `ended` in UTC.

    Attributes:
        sweep: the sweep file's content when an owner last opened the study.
        name: the name of the sweep and of the study.
    """

    def __init__(self, sweep: Sweep, study: Study, database: Database) -> None:
        self.sweep = sweep
        self.name = sweep.name
        self._study = study
        self._database = database
        self._reports = Reports(database.engine, sweep.name)
        self._attempts = Attempts(database.engine, sweep.name)
        self._read()

    def _read(self) -> list[FrozenTrial]:
        """Read the facts and all trials, and return the trials as Optuna stores them."""
        self._facts: dict[str, Any] = self._study.user_attrs.get(FACTS, {})
        frozen = self._study.get_trials(deepcopy=False)
        started = [trial for trial in frozen if trial.state != TrialState.WAITING]
        self._rows = {trial.number: record_of(trial, self.sweep) for trial in started}
        return frozen

    @property
    def id(self) -> str | None:
        """Id made when the study was created; None for a study of sweeper 0.1 that no owner has opened since."""
        return self._facts.get("id")

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the sweep: its id and folder, the dataset and its digest, versions, the best model's digest."""
        return dict(self._facts)

    @property
    def storage(self) -> str:
        """URL of the study's database, without a password."""
        return self._database.display_url

    @property
    def folder(self) -> Path | str:
        """Folder of the sweep: a path, or a URL if its nodes share no disk."""
        folder = str(self._facts.get("folder", f"sweeps/{self.name}"))
        return folder if is_remote(folder) else Path(folder)

    def rows(self) -> list[TrialRecord]:
        """Return all trials that have started, in the order of their numbers."""
        return [self._rows[number] for number in sorted(self._rows)]

    def row(self, number: int) -> TrialRecord:
        """Return one trial.

        Raises:
            KeyError: it has not started.
        """
        return self._rows[number]

    def reports(self, number: int) -> list[Report]:
        """Read all reports of a trial, in the order of their steps."""
        with storage_errors(self._database):
            return self._reports.of(number)

    def attempts(self) -> Mapping[int, list[Attempt]]:
        """Read the failed attempts of all trials, by the number of the trial."""
        with storage_errors(self._database):
            return self._attempts.all()

    def best(self) -> TrialRecord | None:
        """Return the COMPLETE trial with the best value, None if there is none; of equals, the lowest number."""
        return best_trial(self._rows.values(), self.sweep.objective.direction)

    def leaderboard(self) -> list[TrialRecord]:
        """Return COMPLETE trials from the best value to the worst, then the others by their last step."""
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
    """Convert a datetime of Optuna, which has no time zone and is in local time, to UTC."""
    return None if moment is None else moment.astimezone(UTC)
