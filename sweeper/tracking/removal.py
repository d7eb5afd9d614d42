"""What MLflow holds of a sweep: deleted with the sweep, or found again when the sweep's folder is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sweeper.core.code.user_code import has_evaluation
from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.tracking.client import connect, search_runs
from sweeper.tracking.pages.view import delete_view
from sweeper.tracking.server import short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

    from sweeper.core.trials import TrialRecord
    from sweeper.tracking.content import Study


def delete_runs(study: Study, uri: str) -> tuple[int, list[str]]:
    """Delete the runs of a sweep and of its trials in MLflow; return their number, and the model versions that stay.

    MLflow marks them as deleted and can restore them; `mlflow gc` frees their space. A model version stays loadable.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses; call again to delete the rest.
    """
    try:
        client = connect(uri)
        runs = list(_runs_of(study, client))
        versions = _versions_of(study, client, {run.info.run_id for run in runs})
        for run in sorted(runs, key=lambda run: "sweeper.trial" not in run.data.tags):  # that of the sweep last
            client.delete_run(run.info.run_id)
        for experiment in {run.info.experiment_id for run in runs}:
            delete_view(client, experiment, str(study.id))
    except Exception as error:
        raise TrackingError(
            f"MLflow at {redact(uri)} did not delete the runs of {study.name!r} ({short_reason(error)})"
        ) from error
    return len(runs), versions


def lost_model_notes(
    study: Study, evaluation: Mapping[str, float] | None, checkpoints: Callable[[int], Any], uri: str
) -> tuple[str, ...]:
    """Return what is gone if the best trial could be tested and has no checkpoint, and what can be had again.

    Args:
        evaluation: the metrics of the best trial on the test set, if it has been tested.
        checkpoints: returns the checkpoints of a trial, by its number.
    """
    best = study.best()
    if best is None or evaluation is not None or checkpoints(best.number).has_any():
        return ()
    if not has_evaluation(study.sweep.trainable):
        return ()
    place = study.facts.get("folder")
    again = f"`sweeper best {study.name}` prints its parameters, to train it again in another sweep (--name NEW)."
    if "champion" not in study.facts:
        return (f"Trial {best.number}, the best one, has no checkpoint in {place}, so it cannot be tested. {again}",)
    gone = f"The checkpoints and the model of trial {best.number}, the best one, are no longer in {place}."
    return (f"{gone} {_where_else(study, best, uri)} {again}",)


def _where_else(study: Study, best: TrialRecord, uri: str) -> str:
    """Return in a sentence whether MLflow has the model of a trial."""
    try:
        client, number = connect(uri), str(best.number)
        runs = {run.info.run_id for run in _runs_of(study, client) if run.data.tags.get("sweeper.trial") == number}
        versions = _versions_of(study, client, runs)
    except Exception as error:
        return f"MLflow does not answer ({short_reason(error)}), so it is not known whether it has the model."
    return f"MLflow has the model: {versions[-1]}." if versions else "MLflow has no version of the model."


def _runs_of(study: Study, client: MlflowClient) -> Iterator[MlflowRun]:
    """Yield the runs of a sweep and of its trials, of every experiment: a sweep may have changed its own."""
    for experiment in client.search_experiments():
        yield from search_runs(client, experiment.experiment_id, f"tags.`sweeper.id` = '{study.id}'")


def _versions_of(study: Study, client: MlflowClient, runs: set[str]) -> list[str]:
    """Return the addresses of the model versions that come from these runs, by number."""
    if (name := study.sweep.tracking.model) is None:
        return []
    found = (version for version in client.search_model_versions(f"name = '{name}'") if version.run_id in runs)
    return [f"models:/{name}/{number}" for number in sorted(int(version.version) for version in found)]
