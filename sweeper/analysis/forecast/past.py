"""Earlier sweeps of the same trainable and data in a storage: what their trials cost, and how they learned."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sweeper.analysis.curves import curves_of
from sweeper.analysis.forecast.curves import PastTrial, Work
from sweeper.analysis.forecast.pace import Estimate
from sweeper.analysis.forecast.play import TrialCosts
from sweeper.analysis.forecast.points import structure
from sweeper.analysis.trials import folder_at_hand
from sweeper.core.environment import processor
from sweeper.core.errors import InputError
from sweeper.core.files import bytes_below
from sweeper.core.trials import Report
from sweeper.search.budget import Budget
from sweeper.search.space import Space
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, read_study
from sweeper.study.view import StudyView

MAX_SWEEPS = 5
"""Earlier sweeps that are used, the newest."""

MIN_TRIALS = 3
"""Trials whose pace is known, below which earlier sweeps say too little."""


@dataclass(frozen=True)
class Timed:
    """The times of one trial.

    Attributes:
        params: its parameters.
        report_s: seconds of a report, as the sweep that is planned makes them.
        delay_s: seconds until its first report, without those of a report.
        is_first: whether its worker had run no trial before.
        checkpoint_bytes: size of its checkpoints; None if it has left none.
        worker: number of its worker, if that is known.
    """

    params: Mapping[str, Any]
    report_s: float
    delay_s: float
    is_first: bool
    checkpoint_bytes: int | None = None
    worker: int = 0


def earlier_sweeps(sweep: Sweep, data: str | None = None) -> list[StudyView]:
    """Return the sweeps in the storage of a sweep that trained the same on a machine like this one, the newest first.

    The same are the trainable, the data, the objective, the resources of a trial, and the unit of its length.

    Args:
        data: type of the dataset that is used, which may be the fallback of the declared one.
    """
    try:
        names = [summary.name for summary in list_sweeps(sweep.storage_url()) if summary.ended]
    except InputError:  # there is no database yet; what else is wrong with it, `run` reports when it opens it
        return []
    views = (read_study(name, sweep.storage_url()) for name in names)
    found = [view for view in views if _trained_alike(view, sweep, data)]
    return found[:MAX_SWEEPS] if sum(len(timed_trials(view, sweep.budget)) for view in found) >= MIN_TRIALS else []


def _trained_alike(view: StudyView, sweep: Sweep, data: str | None) -> bool:
    before, facts = view.sweep, view.facts
    keys = ("trainable", "dataset", "goals", "resources")
    is_same = all(getattr(before, key) == getattr(sweep, key) for key in keys)
    if not is_same or (before.budget.steps is None) != (sweep.budget.steps is None):
        return False
    used = None if sweep.dataset is None else facts.get("dataset", {}).get("name")
    return used == data and bool(facts.get("processor", processor()) == processor())


def timed_trials(view: StudyView, budget: Budget) -> list[Timed]:
    """Return the times of the trials of an earlier sweep, in reports of the budget of another one."""
    reports, found, place = view.all_reports(), [], folder_at_hand(view)
    decisions, attempts = view.decisions(), view.attempts()
    width = budget.epoch_of(budget.reports) / budget.reports
    began = min((made[0].time for made in reports.values() if made), default=0.0)
    for row in view.rows():
        made = reports.get(row.number, [])
        paused = {decision.step for decision in decisions.get(row.number, ()) if decision.is_pruned}
        failed = {attempt.step for attempt in attempts.get(row.number, ())}
        pace = _seconds_of_an_epoch(made, view.sweep.budget, paused | failed)
        if pace is None or row.started is None or row.is_added:
            continue
        started = row.started.timestamp()
        delay = max(0.0, made[0].time - started - pace * view.sweep.budget.epoch_of(made[0].step))
        saved = place.trial(row.number).glob("attempt-*") if place is not None else ()
        size = sum(map(bytes_below, saved))
        found.append(Timed(row.params, pace * width, delay, started < began, size or None))
    return found


def _seconds_of_an_epoch(reports: Sequence[Report], budget: Budget, interrupted: Set[int]) -> float | None:
    """Return the seconds of an epoch, or step: the lower median of the intervals between two reports.

    So few long intervals do not count, such as those in which another program had the CPU. One on more CPUs is left
    out, and one after which the trial was paused or failed: it contains the pause, and the compilation after that.

    Args:
        interrupted: the reports after which the trial was paused, or failed.
    """
    own = reports[0].cpus if reports else None
    paces = [
        (after.time - before.time) / (budget.epoch_of(after.step) - budget.epoch_of(before.step))
        for before, after in pairwise(reports)
        if after.cpus == own and after.time > before.time and before.step not in interrupted
    ]
    return statistics.median_low(paces) if paces else None


def past_curves(views: Sequence[StudyView]) -> list[PastTrial]:
    """Return the learning curves of earlier sweeps."""
    found = []
    for view in views:
        rows = view.rows()
        curves = zip(rows, curves_of(view, rows), strict=True)
        found += [PastTrial(row.params, one.epochs, one.values) for row, one in curves if one.values]
    return found


def costs_of_trials(timed: Sequence[Timed], space: Space, work: Work, **more: float) -> TrialCosts:
    """Return what trials cost, as the times of some of them tell.

    Args:
        more: more of the costs, which these times do not tell.
    """
    pace = Estimate([one.params for one in timed], [one.report_s for one in timed], space, work)
    sized = [one for one in timed if one.checkpoint_bytes]
    sizes = [float(one.checkpoint_bytes or 0) for one in sized]
    checkpoint = Estimate([one.params for one in sized], sizes, space, work) if sized else None
    return TrialCosts(pace, checkpoint=checkpoint, **_delays(timed), **more)


def _delays(timed: Sequence[Timed]) -> dict[str, float]:
    """Tell apart what the first trial of a worker, the first one of a structure, and any other waits for."""
    known: set[object] = set()
    first, new, other = list[float](), list[float](), list[float]()
    for one in timed:
        kind = one.worker, structure(one.params)
        (first if one.is_first else new if kind not in known else other).append(one.delay_s)
        known.add(kind)
    trial_s = statistics.median(other) if other else 0.0
    structure_s = max(0.0, statistics.median(new) - trial_s) if new else 0.0
    import_s = max(0.0, statistics.median(first) - structure_s - trial_s) if first else 0.0
    return {"trial_s": trial_s, "structure_s": structure_s, "import_s": import_s}
