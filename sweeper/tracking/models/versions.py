"""Versions of one registered model in MLflow, and the alias of its champion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeper.tracking.client import default_store
from sweeper.tracking.content import fit_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

CHAMPION_ALIAS = "champion"

REASON_TAG = "sweeper.reason"
"""Tag of a version that is or was the champion: why it became it."""


class Versions:
    """Versions of the registered model `name`. It is created with its first version."""

    def __init__(self, client: MlflowClient, uri: str, name: str) -> None:
        self.name = name
        self._client = client
        self._uri = uri

    def champion(self) -> ModelVersion | None:
        """Return the version that is the champion now; None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version_by_alias(self.name, CHAMPION_ALIAS)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def of(self, model: LoggedModel) -> ModelVersion | None:
        """Return the version that a logged model was registered as; None if it was not."""
        found = self._client.search_model_versions(f"name = '{self.name}' AND run_id = '{model.source_run_id}'")
        return next((version for version in found if version.source == _source(model)), None)

    def create(self, model: LoggedModel, tags: Mapping[str, str]) -> ModelVersion:
        """Register a logged model as a new version, and tag it with the version: the UI links them by this tag."""
        self._create_registered_model()
        with default_store(self._uri):
            version = self._client.create_model_version(
                self.name, _source(model), model.source_run_id, tags=fit_tags(tags), model_id=model.model_id
            )
        self.link(model, version)
        return version

    def link(self, model: LoggedModel, version: ModelVersion) -> None:
        """Tag a logged model with its version, if it is not tagged yet."""
        known = json.loads(model.tags.get("mlflow.modelVersions", "[]"))
        if not any(entry["name"] == self.name for entry in known):
            entries = [*known, {"name": self.name, "version": int(version.version)}]
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps(entries)})

    def make_champion(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Move the alias to a version, then tag the version: a version without these tags never got the alias."""
        self._client.set_registered_model_alias(self.name, CHAMPION_ALIAS, str(version.version))
        for name, value in fit_tags(tags).items():
            self._client.set_model_version_tag(self.name, str(version.version), name, value)

    def is_loadable(self, version: ModelVersion) -> bool:
        """Return whether the model of a version has its files; one that somebody else registered counts as loadable."""
        kind, _, model_id = str(version.source).partition(":/")
        return kind != "models" or not is_ours(version) or has_files(self._client, model_id)

    def _create_registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(self.name)


def _source(model: LoggedModel) -> str:
    return f"models:/{model.model_id}"


def is_ours(version: ModelVersion) -> bool:
    """Return whether a sweep registered a version."""
    return "sweeper.sweep" in version.tags


def has_files(client: MlflowClient, model_id: str) -> bool:
    """Return whether the files of a logged model are where MLflow looks for them."""
    from mlflow.exceptions import MlflowException

    try:
        return any(file.path == "MLmodel" for file in client.list_logged_model_artifacts(model_id))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
