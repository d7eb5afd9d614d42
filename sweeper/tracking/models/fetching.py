"""The model of a sweep in MLflow, found and downloaded: the champion if it is this sweep's, else its best trial's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.core.urls import sqlite_path
from sweeper.tracking import content
from sweeper.tracking.client import connect
from sweeper.tracking.models.logged import is_retrained
from sweeper.tracking.models.versions import Versions, has_files
from sweeper.tracking.server import short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

    from sweeper.core.trials import TrialRecord


@dataclass(frozen=True)
class KeptModel:
    """A model of a sweep that MLflow keeps.

    Attributes:
        name: the registered model; None if the sweep registers none.
        version: its version there; None if it was not registered.
        champion: the version that is the champion, of this sweep or of another; None if there is none.
        location: where MLflow keeps its files.
    """

    trial: int
    id: str
    name: str | None
    version: int | None
    champion: int | None
    location: str

    @property
    def title(self) -> str:
        """Return which model this is, in words."""
        if self.version is None:
            return f"the model of trial {self.trial}, the best" + (f", not registered as {self.name}" * bool(self.name))
        if self.version == self.champion:
            return f"{self.name} version {self.version}, the champion: trial {self.trial}"
        other = f"the champion is version {self.champion}" if self.champion else "there is no champion"
        return f"{self.name} version {self.version}, trial {self.trial}, the best; {other}"


def find_kept_model(study: content.Study, uri: str) -> KeptModel | None:
    """Return the champion if it is a model of this study, else the model of its best trial; None without one in MLflow.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    with _reading(uri) as exists:
        return _find(study, uri) if exists else None


def has_model(study: content.Study, trial: TrialRecord, uri: str, *, retrained: bool = False) -> bool:
    """Return whether MLflow keeps the model of a trial, or the one that was retrained; nothing is written.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    with _reading(uri) as exists:
        return exists and bool(_models_of(_ready_models(study, connect(uri)), trial, retrained))


@contextmanager
def _reading(uri: str) -> Iterator[bool]:
    """Turn the errors of MLflow in the block into one; yield whether there is a store, as to connect creates a file."""
    file = sqlite_path(uri)
    try:
        yield file is None or file.exists()
    except Exception as error:
        raise TrackingError(f"MLflow at {redact(uri)} does not tell of the models ({short_reason(error)})") from error


def _ready_models(study: content.Study, client: MlflowClient) -> list[LoggedModel]:
    """Return the models of a study whose files are there."""
    experiment = client.get_experiment_by_name(study.sweep.tracking.experiment)
    if experiment is None:
        return []
    logged = client.search_logged_models([experiment.experiment_id], f"tags.`sweeper.id` = '{study.id}'")
    return [model for model in logged if str(model.status) == "READY" and has_files(client, model.model_id)]


def _models_of(models: list[LoggedModel], trial: TrialRecord, retrained: bool) -> list[LoggedModel]:
    number = str(trial.number)
    return [each for each in models if each.tags.get("sweeper.trial") == number and is_retrained(each) == retrained]


def _find(study: content.Study, uri: str) -> KeptModel | None:
    client, sweep = connect(uri), study.sweep
    if (best := study.best()) is None:
        return None
    versions = Versions(client, uri, sweep.tracking.model) if sweep.tracking.model else None
    champion = versions.champion() if versions else None
    ready = _ready_models(study, client)
    chosen = [model for model in ready if champion is not None and champion.source == f"models:/{model.model_id}"]
    chosen += _models_of(ready, best, retrained=False)
    if not chosen:
        return None
    model = chosen[0]
    own = versions.of(model) if versions else None
    return KeptModel(
        trial=int(model.tags["sweeper.trial"]),
        id=model.model_id,
        name=sweep.tracking.model,
        version=int(own.version) if own else None,
        champion=int(champion.version) if champion else None,
        location=str(model.artifact_location),
    )


def download_model(model: KeptModel, uri: str, folder: Path) -> None:
    """Download the files of a model, as MLflow keeps them, to a folder that does not exist yet.

    Raises:
        TrackingError: MLflow cannot be reached, or its files cannot be read or written here.
    """
    from mlflow.artifacts import download_artifacts

    try:
        with TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as beside:
            Path(download_artifacts(artifact_uri=model.location, dst_path=beside, tracking_uri=uri)).rename(folder)
    except Exception as error:
        raise TrackingError(
            f"the model of trial {model.trial} cannot be fetched from MLflow at {redact(uri)} ({short_reason(error)})"
        ) from error
