"""The model of a sweep in MLflow, found and downloaded: the champion if it is this sweep's, else its best trial's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.core.urls import sqlite_path
from sweeper.tracking import content
from sweeper.tracking.client import connect
from sweeper.tracking.models.versions import Versions, has_files
from sweeper.tracking.server import short_reason


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
    if (file := sqlite_path(uri)) is not None and not file.exists():  # to connect would create it
        return None
    try:
        return _find(study, uri)
    except Exception as error:
        raise TrackingError(f"MLflow at {redact(uri)} does not tell of the models ({short_reason(error)})") from error


def _find(study: content.Study, uri: str) -> KeptModel | None:
    client, sweep = connect(uri), study.sweep
    best = study.best()
    experiment = client.get_experiment_by_name(sweep.tracking.experiment)
    if best is None or experiment is None:
        return None
    logged = client.search_logged_models([experiment.experiment_id], f"tags.`sweeper.id` = '{study.id}'")
    versions = Versions(client, uri, sweep.tracking.model) if sweep.tracking.model else None
    champion = versions.champion() if versions else None
    ready = [model for model in logged if str(model.status) == "READY" and has_files(client, model.model_id)]
    chosen = [model for model in ready if champion is not None and champion.source == f"models:/{model.model_id}"]
    chosen += [model for model in ready if model.tags.get("sweeper.trial") == str(best.number)]
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
