"""A study that is read again and again while another process runs its sweep, as by `sweeper watch`."""

from __future__ import annotations

import time

from optuna.trial import TrialState

from sweeper.core.errors import InputError, StorageError
from sweeper.search.history import is_history
from sweeper.study.database import open_database
from sweeper.study.lease import Holder, Lease, find_holder
from sweeper.study.open import find_study
from sweeper.study.storage.outage import storage_errors
from sweeper.study.storage.records import record_of
from sweeper.study.view import StudyView

MAX_SILENCE_S = 4 * Lease.EXPIRY_S
"""Seconds without a renewal of the lease after which an owner that cannot be seen counts as dead."""


class FollowedStudy(StudyView):
    """The study of a sweep that another process runs; `refresh` reads what has changed since.

    Only trials that have not ended are read again, and a record that has not changed stays the same object. So a poll
    costs no more at the end of a long sweep than at its start. No connection is kept between two polls.

    Attributes:
        holder: the process that holds the lease on the sweep; None if none does.
        is_paused: whether somebody has paused the sweep.
    """

    def __init__(self, found: StudyView, *, is_running: bool) -> None:
        self.__dict__.update(found.__dict__)  # reading all trials of a long sweep twice takes seconds
        states = {row.number: row.state for row in self.rows(with_fresh=True)}
        trials = self._study.get_trials(deepcopy=False)  # one that has changed meanwhile is not taken as seen
        self._seen = {trial.number: trial for trial in trials if states.get(trial.number) == trial.state.name}
        self.is_running = is_running
        self.holder: Holder | None = None
        self.is_paused = False
        self._heard_at = time.monotonic()
        self._read_holder()

    @property
    def silent_s(self) -> float:
        """Seconds since the owner was last heard of."""
        return time.monotonic() - self._heard_at

    def refresh(self) -> None:
        """Read what has changed.

        Raises:
            StorageError: the database cannot be read now.
            InputError: the study was deleted.
        """
        try:
            with storage_errors(self._database):
                self._read_changed()
                was_running = self.is_running
                self._read_holder()
                if was_running and not self.is_running:
                    self._read_changed()  # what it wrote before it released the lease
        except StorageError:
            self._heard_at = time.monotonic()  # nothing can be heard meanwhile
            raise
        except KeyError:
            raise InputError(f"sweep {self.name!r} was deleted from {self.storage}") from None

    def _read_changed(self) -> None:
        for trial in self._study.get_trials(deepcopy=False):  # Optuna caches those that have ended
            if self._seen.get(trial.number) is trial:
                continue
            self._seen[trial.number] = trial
            if trial.state != TrialState.WAITING and not is_history(trial):
                row = record_of(trial, self.sweep)
                rows = self._rows if row.confirms is None else self._fresh
                if row != rows.get(trial.number):
                    rows[trial.number] = row

    def _read_holder(self) -> None:
        before, now = self.holder, find_holder(self._database.engine, self.name)
        if before is None or now is None or (before.owner, before.beats) != (now.owner, now.beats):
            self._heard_at = time.monotonic()
        self.holder = now
        if self.is_running:
            is_lost = now is None or now.is_dead() or (self.silent_s > MAX_SILENCE_S and not now.is_alive())
            self.is_running = not is_lost
        self.is_paused = self.is_running and self._database.commands(self.name).current() == "pause"


def follow_study(name: str, storage: str) -> FollowedStudy:
    """Read the study of a sweep, to read it again while the sweep runs.

    Raises:
        InputError: the URL is not one, or the database has no such sweep.
        StorageError: the database cannot be read, or a newer sweeper wrote it.
    """
    with open_database(storage, read_only=True) as database, storage_errors(database):
        return FollowedStudy(find_study(name, database), is_running=database.is_owned(name))
