"""The verb that decides by hand which model is the champion."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli import options, report
from sweeper.cli.cluster import reach
from sweeper.core.errors import InputError, SweepBusyError, TrackingError
from sweeper.core.secrets import redact
from sweeper.core.text import clean, duration, format_list, metric

if TYPE_CHECKING:
    from sweeper.core.trials import Champion, Report, TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

PROGRESS_INTERVAL_S = 10.0

_Retrain = Annotated[
    bool,
    typer.Option("--retrain", metavar="", help="Train it again first, on training and validation data together."),
]
_Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The registered model. Default: the sweep's tracking.model."),
]


def promote(
    name: options.Name,
    trial: options.OneTrial = None,
    retrain: _Retrain = False,
    model: _Model = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> None:
    """Make the model of a sweep's best trial, or of another one, the champion."""
    from sweeper import tracking
    from sweeper.analysis.names import parse_target
    from sweeper.cli.look.ui import store_of
    from sweeper.run.promote import check_retrainable
    from sweeper.study.open import lock_study, read_study

    name, numbers = parse_target(name, [] if trial is None else [trial])
    number = next(iter(numbers), None)
    study = read_study(name, storage)
    chosen = _model_name(study.sweep, model)
    complete_trial(study, number)
    if retrain:
        check_retrainable(study)
    uri = store_of(study, tracking_uri)
    if reason := tracking.check_store(uri, study.sweep.tracking.experiment):
        raise TrackingError(f"MLflow at {redact(uri)} does not answer: {reason}")
    try:
        with lock_study(name, storage) as study:
            row = complete_trial(study, number)
            champion, tested = (_retrained if retrain else _saved)(study, row, uri, chosen)
    except SweepBusyError as error:
        raise SweepBusyError(
            f"{error}. A running sweep registers its best model itself; promote another one when it has ended"
        ) from error
    if json:
        report.emit(report.to_json(asdict(champion) | ({"test": tested} if retrain else {})))
        return
    if tested:
        report.emit(clean("on the test set: " + ", ".join(f"{key} {metric(value)}" for key, value in tested.items())))
    before = f"; version {champion.previous} was it before" if champion.previous else ""
    report.emit(clean(f"{chosen} version {champion.version} is the champion ({champion.reason}{before})"))
    report.emit(clean(champion.uri))


def _saved(study: StudyView, row: TrialRecord, uri: str, chosen: str) -> tuple[Champion, dict[str, float]]:
    from sweeper.run.promote import promote as promote_saved

    champion = promote_saved(study, row, uri, name=chosen)
    if champion is None:
        raise InputError(why_gone(study, row))
    return champion, {}


def _retrained(study: StudyView, row: TrialRecord, uri: str, chosen: str) -> tuple[Champion, dict[str, float]]:
    from sweeper.cli import console
    from sweeper.run.promote import promote_retrained

    show = progress_of(study.sweep.budget.reports)
    return promote_retrained(study, row, uri, name=chosen, announce=console.print_note, on_report=show)


def progress_of(reports: int) -> Callable[[Report], None]:
    """Return a function for each report of a training that prints, every ten seconds, how many there are."""
    began = last = time.monotonic()

    def show(made: Report) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_INTERVAL_S:
            from sweeper.cli import console

            last = time.monotonic()
            console.print_note(f"{made.step} of {reports} reports, {duration(int(last - began))}")

    return show


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
        number = next((row.number for row in study.leaderboard() if row.state == "COMPLETE" and row.reused), None)
        if number is None:
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
    if row.reused:
        raise InputError(
            f"trial {number} took its reports from {row.reused} and was not trained here; `sweeper promote "
            f"{row.reused}` promotes the model of that trial"
        )
    if row.is_added:
        raise InputError(f"trial {number} was added to the study and not trained here, so it left no model")
    return row


def why_gone(study: StudyView, row: TrialRecord) -> str:
    """Return why a trial has no model, since when, and what to do."""
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
        if study.facts.get("champion", "- ").startswith("- "):
            return (
                f"trial {row.number} has left no model: its trainable called neither trial.save_model(model) nor "
                "trial.keras(model), returned none and saved no checkpoint, or that failed, or the files were deleted; "
                "see docs/trainables.md"
            )
        return (
            f"the model of trial {row.number}, the best one, is no longer in {study.folder}, nor in MLflow: its files "
            f"were deleted after the sweep had ended. {_again(study, row)}"
        )
    trained = [other for other in study.leaderboard() if other.state == "COMPLETE" and not other.is_added]
    better = trained[: trained.index(row)] or [best]  # the best one by its confirmed mean may rank lower
    winner = min(better, key=lambda other: other.ended.timestamp() if other.ended else math.inf)
    return (
        f"the model of trial {row.number} is gone: only the best trial's is kept, and trial {winner.number} was "
        f"better, so it was deleted{_moment(row, winner)}. {_again(study, row)}"
    )


def _moment(*rows: TrialRecord) -> str:
    """Return when the last of these trials ended, as the end of a sentence: then the study deleted what lost."""
    moments = [row.ended for row in rows if row.ended is not None]
    return f" at {max(moments):%Y-%m-%d %H:%M} UTC" if moments else ""


def _again(study: StudyView, row: TrialRecord) -> str:
    """Say how to get the model of a trial again."""
    from sweeper.run.promote import can_retrain

    trial, is_able = f"{study.name} {row.number}", False
    with suppress(InputError):  # its code is not here
        is_able = can_retrain(study.sweep)
    if is_able:
        return (
            f"`sweeper promote {trial} --retrain` trains it again on training and validation data; "
            f"`sweeper reproduce {trial}` says whether it still comes out the same"
        )
    return f"To train it again, run the sweep that `sweeper export {trial} --to yaml` writes"
