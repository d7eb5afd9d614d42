"""StudyView: a study for reading only; its owner has `SweepStudy`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from sweeper.core.sweep_folder import is_remote
from sweeper.core.trials import TrialRecord, best_trial, leaderboard, pareto_front
from sweeper.search.confirming import COMPARED, confirmation_of, with_compared
from sweeper.search.grid import untried_points
from sweeper.search.history import describe_eras, is_history
from sweeper.search.optuna_internals import storage_of
from sweeper.spec import Sweep
from sweeper.study.database import Database
from sweeper.study.frames import SHOWN_TRIALS, curves_frame, summary_line, trials_frame
from sweeper.study.storage.cache import OwnerCachedStorage
from sweeper.study.storage.decisions import Decisions
from sweeper.study.storage.outage import storage_errors
from sweeper.study.storage.reading import read_trials
from sweeper.study.storage.records import record_of
from sweeper.study.storage.tables import Attempts, Reports

if TYPE_CHECKING:
    import pandas
    from optuna import Study
    from optuna.trial import FrozenTrial

    from sweeper.core.confirmation import Confirmation
    from sweeper.core.trials import Attempt, Decision, Report

FACTS = "facts"
"""User attribute of the study that holds facts about the sweep: its id, folder, dataset, versions."""

HISTORY, ERAS, DELETING = "history", "eras", "deleting"
"""Facts: what a fork took over; which trials ran under which sampler and pruner; that a deletion was begun."""


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
        storage: URL of the study's database, without a password.
        is_running: whether a process ran the sweep when the study was read.
    """

    is_running = False

    def __init__(self, sweep: Sweep, study: Study, database: Database) -> None:
        self.sweep = sweep
        self.name = sweep.name
        self.storage = database.display_url
        self._study = study
        self._database = database
        self._reports = Reports(database.engine, sweep.name)
        self._attempts = Attempts(database.engine, sweep.name)
        self._decisions = Decisions(database.engine, sweep.name)
        self._read()

    def _read(self) -> list[FrozenTrial]:
        """Read the facts and all trials, and return the trials as Optuna stores them."""
        self._facts: dict[str, Any] = self._study.user_attrs.get(FACTS, {})
        storage, engine, name = storage_of(self._study), self._database.engine, self._study.study_name
        frozen = storage.recorded() if isinstance(storage, OwnerCachedStorage) else read_trials(name, engine)
        self._history = [record_of(trial, self.sweep) for trial in frozen if is_history(trial)]
        started = [trial for trial in frozen if trial.state != TrialState.WAITING and not is_history(trial)]
        rows = [record_of(trial, self.sweep) for trial in started]
        self._rows = {row.number: row for row in rows if row.confirms is None}
        self._fresh = {row.number: row for row in rows if row.confirms is not None}
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
    def folder(self) -> Path | str:
        """Folder of the sweep: a path, or a URL if its nodes share no disk."""
        folder = str(self._facts.get("folder", f"sweeps/{self.name}"))
        return folder if is_remote(folder) else Path(folder)

    @cached_property
    def trial_limit(self) -> int:
        """Number of trials that the sweep ends after: that of its budget, or fewer if a grid has fewer points left."""
        if self.sweep.chosen_sampler.type != "grid":
            return self.sweep.budget.trials
        tried = [row.params for row in (*self._rows.values(), *self._history)]
        return min(self.sweep.budget.trials, len(self._rows) + untried_points(self.sweep.space, tried))

    def rows(self, *, with_fresh: bool = False) -> list[TrialRecord]:
        """Return all trials that have started, in the order of their numbers; not those that a fork took over.

        Args:
            with_fresh: also return, after them, the fresh runs that confirm the best ones.
        """
        rows = [self._rows[number] for number in sorted(self._rows)]
        return rows + [self._fresh[number] for number in sorted(self._fresh)] if with_fresh else rows

    def row(self, number: int) -> TrialRecord:
        """Return one trial, or one fresh run.

        Raises:
            KeyError: it has not started.
        """
        return self._fresh[number] if number in self._fresh else self._rows[number]

    def reports(self, number: int) -> list[Report]:
        """Read all reports of a trial, in the order of their steps."""
        with storage_errors(self._database):
            return self._reports.of(number)

    def all_reports(self) -> Mapping[int, list[Report]]:
        """Read the reports of all trials with one query, by the number of the trial."""
        with storage_errors(self._database):
            found = self._reports.all()
        return {number: reports for number, reports in found.items() if number in self._rows}

    def decisions(self) -> Mapping[int, list[Decision]]:
        """Read what the pruner decided, by the number of the trial and in the order of the reports.

        A report has none if the pruner compared nothing, or if an older sweeper recorded it.
        """
        with storage_errors(self._database):
            found = self._decisions.all()
        return {number: decisions for number, decisions in found.items() if number in self._rows}

    def attempts(self, number: int | None = None) -> Mapping[int, list[Attempt]]:
        """Read the failed attempts of all trials, or of one, by the number of the trial."""
        with storage_errors(self._database):
            return self._attempts.all(number)

    @property
    def trials(self) -> pandas.DataFrame:
        """Data frame with one row for each trial, best first; see `frames.trials_frame`."""
        return trials_frame(self.sweep, self.leaderboard())

    @property
    def curves(self) -> pandas.DataFrame:
        """Data frame with one row for each report of each trial; see `frames.curves_frame`."""
        return curves_frame(self.sweep, self.all_reports())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_line(self)}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(_line(self))}</p>{self.trials.head(SHOWN_TRIALS).to_html()}"

    def best(self) -> TrialRecord | None:
        """Return the trial with the best confirmed mean, else the COMPLETE one with the best value; None without one.

        Of equals it is the lowest number.
        """
        found = self.confirmation()
        if found is not None and found.best is not None:
            return self._rows[found.best.trial]
        return best_trial(self.rows(), self.sweep.objective.direction)

    def confirmation(self) -> Confirmation | None:
        """Return how far the best trials are confirmed; None if the sweep does not ask for it, or still searches."""
        if self.sweep.confirm is None or len(self._rows) < self.trial_limit:
            return None
        rows, direction = self.rows(), self.sweep.objective.direction
        if any(row.state == "RUNNING" for row in rows):
            return None
        ranked = [row for row in leaderboard(rows, direction) if row.state == "COMPLETE" and not row.is_added]
        runs = [row for row in self.rows(with_fresh=True) if row.confirms is not None]
        found = confirmation_of(self.sweep.confirm, ranked, runs, direction=direction, seed=self.sweep.seed)
        return with_compared(found, self._facts.get(COMPARED))

    def leaderboard(self, *, front: bool = False) -> list[TrialRecord]:
        """Return COMPLETE trials from the best value to the worst, then the others by their last step.

        Args:
            front: return only the COMPLETE trials that no other one equals or betters in every goal.
        """
        order = pareto_front if front else leaderboard
        return order(self._rows.values(), self.sweep.objective.direction)

    def remarks(self) -> tuple[str, ...]:
        """Return what a person should know about the result that its numbers do not say."""
        rows, best, found = self.leaderboard(), self.best(), []
        if self._history:
            top = leaderboard(self._history, self.sweep.objective.direction)[0]
            known = (
                f"{len(self._history)} trials of {self._facts[HISTORY]['sweep']} (the best has {top.value or 0.0:.6g})"
            )
            found.append(f"the sampler also knows {known}, which are not counted or shown here")
        if described := describe_eras(self._facts.get(ERAS, ()), max(self._rows, default=0)):
            found.append(described)
        if rows and rows[0].is_added:
            model = f"the best model is that of trial {best.number}" if best else "there is no model"
            how = f"taken from {rows[0].reused}" if rows[0].reused else "added to the study"
            found.append(f"trial {rows[0].number} leads, but was {how} and not trained here; {model}")
        if reused := sum(row.reused is not None for row in rows):
            found.append(f"{reused} of {len(rows)} trials took their reports from finished ones (budget.reuse)")
        confirmation = self.confirmation()
        if self.sweep.confirm is not None and (confirmation is None or not confirmation.is_complete):
            found.append("the best trials are not confirmed with fresh seeds yet; no model is registered before")
        early = [row for row in rows if row.state == "COMPLETE" and not row.is_added and row.reason]
        if early:
            found.append(
                f"{len(early)} of {len(rows)} trials count as complete although they did not make all reports: "
                f"trial {early[0].number} {early[0].reason}"
            )
        return tuple(found)


def _line(view: StudyView) -> str:
    return summary_line(view.name, view.sweep, Counter(row.state for row in view.rows()), view.best())


@dataclass(frozen=True)
class SweepSummary:
    """One line of `sweeper list`.

    Attributes:
        created: when its first trial started, in UTC; None before that.
        counts: number of trials by state.
        trials: number of trials that the sweep ends after.
        best: value of the best COMPLETE trial, None if there is none.
        seconds: sum of the times of its trials that have ended.
    """

    name: str
    created: datetime | None
    counts: dict[str, int]
    trials: int
    best: float | None
    metric: str
    direction: str
    running: bool
    paused: bool
    is_half_deleted: bool = False
    seconds: float = 0.0

    @property
    def ended(self) -> int:
        """Return the number of trials that are over."""
        return sum(count for state, count in self.counts.items() if state not in ("RUNNING", "WAITING"))

    @property
    def state(self) -> str:
        """Return what the sweep does now: paused, running, done, half deleted, or stopped before its last trial."""
        if self.is_half_deleted:
            return "half deleted"
        if self.running:
            return "paused" if self.paused else "running"
        return "done" if self.ended >= self.trials else "stopped"
