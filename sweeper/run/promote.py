"""The model of a trial, on its way to be the champion: as the trial left it, or trained again on more data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sweeper.analysis.trials import folder_at_hand
from sweeper.core.code.user_code import has_evaluation, load_trainable, user_code_root
from sweeper.core.environment import commit, versions
from sweeper.core.errors import InputError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Champion, Report, TrialRecord
from sweeper.run.training import changed_code, changed_data, context_in, evaluate, needs_whole_gpu, reports_of
from sweeper.worker.champion import find_model, known_model
from sweeper.worker.task import Task, WorkerContext

if TYPE_CHECKING:
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

Model = tuple[Path | None, dict[str, float]]
"""Folder of an MLflow model, None if there is none, and its metrics on the test set."""


def saved_model(study: StudyView, trial: TrialRecord) -> Model:
    """Return the model that a trial has left in the sweep's folder."""
    context = WorkerContext(study.sweep, SweepFolder.of(study.folder, study.name), study=study.id or "")
    return known_model(context, trial, study.facts)


def promote(study: StudyView, trial: TrialRecord, uri: str, *, name: str) -> Champion | None:
    """Make the model of a trial the champion of the registered model `name`, whatever a comparison says.

    A trial that has left only a checkpoint is tested by the trainable's `evaluate`, which saves the model. If that
    saves none, or there is none, the files of the checkpoint are the model.

    Returns:
        None if neither the sweep's folder nor MLflow has a model or a checkpoint of the trial.

    Raises:
        SweeperError: the test failed, or MLflow cannot be reached or refuses.
    """
    from sweeper import tracking

    packed, metrics = saved_model(study, trial)
    if packed is not None or tracking.has_model(study, trial, uri):
        return tracking.promote(study, trial, packed, uri, name=name, metrics=metrics)
    with _model_of_checkpoint(study, trial) as (packed, metrics):
        if packed is None:
            return None
        return tracking.promote(study, trial, packed, uri, name=name, metrics=metrics)


def promote_retrained(
    study: StudyView,
    trial: TrialRecord,
    uri: str,
    *,
    name: str,
    announce: Callable[[str], None],
    on_report: Callable[[Report], None],
) -> tuple[Champion, dict[str, float]]:
    """Train a trial again on training and validation data, test it, and make that model the champion.

    It is trained by the `retrain` of the trainable, see `check_retrainable`, as its files are now. A model that MLflow
    has of an earlier call is promoted without training another.

    Args:
        announce: called with a line for the user.
        on_report: called with each report of the training.

    Returns:
        The champion, and the metrics on the test set; these are empty if it was trained before.

    Raises:
        InputError: the trainable has saved no model, or the data is not that of the sweep.
        SweeperError: it failed, or MLflow cannot be reached or refuses.
    """
    from sweeper import tracking

    facts = {
        "versions": versions(study.facts.get("versions", ())),
        "commit": commit(user_code_root(study.sweep.trainable)),
    }
    if tracking.has_model(study, trial, uri, retrained=True):
        announce(f"trial {trial.number} was retrained before; MLflow has its model")
        champion = tracking.promote(study, trial, None, uri, name=name, metrics={}, retrained=facts)
        metrics: dict[str, float] = {}
    else:
        with _retrained(study, trial, announce, on_report) as (packed, metrics):
            champion = tracking.promote(study, trial, packed, uri, name=name, metrics=metrics, retrained=facts)
    assert champion is not None
    return champion, metrics


def can_retrain(sweep: Sweep) -> bool:
    """Return whether a trainable can train on training and validation data together.

    Raises:
        InputError: its code is not here.
    """
    return isinstance(sweep.trainable, str) and hasattr(load_trainable(sweep.trainable), "retrain")


def check_retrainable(study: StudyView) -> None:
    """Raise InputError if the trainable of a sweep cannot train on training and validation data together."""
    trainable = study.sweep.trainable
    if can_retrain(study.sweep):
        return
    instead = f"`sweeper promote {study.name}` promotes the model as it is"
    if not isinstance(trainable, str):
        raise InputError(
            f"--retrain: sweeper does not know how a command splits its data, so it cannot retrain one; {instead}"
        )
    raise InputError(
        f"--retrain: {trainable} has no `retrain`, and sweeper does not know how it uses its data. Write a function "
        f"retrain(params, trial) and `train.retrain = retrain`, see docs/trainables.md; or {instead}"
    )


@contextmanager
def _model_of_checkpoint(study: StudyView, trial: TrialRecord) -> Iterator[Model]:
    """Make a model of the last checkpoint of a trial for the block; nothing is written into the sweep's folder."""
    from sweeper import tracking

    place = SweepFolder.of(study.folder, study.name)
    is_ours = place.url is not None or folder_at_hand(study) is not None
    known = WorkerContext(study.sweep, place, study=study.id or "").checkpoints(trial.number, trial.params)
    if not is_ours or (latest := known.latest(trial.step)) is None:
        yield None, {}
        return
    with TemporaryDirectory(prefix="sweeper-") as folder:
        packed: Path | None = None
        metrics: dict[str, float] = {}
        if has_evaluation(study.sweep.trainable):
            context = context_in(folder, study)
            _refuse(study, [*changed_code(study, context), *changed_data(study, context)])
            shutil.copytree(known.folder, context.folder.trial(trial.number))
            metrics = evaluate(context, _task(study, trial))
            packed = find_model(context, trial)
        if packed is None:
            packed = Path(folder, "model")
            packed.mkdir()
            tracking.save_model(latest.path, packed)
        yield packed, metrics


@contextmanager
def _retrained(
    study: StudyView, trial: TrialRecord, announce: Callable[[str], None], on_report: Callable[[Report], None]
) -> Iterator[Model]:
    """Train a trial again on training and validation data, and test it; keep its model for the block."""
    with TemporaryDirectory(prefix="sweeper-") as folder:
        context, task = context_in(folder, study, frozen=False), _task(study, trial, retrain=True)
        _refuse(study, changed_data(study, context))
        for change in changed_code(study, context):  # `retrain` itself may be new
            announce(change)
        announce(f"training trial {trial.number} of {study.name} again, on training and validation data")
        with closing(reports_of(context, task, study.sweep.budget.reports)) as reports:
            for report in reports:
                on_report(report)
        metrics = evaluate(context, task) if has_evaluation(study.sweep.trainable) else {}
        if (packed := find_model(context, trial)) is None:
            raise InputError(
                f"{study.sweep.trainable} has retrained trial {trial.number} and saved no model; its `retrain` or "
                "`evaluate` has to call trial.save_model(model), see docs/trainables.md"
            )
        yield packed, metrics


def _task(study: StudyView, trial: TrialRecord, *, retrain: bool = False) -> Task:
    whole_gpu = needs_whole_gpu(study, trial)
    return Task(trial.number, trial.params, retrain=retrain, whole_gpu=whole_gpu, recorded=trial.step)


def _refuse(study: StudyView, changed: list[str]) -> None:
    """Raise InputError if the data or the code is not that of a sweep."""
    if changed:
        raise InputError(f"{'; '.join(changed)}. Restore what sweep {study.name!r} began with, and run this again")
