"""Registration of a sweep's best model: logged, registered, and made the champion if it beats the current one.

Keras is not needed here: the model was packed by a worker.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.tracking import content
from sweeper.tracking.client import connect, default_store, log_dataset, open_experiment, search_runs
from sweeper.tracking.content import fit_key, fit_tags
from sweeper.tracking.packaging import PACKED
from sweeper.tracking.server import short_reason

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

    from sweeper.core.trials import TrialRecord

CHAMPION_ALIAS = "champion"
COMPARABILITY_TAGS = (
    "sweeper.dataset.name",
    "sweeper.dataset.digest",
    "sweeper.split",
    "sweeper.metric",
    "sweeper.direction",
)
"""Tags that two versions must share for their values to be comparable."""


@dataclass(frozen=True)
class Champion:
    """The best model of a sweep in MLflow: its version, and whether it is the champion now.

    `version` is None if the sweep has no `tracking.model`; `previous` is the version that was the champion before, if
    it was another one.
    """

    name: str | None
    version: int | None
    promoted: bool
    previous: int | None
    reason: str
    uri: str
    run_id: str
    model_id: str


def register_champion(
    study: content.Study, best: TrialRecord, evaluation: Mapping[str, float], folder: Path, uri: str
) -> Champion | None:
    """Log the packed model with its test metrics, register it, and make it the champion if it beats the current one.

    Steps that were done before are not repeated. Without a packed model in `folder`, only the metrics are logged; then
    return None.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses; the model stays in `folder`.
    """
    try:
        return _Registration(study, best, uri).run(evaluation, folder / PACKED)
    except Exception as error:
        raise TrackingError(
            f"MLflow at {redact(uri)} did not register the model ({short_reason(error)}); the best model is kept in "
            f"{folder}, and running the same sweep again registers it"
        ) from error


class _Registration:
    """Steps from a packed model to a version in the registry; each first checks whether it was done before."""

    def __init__(self, study: content.Study, best: TrialRecord, uri: str) -> None:
        self._sweep, self._facts, self._best, self._id = study.sweep, study.facts, best, str(study.id)
        self._uri, self._client = uri, connect(uri)
        self._experiment = open_experiment(self._client, uri, self._sweep.tracking.experiment)

    def run(self, evaluation: Mapping[str, float], packed: Path) -> Champion | None:
        runs = {run.data.tags.get("sweeper.trial"): run for run in self._runs()}
        child, parent = runs.get(str(self._best.number)), runs.get(None)
        if child is None or parent is None:
            raise TrackingError(f"trial {self._best.number} has not been delivered yet")
        log_dataset(self._client, child.info.run_id, self._facts)
        if not packed.is_dir():
            self._log_metrics(child, evaluation, None)
            return None
        model = self._log_model(child, packed)
        for run in (child, parent):
            self._link(run, model)
        self._log_metrics(child, evaluation, model)
        return self._register(child, model, evaluation)

    def _runs(self) -> list[MlflowRun]:
        return list(search_runs(self._client, self._experiment, f"tags.`sweeper.id` = '{self._id}'"))

    def _log_model(self, child: MlflowRun, packed: Path) -> LoggedModel:
        """Log the packed model for the trial's run, like mlflow.models.Model.log; return the logged model."""
        from mlflow.models import Model

        same = f"tags.`sweeper.id` = '{self._id}' AND tags.`sweeper.trial` = '{self._best.number}'"
        found = self._client.search_logged_models([self._experiment], same)
        # A model whose files are gone, as after moving only the database, is of no use and is logged again.
        usable = (model for model in found if str(model.status) != "READY" or self._has_files(model.model_id))
        model = next(usable, None) or self._create_model(child)
        if str(model.status) != "READY":
            meta = Model.load(str(packed))
            meta.model_id = meta.model_uuid = model.model_id
            meta.run_id, meta.artifact_path = child.info.run_id, model.artifact_location
            # In a copy, because the digest of the evaluated model must not change.
            with TemporaryDirectory(prefix="sweeper-") as folder:
                copy = shutil.copytree(packed, Path(folder, PACKED), symlinks=True)
                meta.save(str(copy / "MLmodel"))
                self._client.log_model_artifacts(model.model_id, str(copy))
            model = self._client.finalize_logged_model(model.model_id, "READY")
        return model

    def _has_files(self, model_id: str) -> bool:
        """Return whether the files of a logged model are where MLflow looks for them."""
        from mlflow.exceptions import MlflowException

        try:
            return any(file.path == "MLmodel" for file in self._client.list_logged_model_artifacts(model_id))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def _create_model(self, child: MlflowRun) -> LoggedModel:
        return self._client.create_logged_model(
            self._experiment,
            name=self._sweep.tracking.model or self._sweep.name,
            source_run_id=child.info.run_id,
            tags={"sweeper.id": self._id, "sweeper.trial": str(self._best.number), **self._tags()},
            params=dict(child.data.params),
        )

    def _link(self, run: MlflowRun, model: LoggedModel) -> None:
        from mlflow.entities import LoggedModelOutput

        known = run.outputs.model_outputs if run.outputs else []
        if model.model_id not in [output.model_id for output in known]:
            self._client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, self._best.step)])

    def _log_metrics(self, child: MlflowRun, evaluation: Mapping[str, float], model: LoggedModel | None) -> None:
        """Log the test metrics on the trial's run, and through it on the model."""
        from mlflow.entities import Metric

        model_id = None if model is None else model.model_id
        known = child.data.metrics if model is None else {metric.key for metric in model.metrics or ()}
        data = content.dataset_facts(self._facts)
        name, digest = data.get("name"), str(data.get("digest", ""))[:36] or None
        when = content.milliseconds(self._best.ended) or 0
        metrics = [
            Metric(
                fit_key(key), value, when, self._best.step, model_id=model_id, dataset_name=name, dataset_digest=digest
            )
            for key, value in evaluation.items()
            if fit_key(key) not in known
        ]
        if metrics:
            self._client.log_batch(child.info.run_id, metrics=metrics)

    def _register(self, child: MlflowRun, model: LoggedModel, evaluation: Mapping[str, float]) -> Champion:
        name, run_id, uri = self._sweep.tracking.model, child.info.run_id, f"models:/{model.model_id}"
        if name is None:
            reason = "not registered: the sweep has no tracking.model"
            return Champion(None, None, False, None, reason, uri, run_id, model.model_id)
        self._create_registered_model(name)
        tags = fit_tags({**self._tags(), **{key: repr(value) for key, value in evaluation.items()}})
        version = self._version(name, uri, run_id, model.model_id, tags)
        number = int(version.version)
        self._tag_model_with_version(model, name, number)
        current = self._current_champion(name)
        previous = None if current is None or int(current.version) == number else int(current.version)
        if current is not None and not self._is_loadable(current):
            promoted, reason = True, f"the files of version {current.version}, the champion before, are gone"
        else:
            promoted, reason = _compare_with_champion(number, tags, current)
        if promoted and (current is None or previous is not None):
            self._client.set_registered_model_alias(name, CHAMPION_ALIAS, str(number))
        address = f"models:/{name}@{CHAMPION_ALIAS}" if promoted else f"models:/{name}/{number}"
        return Champion(name, number, promoted, previous, reason, address, run_id, model.model_id)

    def _version(self, name: str, source: str, run_id: str, model_id: str, tags: dict[str, str]) -> ModelVersion:
        for version in self._client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'"):
            if version.source == source:
                return version
        with default_store(self._uri):
            return self._client.create_model_version(name, source, run_id, tags=tags, model_id=model_id)

    def _tag_model_with_version(self, model: LoggedModel, name: str, number: int) -> None:
        """Tag the model with its version; the UI links runs to the registry by this tag."""
        known = json.loads(model.tags.get("mlflow.modelVersions", "[]"))
        if not any(entry["name"] == name for entry in known):
            versions = json.dumps([*known, {"name": name, "version": number}])
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": versions})

    def _tags(self) -> dict[str, str]:
        """Return the tags of a version: its value in validation, which decides, and what makes it comparable."""
        sweep, data = self._sweep, content.dataset_facts(self._facts)
        sizes = [str(data.get(part, "?")) for part in ("train", "validation", "test")]
        return {
            "sweeper.sweep": sweep.name,
            "sweeper.trial": str(self._best.number),
            "sweeper.dataset.name": str(data.get("name", "?")),
            "sweeper.dataset.digest": str(data.get("digest", "?")),
            "sweeper.split": "/".join(sizes),
            "sweeper.metric": sweep.objective.metric,
            "sweeper.direction": sweep.objective.direction,
            "sweeper.value": repr(self._best.value),
        }

    def _create_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(name)

    def _is_loadable(self, version: ModelVersion) -> bool:
        """Return whether the model of a version has its files; one that somebody else registered counts as loadable."""
        kind, _, model_id = str(version.source).partition(":/")
        return kind != "models" or "sweeper.sweep" not in version.tags or self._has_files(model_id)

    def _current_champion(self, name: str) -> ModelVersion | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version_by_alias(name, CHAMPION_ALIAS)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None


def _compare_with_champion(number: int, tags: Mapping[str, str], current: ModelVersion | None) -> tuple[bool, str]:
    """Return whether a version becomes the champion, and the reason in one line.

    A champion that is not comparable keeps its place: there is no evidence that the new version is better.
    """
    if current is None:
        return True, "the first champion"
    if int(current.version) == number:
        return True, "as before"
    holder = f"version {current.version}"
    differing = [key.removeprefix("sweeper.") for key in COMPARABILITY_TAGS if current.tags.get(key) != tags[key]]
    try:
        new, old = float(tags["sweeper.value"]), float(current.tags["sweeper.value"])
    except (KeyError, ValueError):
        differing.append("value")
        new = old = 0.0
    if differing:
        return False, f"{holder} stays champion: not comparable, it has another {', '.join(differing)}"
    better = new > old if tags["sweeper.direction"] == "maximize" else new < old
    scores = f"{tags['sweeper.metric']} {new:.6g} against {old:.6g}"
    return better, f"beats {holder}: {scores}" if better else f"{holder} stays champion: {scores}"
