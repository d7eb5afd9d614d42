"""Trials, or whole sweeps, beside each other: what differs, how good each became, how soon, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sweeper.analysis.costs import costs_of
from sweeper.analysis.curves import Curve
from sweeper.analysis.names import parse_targets, trial_named
from sweeper.analysis.progress import active_seconds, trial_seconds
from sweeper.analysis.trials import as_seen, describe_objective, is_done, unit
from sweeper.core.errors import InputError
from sweeper.core.text import format_list
from sweeper.study.open import read_study

if TYPE_CHECKING:
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

MAX_SIDES = 12
"""Trials or sweeps in one comparison; a terminal has no room for more."""

NEAR_BEST = 0.01
"""Share of a value by which the lower of the two values that are asked for by default is missed."""

_LABELS = ("name", "description", "storage", "tracking")
"""Keys of a sweep that say nothing of how it searches."""


@dataclass(frozen=True)
class Reached:
    """How soon a value was reached first: seconds, and epochs or steps; None if it was not."""

    value: float
    seconds: float | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class Side:
    """One of the compared trials or sweeps.

    Attributes:
        trial: number of the trial; None for a whole sweep.
        state: of the trial, as people see it; of a sweep: running, done, or stopped before its last trial.
        trials: number of trials that have started; 1 for a trial.
        best: best value of a trial's reports; of a sweep that of its best COMPLETE trial.
        best_at: the epoch or step of that report; the number of the best trial of a sweep.
        last: value of the last report of a trial.
        epochs: epochs or steps that were run, over all trials.
        seconds: time that the trial ran; of a sweep the time in which at least one trial ran.
        cost: seconds summed over all trials and their attempts.
        differing: values of what differs, by its name; a name that is missing does not apply.
        curve: a trial's values by epoch; of a sweep its best value so far by the epochs of all its trials.
    """

    label: str
    trial: int | None
    state: str
    trials: int
    best: float | None
    best_at: float | None
    last: float | None
    epochs: float
    seconds: float
    cost: float
    differing: Mapping[str, Any]
    curve: Curve
    reached: tuple[Reached, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Compared trials or sweeps, in the order in which they were named.

    Attributes:
        unit: "epochs" or "steps".
        names: what differs, in the order of the sweep's file.
        equal: number of parameters, or of keys of the sweep, that are the same in all.
    """

    metric: str
    direction: str
    unit: str
    sides: tuple[Side, ...]
    names: tuple[str, ...]
    equal: int
    remarks: tuple[str, ...]


def compare(texts: Sequence[str], storage: str, reach: Sequence[float] = ()) -> tuple[Comparison, list[StudyView]]:
    """Compare trials, or whole sweeps; return the comparison, and the study of each side.

    Args:
        texts: `NAME:TRIAL` each, or `NAME` each; or a name and then the numbers of its trials.
        reach: values for which is found how soon each side reached them. By default the worst of the best values, which
            each side has reached, and a value 1 % short of it.

    Raises:
        InputError: these cannot be compared, or there is no such sweep or trial.
        StorageError: the database cannot be read.
    """
    targets = parse_targets(texts, MAX_SIDES)
    views = {name: read_study(name, storage) for name in dict.fromkeys(name for name, _ in targets)}
    studies = [views[name] for name, _ in targets]
    _check_comparable(studies)
    sweep = studies[0].sweep
    measured = [_measured(views[name], number) for name, number in targets]
    names, values, equal = _differences([facts for *_, facts in measured])
    sides, sign = [], 1 if sweep.objective.direction == "maximize" else -1
    wanted = tuple(reach) or _default_values([side.best for side, _, _ in measured], sign)
    for (side, points, _), differing in zip(measured, values, strict=True):
        reached = tuple(_when_reached(value, points, sign) for value in wanted)
        sides.append(replace(side, differing=differing, reached=reached))
    how = (sweep.objective.metric, sweep.objective.direction, unit(sweep.budget))
    return Comparison(*how, tuple(sides), names, equal, tuple(_remarks(sides, studies))), studies


def _check_comparable(studies: Sequence[StudyView]) -> None:
    first = studies[0].sweep
    for study in studies[1:]:
        other = study.sweep
        if first.goals != other.goals:
            one, two = (f"{s.name} has to {describe_objective(s)}" for s in (first, other))
            raise InputError(f"{one}, and {two}: their values do not compare")
        if unit(first.budget) != unit(other.budget):
            units = f"{first.name} counts in {unit(first.budget)}, and {other.name} in {unit(other.budget)}"
            raise InputError(f"{units}: their curves do not compare")


Point = tuple[float, float, float]
"""A report as a comparison sees it: seconds and epochs since the beginning, and its value."""

Measured = tuple[Side, list[Point], dict[str, Any]]
"""A side without what needs the others, its reports, and its parameters, or the keys of its sweep."""


def _measured(study: StudyView, number: int | None) -> Measured:
    return _measured_sweep(study) if number is None else _measured_trial(study, number)


def _measured_trial(study: StudyView, number: int) -> Measured:
    row = trial_named(study, number)
    metric, epoch_of = study.sweep.objective.metric, study.sweep.budget.epoch_of
    (seen,) = as_seen([row], is_running=study.is_running)
    points = [
        (trial_seconds(row, report.time), epoch_of(report.step), report.metrics[metric])
        for report in study.reports(row.number)
        if math.isfinite(report.metrics.get(metric, math.nan))
    ]
    best = _best_of(points, study.sweep)
    seconds = row.seconds if row.seconds is not None else max((point[0] for point in points), default=row.spent)
    side = Side(
        label=f"{study.name}:{row.number}",
        trial=row.number,
        state=seen.state,
        trials=1,
        best=None if best is None else best[2],
        best_at=None if best is None else best[1],
        last=row.value,
        epochs=epoch_of(row.step),
        seconds=seconds,
        cost=seconds,
        differing={},
        curve=_curve(row.number, seen.state, points),
    )
    return side, points, dict(row.params)


def _measured_sweep(study: StudyView) -> Measured:
    metric, epoch_of = study.sweep.objective.metric, study.sweep.budget.epoch_of
    rows, best, costs = study.rows(), study.best(), costs_of(study)
    reports = sorted(
        (report.time, epoch_of(report.step) - epoch_of(report.step - 1), report.metrics.get(metric, math.nan))
        for found in study.all_reports().values()
        for report in found
    )
    spent, timed = 0.0, []
    for when, epochs, value in reports:
        spent += epochs
        timed.append((when, spent, value))
    *moments, seconds = active_seconds(study, [when for when, _, _ in timed])
    points = [
        (moment, epochs, value)
        for (_, epochs, value), moment in zip(timed, moments, strict=True)
        if math.isfinite(value)
    ]
    state = "running" if study.is_running else "done" if is_done(study) else "stopped"
    side = Side(
        label=study.name,
        trial=None,
        state=state,
        trials=len(rows),
        best=None if best is None else best.value,
        best_at=None if best is None else float(best.number),
        last=None,
        epochs=sum(epoch_of(row.step) for row in rows),
        seconds=seconds,
        cost=costs.seconds,
        differing={},
        curve=_curve(-1, state, list(_improvements(points, study.sweep))),
    )
    keys = {name: value for name, value in study.sweep.model_dump(mode="json").items() if name not in _LABELS}
    chosen = {f"best {name}": value for name, value in (best.params if best else {}).items()}
    return side, points, dict(_flat(keys)) | chosen


def _curve(number: int, state: str, points: Sequence[Point]) -> Curve:
    return Curve(number, state, tuple(point[1] for point in points), tuple(point[2] for point in points))


def _best_of(points: Sequence[Point], sweep: Sweep) -> Point | None:
    choose: Callable[..., Point | None] = max if sweep.objective.direction == "maximize" else min
    return choose(points, key=lambda point: point[2], default=None)


def _improvements(points: Sequence[Point], sweep: Sweep) -> Iterator[Point]:
    """Yield the points of the best value so far: a step at each improvement, and the end."""
    best: Point | None = None
    for point in points:
        if best is None or _best_of((best, point), sweep) is not best:
            if best is not None:
                yield (point[0], point[1], best[2])
            best = point
            yield point
    if best is not None and points[-1][1] > best[1]:
        yield (points[-1][0], points[-1][1], best[2])


def _default_values(bests: Iterable[float | None], sign: int) -> tuple[float, ...]:
    known = [best for best in bests if best is not None]
    if not known:
        return ()
    worst = min(known, key=lambda best: sign * best)
    return (worst - sign * NEAR_BEST * abs(worst), worst) if worst else (worst,)


def _when_reached(value: float, points: Sequence[Point], sign: int) -> Reached:
    found = (point[:2] for point in points if sign * point[2] >= sign * value)
    return Reached(value, *next(found, (None, None)))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif value is not None:
        yield path, value


def _differences(facts: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[dict[str, Any]], int]:
    """Return the names whose values differ, those values for each side, and how many names are the same in all."""
    known = list(dict.fromkeys(name for one in facts for name in one))
    missing = object()
    names = tuple(name for name in known if len({repr(one.get(name, missing)) for one in facts}) > 1)
    return names, [{name: one[name] for name in names if name in one} for one in facts], len(known) - len(names)


def _remarks(sides: Sequence[Side], studies: Sequence[StudyView]) -> Iterator[str]:
    datasets = {study.name: study.facts.get("dataset") or {} for study in studies}
    digests = {str(found.get("digest", found.get("name"))) for found in datasets.values()}
    if len(digests) > 1:
        named = format_list([f"{name}: {found.get('name', 'not recorded')}" for name, found in datasets.items()])
        yield f"they did not learn from the same data ({named})"
    if running := [side.label for side in sides if side.state.lower() == "running"]:
        yield f"still running: {format_list(running)}"
    if silent := [side.label for side in sides if not side.curve.values]:
        yield f"without a report yet: {format_list(silent)}"
    if early := [side.label for side in sides if side.state in ("PRUNED", "FAIL", "INTERRUPTED")]:
        yield f"ended before the last report: {format_list(early)}"
