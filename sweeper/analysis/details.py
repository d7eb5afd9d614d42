"""All about one trial as plain values: parameters beside those of the best, attempts, failure, checkpoints, peers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sweeper.analysis.curves import Curve, curves_of
from sweeper.analysis.trials import as_seen, folder_at_hand
from sweeper.core.code.user_code import digest_user_code, find_trainable
from sweeper.core.errors import InputError
from sweeper.core.files import bytes_below
from sweeper.core.schema import scalar_key
from sweeper.core.sweep_folder import output_name
from sweeper.search.domains import Float, Int
from sweeper.spec.hyperparameters import default_values

if TYPE_CHECKING:
    from pathlib import Path

    from sweeper.core.sweep_folder import SweepFolder
    from sweeper.core.trials import Attempt, Report, TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

MAX_PEERS = 8
"""Other trials whose curves are shown beside that of a trial: the first of the leaderboard."""

MAX_MARKED, MIN_MARKED_DISTANCE = 3, 0.25
"""Parameters that are marked as most different from the best trial's, and the smallest part of a range that counts."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a trial.

    Attributes:
        source: whether the sweep searches over it, fixes it, or leaves it at the trainable's default.
        is_used: whether the trial has it; `value` is None without.
        best, is_in_best: its value in the best trial, and whether that has one.
        distance: how far apart the two are, as a part of the range that is searched: 0 to 1.
        is_marked: whether it is among those that differ most.
    """

    name: str
    value: Any
    source: Literal["searched", "fixed", "default"]
    is_used: bool = True
    best: Any = None
    is_in_best: bool = False
    distance: float = 0.0
    is_marked: bool = False


@dataclass(frozen=True)
class AttemptDetail:
    """One attempt of a trial, the current or last one included.

    Attributes:
        state: FAIL, or the trial's state for its last attempt.
        reason, kind: why it failed.
        seconds: how long it ran; None if that was not recorded.
        output: the file with what it printed; None if it is not on this machine.
    """

    attempt: int
    state: str
    kind: str | None
    reason: str | None
    epoch: float
    node: str | None
    seconds: float | None
    output: Path | None


@dataclass(frozen=True)
class FailureDetail:
    """The last failure of a trial: its kind, class, message, place in the user's code, and file with its traceback."""

    kind: str | None
    error: str | None
    message: str
    place: str | None
    traceback: Path | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a trial on this machine: its folder, its place in the trial, and its size."""

    path: Path
    epoch: float
    bytes: int


@dataclass(frozen=True)
class Details:
    """All about one trial.

    Attributes:
        curve, peers: its curve, and those of the trials that it is compared with.
        best: the number of the best trial, None without one.
        files: all files that the trial has left for people.
        missing: sentences about what is not known here.
    """

    row: TrialRecord
    best: int | None
    curve: Curve
    peers: tuple[Curve, ...]
    parameters: tuple[Parameter, ...]
    attempts: tuple[AttemptDetail, ...]
    failure: FailureDetail | None
    checkpoints: tuple[Checkpoint, ...]
    files: tuple[Path, ...]
    missing: tuple[str, ...]


def details_of(study: StudyView, row: TrialRecord) -> Details:
    """Collect all about one trial from the study, and from the sweep's folder where that is on this machine."""
    (row,) = as_seen([row], is_running=study.is_running)
    folder, best = folder_at_hand(study), study.best()
    failed = study.attempts().get(row.number, ())
    defaults, unknown = defaults_of(study)
    missing = [unknown] * bool(unknown)
    if folder is None:
        missing.append(f"The folder of the sweep is not on this machine: {study.folder}")
    peers = [other for other in study.leaderboard() if other.step and other.number != row.number][:MAX_PEERS]
    curve, *others = curves_of(study, [row, *peers])
    place = folder.trial(row.number) if folder else None
    checkpoints = _checkpoints(study.sweep, place) if place else []
    files = sorted(path for path in place.glob("*") if path.is_file() and path.name[0] != ".") if place else []
    return Details(
        row=row,
        best=best.number if best else None,
        curve=curve,
        peers=tuple(others),
        parameters=parameters_of(study.sweep, row, best, defaults),
        attempts=tuple(_attempts(study, row, failed, folder)),
        failure=_failure(row, failed, place),
        checkpoints=tuple(checkpoints),
        files=tuple(files),
        missing=tuple(missing),
    )


def defaults_of(study: StudyView) -> tuple[dict[str, Any], str]:
    """Return the hyperparameters that the trainable declares with a default, and why they are not known, if so."""
    trainable = study.sweep.trainable
    if not isinstance(trainable, str):
        return {}, ""  # a command declares nothing
    try:
        if study.facts.get("files") != digest_user_code(trainable):  # it is imported, so it must be no other one
            unlike = f"Defaults are not shown, as the code of {trainable} here may not be the one that the trials ran."
            return {}, unlike
        model = find_trainable(trainable).params_model
    except InputError as error:
        return {}, f"The defaults of {trainable} are not known here: {error}"
    return {} if model is None else default_values(model), ""


def parameters_of(
    sweep: Sweep, row: TrialRecord, best: TrialRecord | None, defaults: Mapping[str, Any]
) -> tuple[Parameter, ...]:
    """Return the parameters of a trial beside those of the best: searched ones first, then fixed ones, then defaults.

    A default of a parameter that the sweep has, but not this trial, is the value that the trainable used.
    """
    known = {} if best is None or best.number == row.number else best.params
    names = [name for name in sweep.space if name in row.params or name in known]
    distances = {name: _distance(sweep, name, row.params, known) for name in names if known}
    furthest = sorted(distances, key=lambda name: -distances[name])[:MAX_MARKED]
    found = [
        Parameter(
            name,
            row.params.get(name),
            "fixed" if sweep.space[name].count() == 1 else "searched",
            name in row.params,
            known.get(name),
            name in known,
            distances.get(name, 0.0),
            name in furthest and distances[name] >= MIN_MARKED_DISTANCE,
        )
        for name in names
    ]
    found.sort(key=lambda parameter: parameter.source == "fixed")
    found += [Parameter(name, value, "default") for name, value in defaults.items() if name not in names]
    return tuple(found)


def _distance(sweep: Sweep, name: str, params: Mapping[str, Any], others: Mapping[str, Any]) -> float:
    """Return how far apart two values of a parameter are in its range; 1 for different choices."""
    if (name in params) != (name in others):
        return 1.0
    value, other, domain = params[name], others[name], sweep.space[name]
    if not isinstance(domain, Float | Int) or domain.low == domain.high:
        return float(scalar_key(value) != scalar_key(other))
    scale = math.log if domain.log else float
    try:
        return min(1.0, abs(scale(value) - scale(other)) / (scale(domain.high) - scale(domain.low)))
    except (TypeError, ValueError):  # others added the trial, with a value outside the space
        return 1.0


def _attempts(
    study: StudyView, row: TrialRecord, failed: Sequence[Attempt], folder: SweepFolder | None
) -> list[AttemptDetail]:
    """Return the attempts of a trial in their order."""
    if row.is_added:
        return []
    epoch_of, outputs = study.sweep.budget.epoch_of, folder.outputs(row.number) if folder else []
    files = {path.name: path for path in outputs}
    seconds = _seconds_of_attempts(row, failed, study.reports(row.number) if failed else [])
    found = [
        AttemptDetail(
            past.attempt,
            "FAIL",
            past.kind,
            past.reason,
            epoch_of(past.step),
            past.node,
            seconds.get(past.attempt),
            files.get(output_name(past.attempt)),
        )
        for past in failed
    ]
    if not failed or failed[-1].attempt < row.attempt:
        output = files.get(output_name(row.attempt))
        last = seconds.get(row.attempt)
        reason = row.reason if row.state == "FAIL" else None
        found.append(AttemptDetail(row.attempt, row.state, None, reason, epoch_of(row.step), row.node, last, output))
    return found


def _seconds_of_attempts(row: TrialRecord, failed: Sequence[Attempt], reports: Sequence[Report]) -> dict[int, float]:
    """Return the seconds of the attempts, as far as they follow from what is recorded: their sum, and two starts."""
    found: dict[int, float] = {}
    begun = row.resumed or row.started
    if begun is not None and row.ended is not None:
        found[row.attempt] = max(0.0, (row.ended - begun).total_seconds())
    first = next((past for past in failed if past.attempt == 1), None)
    if first is not None and row.started is not None and row.attempt > 1:
        if row.attempt == 2:
            found[1] = row.spent
        else:
            times = [report.time for report in reports if report.step <= first.step]
            until = times[-1] if first.kind == "driver" and times else first.ended.timestamp()
            found[1] = max(0.0, until - row.started.timestamp())
            if row.attempt == 3:
                found[2] = max(0.0, row.spent - found[1])
    return found


_REASON = re.compile(r"(?:(?P<error>[A-Za-z_][\w.]*): )?(?P<message>.*?)(?: \((?P<place>[^()]+:\d+)\))?", re.DOTALL)


def _failure(row: TrialRecord, failed: Sequence[Attempt], place: Path | None) -> FailureDetail | None:
    """Return the last failure of a trial; None if no attempt has failed."""
    if row.state != "FAIL" and not failed:
        return None
    reason = failed[-1].reason if failed else row.reason or "unknown reason"
    parts = _REASON.fullmatch(reason)
    assert parts is not None
    file = place / "error.txt" if place else None
    kind, traceback = failed[-1].kind if failed else None, file if file and file.is_file() else None
    return FailureDetail(kind, parts["error"], parts["message"], parts["place"], traceback)


_CHECKPOINT = re.compile(r"attempt-\d+-step-(\d+)")


def _checkpoints(sweep: Sweep, folder: Path) -> list[Checkpoint]:
    """Return the checkpoints of a trial on this machine, the newest first; they are not verified."""
    found = [(match, path) for path in folder.glob("attempt-*-step-*") if (match := _CHECKPOINT.fullmatch(path.name))]
    found.sort(key=lambda pair: (int(pair[0][1]), pair[1].name), reverse=True)
    return [Checkpoint(path, sweep.budget.epoch_of(int(match[1])), bytes_below(path)) for match, path in found]
