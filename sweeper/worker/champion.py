"""The best trial's model and predictions, on their way from the trial's folder to `champion/`, and back from there."""

from __future__ import annotations

import base64
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.core.errors import StorageError
from sweeper.core.files import read_small, written_whole
from sweeper.core.predictions import Mistake, Predictions
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.text import first_line
from sweeper.core.trials import TrialRecord
from sweeper.tracking import PACKED, read_evaluation, read_test, store_evaluation
from sweeper.worker.task import WorkerContext
from sweeper.worker.trial import PREDICTIONS_FILE

logger = logging.getLogger(__name__)

MAX_PREDICTIONS_BYTES = 5_000_000
"""Largest file of predictions: that of a thousand classes."""

_PNG = b"\x89PNG\r\n\x1a\n"


def take_champion(
    context: WorkerContext, best: TrialRecord, metrics: Mapping[str, float], *, source: TrialRecord | None = None
) -> str | None:
    """Copy the model that the best trial has saved into the folder `champion/`, with its metrics on the test set.

    Args:
        source: the trial whose model it is, if not the best one itself.

    Returns:
        The digest of both, for the study; None if there is neither.

    Raises:
        StorageError: it cannot be copied.
    """
    champion = context.folder.champion
    source = source or best
    saved = find_model(context, source)
    if saved is None and not metrics and not champion.exists():
        return None
    try:
        with written_whole(champion) as beside:  # the whole folder: no file of an earlier champion may stay
            beside.mkdir()
            if saved is not None:
                shutil.copytree(saved, beside / PACKED)
            digest = store_evaluation(beside, best.number, metrics, _saved_predictions(context, source))
        if (remote := context.folder.remote) is not None:
            remote.remove(champion.name)
            remote.put(champion, champion.name)
    except OSError as error:
        raise StorageError(
            f"the best model cannot be copied to {champion} ({error}); the same command retries"
        ) from error
    return digest


def find_model(context: WorkerContext, trial: TrialRecord) -> Path | None:
    """Return the folder of the MLflow model that a trial has saved; None if there is none, or it is damaged."""
    models = context.checkpoints(trial.number, trial.params).models
    saved = models.latest(trial.step)
    if findings := models.findings():
        logger.warning("The model of trial %d cannot be used: %s", trial.number, findings)
    return None if saved is None else saved.path


def _saved_predictions(context: WorkerContext, trial: TrialRecord) -> dict[str, Any] | None:
    """Return what the test of a trial has recorded of its model's predictions; None if it recorded none."""
    store = context.checkpoints(trial.number, trial.params).predictions
    saved = store.latest(trial.step)
    if findings := store.findings():
        logger.warning("The predictions of trial %d cannot be used: %s", trial.number, findings)
    if saved is None:
        return None
    try:
        document = json.loads(read_small(saved.path / PREDICTIONS_FILE, MAX_PREDICTIONS_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("The predictions of trial %d cannot be read: %s", trial.number, first_line(error))
        return None
    return document if _as_predictions(document) else None


def known_test(
    folder: SweepFolder, trial: TrialRecord, facts: Mapping[str, Any]
) -> tuple[dict[str, float] | None, Predictions | None]:
    """Return the metrics of a trial on the test set and its predictions there, from `champion/`; None if unknown."""
    found = read_test(folder.champion, facts.get("champion"))
    if found is None or found[0] != trial.number:
        return None, None
    return found[1], _as_predictions(found[2])


def _as_predictions(document: Any) -> Predictions | None:
    """Return predictions from JSON; None if there are none, or they do not fit together."""
    try:
        classes = tuple(map(str, document["classes"]))
        matrix = tuple(tuple(map(int, row)) for row in document["matrix"])
        mistakes = tuple(
            Mistake(int(each["label"]), int(each["predicted"]), float(each["probability"]), _checked(each["picture"]))
            for each in document["mistakes"]
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    count = len(classes)
    is_square = len(matrix) == count > 0 and all(len(row) == count and min(row) >= 0 for row in matrix)
    places = {place for mistake in mistakes for place in (mistake.label, mistake.predicted)}
    return Predictions(classes, matrix, mistakes) if is_square and places <= set(range(count)) else None


def _checked(picture: str) -> str:
    """Return a picture in base64 if it is one; it becomes a part of a web page."""
    if picture and not base64.b64decode(picture, validate=True).startswith(_PNG):
        raise ValueError("no PNG")
    return picture


def known_model(
    context: WorkerContext, trial: TrialRecord, facts: Mapping[str, Any]
) -> tuple[Path | None, dict[str, float]]:
    """Return the folder of a trial's model, in `champion/` or in its own folder, and its metrics on the test set."""
    known = read_evaluation(context.folder.champion, facts.get("champion"))
    if known is not None and known[0] == trial.number and (context.folder.champion / PACKED).is_dir():
        return context.folder.champion / PACKED, known[1]
    return find_model(context, trial), {}
