"""The verb that decides by hand which model is the champion."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli import options, report
from sweeper.cli.cluster import reach
from sweeper.core.errors import InputError, SweepBusyError, TrackingError
from sweeper.core.secrets import redact
from sweeper.core.text import clean, format_list

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

_Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The registered model. Default: the sweep's tracking.model."),
]


def promote(
    name: options.Name,
    trial: options.OneTrial = None,
    model: _Model = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> None:
    """Make the model of a sweep's best trial, or of another one, the champion."""
    from sweeper import tracking
    from sweeper.analysis.names import parse_target
    from sweeper.cli.look.ui import store_of
    from sweeper.run import saved_model
    from sweeper.study.open import lock_study, read_study

    name, numbers = parse_target(name, [] if trial is None else [trial])
    number = next(iter(numbers), None)
    study = read_study(name, storage)
    chosen = _model_name(study.sweep, model)
    complete_trial(study, number)
    uri = store_of(study, tracking_uri)
    if reason := tracking.check_store(uri, study.sweep.tracking.experiment):
        raise TrackingError(f"MLflow at {redact(uri)} does not answer: {reason}")
    try:
        with lock_study(name, storage) as study:
            row = complete_trial(study, number)
            packed, metrics = saved_model(study, row)
            champion = tracking.promote(study, row, packed, uri, name=chosen, metrics=metrics)
    except SweepBusyError as error:
        raise SweepBusyError(
            f"{error}. A running sweep registers its best model itself; promote another one when it has ended"
        ) from error
    if champion is None:
        raise InputError(why_gone(study, row))
    if json:
        report.emit(report.to_json(asdict(champion)))
        return
    before = f"; version {champion.previous} was it before" if champion.previous else ""
    report.emit(clean(f"{chosen} version {champion.version} is the champion ({champion.reason}{before})"))
    report.emit(clean(champion.uri))


def _model_name(sweep: Sweep, given: str | None) -> str:
    """Return the registered model to promote to; raise InputError if there is none, or its name is not allowed."""
    if given is not None:
        with options.blame_options({"tracking.model": given}, **{"tracking.model": "--model"}):
            sweep = sweep.changed({"tracking.model": options.quoted(given)})
    if sweep.tracking.model is None:
        raise InputError(
            f"sweep {sweep.name!r} has no tracking.model, the name to register a model under. Give one with --model "
            "NAME, or add `tracking: {model: NAME}` to the sweep's file and run it again"
        )
    return sweep.tracking.model


def complete_trial(study: StudyView, number: int | None) -> TrialRecord:
    """Return a COMPLETE trial that was trained here: the best, or the one with a number."""
    rows = {row.number: row for row in study.rows()}
    if number is None:
        if (best := study.best()) is not None:
            return best
        raise InputError(f"no trial of sweep {study.name!r} has completed yet, so none has left a model")
    if number not in rows:
        nearest = min(rows, key=lambda other: abs(other - number), default=None)
        hint = (
            "it has no trials yet" if nearest is None else f"its trials are 0 to {max(rows)}; the nearest is {nearest}"
        )
        raise InputError(f"sweep {study.name!r} has no trial {number}; {hint}")
    row = rows[number]
    if row.state != "COMPLETE":
        complete = [str(other) for other, found in rows.items() if found.state == "COMPLETE"]
        reason = f", {row.reason}" if row.reason else ""
        raise InputError(
            f"trial {number} is {row.state}{reason}; only a COMPLETE trial leaves a model: "
            f"{format_list(complete, nothing='there is none')}"
        )
    if row.is_added:
        raise InputError(f"trial {number} was added to the study and not trained here, so it left no model")
    return row


def why_gone(study: StudyView, row: TrialRecord) -> str:
    """Return why a trial has no model, and what to do."""
    if (cluster := reach.asked()) is not None:
        return (
            f"MLflow has no model of trial {row.number}, and the folder of the sweep, {study.folder}, cannot be read "
            f"through {cluster}. Promote it in a pod of the cluster, where that folder is"
        )
    best = study.best()
    if best is None or best.number == row.number:
        over = [other for other in study.rows() if other.state != "RUNNING"]
        if len(over) < study.trial_limit:
            return (
                f"trial {row.number}, the best one, has left no model yet: the sweep was stopped, and some trainables "
                f"save it at its end. Resume it: sweeper resume {study.name}"
            )
        return (
            f"trial {row.number} has left no model: its trainable called neither trial.save_model(model) nor "
            "trial.keras(model), or the call failed, or the files were deleted; see docs/trainables.md"
        )
    trained = [other for other in study.leaderboard() if other.state == "COMPLETE" and not other.is_added]
    better = trained[: trained.index(row)] or [best]  # the best one by its confirmed mean may rank lower
    winner = min(better, key=lambda other: other.ended.timestamp() if other.ended else math.inf)
    moments = [moment for moment in (row.ended, winner.ended) if moment is not None]
    when = f" at {max(moments):%Y-%m-%d %H:%M} UTC" if moments else ""
    return (
        f"the model of trial {row.number} is gone: only the best trial's is kept, and trial {winner.number} was "
        f"better, so it was deleted{when}. Run its parameters again in a sweep of its own, with `enqueue`"
    )
