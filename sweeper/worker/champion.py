"""The best trial's model on its way from the trial's folder to `champion/`, from where the driver registers it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.core.errors import StorageError
from sweeper.core.files import written_whole
from sweeper.core.trials import TrialRecord
from sweeper.tracking import PACKED, read_evaluation, store_evaluation
from sweeper.worker.task import WorkerContext

logger = logging.getLogger(__name__)


def take_champion(context: WorkerContext, best: TrialRecord, metrics: Mapping[str, float]) -> str | None:
    """Copy the model that the best trial has saved into the folder `champion/`, with its metrics on the test set.

    Returns:
        The digest of both, for the study; None if there is neither.

    Raises:
        StorageError: it cannot be copied.
    """
    champion = context.folder.champion
    saved = find_model(context, best)
    if saved is None and not metrics and not champion.exists():
        return None
    try:
        with written_whole(champion) as beside:  # the whole folder: no file of an earlier champion may stay
            beside.mkdir()
            if saved is not None:
                shutil.copytree(saved, beside / PACKED)
            digest = store_evaluation(beside, best.number, metrics)
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


def known_model(
    context: WorkerContext, trial: TrialRecord, facts: Mapping[str, Any]
) -> tuple[Path | None, dict[str, float]]:
    """Return the folder of a trial's model, in `champion/` or in its own folder, and its metrics on the test set."""
    known = read_evaluation(context.folder.champion, facts.get("champion"))
    if known is not None and known[0] == trial.number and (context.folder.champion / PACKED).is_dir():
        return context.folder.champion / PACKED, known[1]
    return find_model(context, trial), {}
