"""A plan of a sweep: what it will try first, how far its trials will come, and what it will cost. Nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sweeper.analysis.forecast.curves import Resampled, Synthetic
from sweeper.analysis.forecast.forecast import Forecast, forecast
from sweeper.analysis.forecast.past import (
    MIN_TRIALS,
    Timed,
    costs_of_trials,
    earlier_sweeps,
    past_curves,
    timed_trials,
)
from sweeper.analysis.forecast.play import Machine, TrialCosts
from sweeper.analysis.forecast.points import points_to_measure, size_of
from sweeper.core.code.user_code import find_trainable, load_trainable
from sweeper.core.environment import processor
from sweeper.core.errors import InputError
from sweeper.driver.capacity import allowed_cpus, possible_requests, refuse_infeasible, request_for, trials_that_fit
from sweeper.driver.ray_internals import detect_local_resources
from sweeper.run.measure import measure
from sweeper.study.open import open_study, read_study
from sweeper.worker.checkpoints import MAX_PAUSED

if TYPE_CHECKING:
    import random

    from sweeper.analysis.forecast.curves import Curves, Work
    from sweeper.core.trials import TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

MEASURE_S, QUICK_MEASURE_S = 20.0, 8.0
"""Seconds of a measurement; and of one before a sweep that starts at once."""

MAX_PROPOSALS = 10
"""First proposals that are shown."""

REPORT_S = 0.01
"""Seconds of a report between a worker and the driver: recorded, judged and answered."""

SPARE_GAIN = 0.55
"""How much faster `train_rnn` gets by another CPU; see "More CPUs for one trial" in docs/performance.md."""


@dataclass(frozen=True)
class Source:
    """Where the times of a plan come from: a measurement, or earlier sweeps.

    Attributes:
        trials: trials whose pace is known; 0 if there are none.
        seconds: of the measurement; 0 if there was none.
        sweeps: names of the earlier sweeps.
        error: standard deviation of a trial's pace from what the others predict, as a part of it; None without trials.
    """

    trials: int
    seconds: float
    sweeps: tuple[str, ...]
    error: float | None


@dataclass(frozen=True)
class Plan:
    """A sweep before it runs.

    Attributes:
        points: number of points of the space; None if it is infinite, or has too many with conditions to be counted.
        continuous: the parameters that are continuous.
        proposals: the first trials, as the sampler proposes them while no value counts.
        notes: what a person should know beside the figures.
    """

    sweep: Sweep
    points: int | None
    continuous: tuple[str, ...]
    proposals: tuple[TrialRecord, ...]
    machine: Machine
    source: Source
    forecast: Forecast
    notes: tuple[str, ...]


def make_plan(sweep: Sweep, *, measure_s: float | None = None, default_measure_s: float = MEASURE_S) -> Plan:
    """Plan a sweep on this machine.

    What its trials cost comes from earlier sweeps in its storage that trained the same here, else from a measurement.

    Args:
        measure_s: seconds to measure, whatever the storage has; 0: do not measure.
        default_measure_s: seconds to measure if the storage has no earlier sweep.

    Raises:
        InputError: the sweep cannot run, or none of its trials could be measured.
        StorageError: the database of studies cannot be read.
    """
    node = detect_local_resources(allowed_cpus())
    refuse_infeasible(sweep, [node], "this machine")
    dataset = None if sweep.dataset is None else sweep.dataset.resolve()
    views = earlier_sweeps(sweep, None if dataset is None else dataset.type)
    sweep = sweep.model_copy(update={"dataset": dataset})
    proposals, machine = first_proposals(sweep), machine_of(sweep, node)
    work, first = work_of(sweep), [dict(row.params) for row in proposals]
    seconds = (0.0 if views else default_measure_s) if measure_s is None else measure_s
    notes = _notes(sweep)
    if seconds:
        chosen = points_to_measure(sweep.space, first, seed=sweep.seed)
        gpus = int(node.get("GPU", 0))
        timed, more = measure(sweep, chosen, work=work, seconds=seconds, processes=machine.workers, gpus=gpus)
        notes += more
    else:
        timed = [one for view in views for one in timed_trials(view, sweep.budget)]
    costs = _costs(sweep, timed, work, is_measured=seconds > 0) if timed else None
    curves = _curves(sweep, views, work)
    error = None if costs is None else costs.pace.error
    points, continuous = size_of(sweep.space)
    return Plan(
        sweep,
        points,
        tuple(continuous),
        tuple(proposals),
        machine,
        Source(len(timed), seconds, () if seconds else tuple(view.name for view in views), error),
        forecast(sweep, machine, first=first, curves=curves, costs=costs, max_paused=MAX_PAUSED),
        tuple(notes),
    )


def _notes(sweep: Sweep) -> list[str]:
    """Say that a sweep of this name has begun, if one has."""
    try:
        rows = read_study(sweep.name, sweep.storage_url()).rows()
    except InputError:  # there is none
        return []
    return [f"sweep {sweep.name!r} has begun, with {len(rows)} trials: `sweeper run` resumes it. This plans a new one"]


def first_proposals(sweep: Sweep) -> list[TrialRecord]:
    """Return the first trials that a sweep proposes while no value counts, from a study that is deleted at once."""
    known = max(1, len(sweep.enqueue), sweep.chosen_sampler.random_trials(sweep.budget.trials))
    with TemporaryDirectory(prefix="sweeper-") as folder:
        own = sweep.model_copy(update={"storage": f"sqlite:///{Path(folder, 'plan.db')}"})
        with open_study(own) as study:
            return [study.ask() for _ in range(min(known, MAX_PROPOSALS, sweep.trial_limit))]


def machine_of(sweep: Sweep, node: Mapping[str, float]) -> Machine:
    """Return how many trials of a sweep run at a time on a machine with these resources, and what each takes of it."""

    def fitting(point: Mapping[str, Any]) -> int:
        return trials_that_fit(request_for(sweep.resources.for_trial(point)), node)

    most = max(trials_that_fit(request, node) for request in possible_requests(sweep))
    limit = sweep.trial_limit if sweep.budget.parallel == "auto" else int(sweep.budget.parallel)
    workers = max(1, min(most, limit))
    amounts = [f"{node['CPU']:g} CPU"] + ([f"{node['GPU']:g} GPU"] if node.get("GPU") else [])
    name = ", ".join([*amounts, *filter(None, [processor()])])
    return Machine(name, workers, lambda point: max(1.0, workers / max(1, fitting(point))))


def work_of(sweep: Sweep) -> Work | None:
    """Return what a sample costs to train with some parameters, in microseconds, if the trainable tells that."""
    if sweep.dataset is None or not isinstance(sweep.trainable, str):
        return None
    cost, model = getattr(load_trainable(sweep.trainable), "work", None), find_trainable(sweep.trainable).params_model
    task = sweep.dataset.task
    return None if cost is None or model is None else lambda point: float(cost(model(**point), task))


def _costs(sweep: Sweep, timed: Sequence[Timed], work: Work | None, *, is_measured: bool) -> TrialCosts:
    spare_gain = SPARE_GAIN if work is not None and sweep.resources.elastic else 0.0
    report_s = REPORT_S if is_measured else 0.0  # in a sweep, the time between two reports contains it
    return costs_of_trials(timed, sweep.space, work or _constant, report_s=report_s, spare_gain=spare_gain)


def _curves(sweep: Sweep, views: Sequence[StudyView], work: Work | None) -> Callable[[random.Random], Curves]:
    """Return what makes the learning curves of a play: those of earlier sweeps, else synthetic ones."""
    budget, past = sweep.budget, past_curves(views)
    if len(past) >= MIN_TRIALS:
        epochs = [budget.epoch_of(step) for step in range(1, budget.reports + 1)]
        return lambda rng: Resampled(past, sweep.space, epochs, rng)
    return lambda rng: Synthetic(sweep.space, budget.reports, sweep.objective.direction, work or _constant, rng)


def _constant(point: Mapping[str, Any]) -> float:
    return 1.0
