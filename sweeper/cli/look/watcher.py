"""Feeds the view of `watch`: what has changed in a sweep that another process runs, as its own listeners get it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sweeper.analysis.curves import Curve, curves_of
from sweeper.analysis.progress import active_seconds
from sweeper.core.text import duration, tally
from sweeper.core.trials import Listener, Report

if TYPE_CHECKING:
    from sweeper.analysis.progress import Progress
    from sweeper.core.trials import TrialRecord
    from sweeper.study.storage.follow import FollowedStudy

MAX_DRAWN_TRIALS = 5
"""Running trials whose learning curves are drawn, beside that of the best one."""

SILENCE_S = 30
"""Seconds without a sign of life of the process that runs the sweep, or of the database, between two messages."""


class View(Listener, Protocol):
    """What shows a sweep: a listener that keeps its progress."""

    progress: Progress


def changes(
    before: Mapping[int, TrialRecord], rows: Iterable[TrialRecord], metric: str
) -> Iterator[tuple[TrialRecord, Report | None]]:
    """Yield what the listeners of a sweep got between two readings: starts, last reports and ends of trials.

    Of several reports of a trial only the last one is known.
    """
    for row in rows:
        old = before.get(row.number)
        if row is old or row == old:
            continue
        running = replace(row, state="RUNNING", ended=None, reason=None)
        if old is None or (old.attempt, old.state) != (row.attempt, "RUNNING"):
            yield replace(running, step=0 if old is None else old.step), None
        if row.step > (0 if old is None else old.step) and row.value is not None:
            yield running, Report(row.step, time.time(), {metric: row.value})
        if row.state != "RUNNING":
            yield row, None


class Watcher:
    """Reads a sweep again and again, and notifies a view of the changes, as the process that runs it does.

    Attributes:
        curves: the learning curves of the best and of the running trials, in the objective.
    """

    def __init__(self, study: FollowedStudy, view: View) -> None:
        self.study = study
        self.curves: tuple[Curve, ...] = ()
        self._view = view
        self._known = {row.number: row for row in study.rows(with_fresh=True)}
        self._owner = study.holder.owner if study.holder else None
        self._drawn: dict[int, tuple[TrialRecord, Curve]] = {}
        self._phase = ""
        self._is_away = False
        view.progress.attach(study.rows(with_fresh=True), _seconds_of_run(study))
        self._read_curves()

    def poll(self) -> bool:
        """Read what has changed, and notify the view; return whether the same process still runs the sweep.

        Raises:
            StorageError: the database cannot be read now; call again later.
            InputError: the sweep was deleted.
        """
        self.study.refresh()
        if self._is_away:
            self._view.on_phase("The study's database can be read again.")
            self._is_away = False
        rows, metric = self.study.rows(with_fresh=True), self.study.sweep.objective.metric
        for row, report in changes(self._known, rows, metric):
            self._view.on_trial(row, report)
            if report is None and row.state == "RUNNING" and row.attempt > 1:
                self._view.on_phase(f"trial {row.number}: attempt {row.attempt} begins")
        self._known = {row.number: row for row in rows}
        self._read_curves()
        self.announce()
        has_owner = self.study.holder is not None and self.study.holder.owner == self._owner
        return self.study.is_running and has_owner

    def announce_outage(self, reason: str, seconds: float) -> None:
        """Notify the view that the database cannot be read."""
        self._is_away = True
        since = f"; {duration(SILENCE_S * round(seconds // SILENCE_S))} so far" if seconds >= SILENCE_S else ""
        self._say(f"{reason} Trying again{since}.")

    def _read_curves(self) -> None:
        progress = self._view.progress
        rows = sorted(progress.running(), key=lambda row: -row.step)[:MAX_DRAWN_TRIALS]
        if progress.best is not None:
            rows.insert(0, progress.best)
        drawn = {row.number: self._drawn.get(row.number) for row in rows if row.step}
        if changed := [row for row in rows if row.number in drawn and (drawn[row.number] or (None,))[0] != row]:
            found = {curve.number: curve for curve in curves_of(self.study, changed)}
            drawn |= {row.number: (row, found[row.number]) for row in changed if row.number in found}
        self._drawn = {number: known for number, known in drawn.items() if known is not None}
        self.curves = tuple(curve for _, curve in self._drawn.values())

    def announce(self) -> None:
        """Notify the view of what the sweep does between trials, as far as that can be seen."""
        study, progress = self.study, self._view.progress
        phase = ""
        if study.is_paused:
            phase = f"Paused. It continues after: sweeper unpause {study.name}"
        elif study.is_running and study.silent_s > SILENCE_S and study.holder is not None:
            holder, silence = study.holder, duration(SILENCE_S * round(study.silent_s // SILENCE_S))
            phase = f"No sign of life from its process {holder.pid} on {holder.host} for {silence}."
        elif study.is_running and not progress.rows:
            phase = "No trial has started yet."
        elif study.is_running and progress.ended() >= progress.trials:
            confirmation = study.confirmation()
            is_settled = confirmation is None or confirmation.is_complete
            then = "The best one is tested and its model registered" if is_settled else "The best ones are confirmed"
            phase = f"All trials have ended. {then}."
        self._say(phase)

    def _say(self, phase: str) -> None:
        if phase and phase != self._phase:
            self._view.on_phase(phase)
        self._phase = phase


def state_of(study: FollowedStudy) -> str:
    """Return what a sweep does: running, paused, done, or stopped before its last trial."""
    if study.is_running:
        return "paused" if study.is_paused else "running"
    rows = study.rows()
    has_ended = len(rows) >= study.trial_limit and all(row.state != "RUNNING" for row in rows)
    return "done" if has_ended else "stopped"


def headline(study: FollowedStudy, progress: Progress) -> str:
    """Describe a sweep in one line: its state, its trials, what is left, and the best one."""
    counts = tally(progress.counts(has_ended=not study.is_running))
    to_come = max(0, study.trial_limit - len(study.rows()))
    rest = f", {to_come} to come" if to_come else ""
    words = {"running": "runs", "paused": "is paused", "done": "is done", "stopped": "has stopped"}
    return f"{study.name} {words[state_of(study)]}: {counts}{rest}{progress.best_so_far()}"


def _seconds_of_run(study: FollowedStudy) -> float:
    """Return for how long the present run of a sweep lasts; of one that does not run, how long its trials took."""
    if study.is_running and study.holder is not None:
        return max(0.0, time.time() - study.holder.since)
    return active_seconds(study)[-1]
