"""The model of a trial as MLflow logs it: with the trial's run and the sweep's. No step is repeated."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sweeper.core.errors import TrackingError
from sweeper.tracking import content
from sweeper.tracking.client import connect, log_dataset, open_experiment, search_runs
from sweeper.tracking.content import fit_key
from sweeper.tracking.models.decision import RETRAINED, confirmed_tags
from sweeper.tracking.models.versions import has_files
from sweeper.tracking.packaging import PACKED

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

    from sweeper.core.trials import TrialRecord


def is_retrained(model: LoggedModel) -> bool:
    """Return whether a logged model was trained again after its sweep."""
    return bool(model.tags.get(RETRAINED, "no") != "no")


class ModelLog:
    """Logs the model of one trial and its test metrics.

    Args:
        retrained: for the model that was trained again, which is another one than the trial's own: facts of where it
            was trained that differ from the sweep's.

    Raises:
        TrackingError: the run of the trial or of the sweep has not been delivered yet.
    """

    def __init__(
        self, study: content.Study, trial: TrialRecord, uri: str, *, retrained: Mapping[str, Any] | None = None
    ) -> None:
        self._sweep, self._trial, self._id = study.sweep, trial, str(study.id)
        self._facts = {**study.facts, **(retrained or {})}
        self._is_retrained = retrained is not None
        self._confirmation = study.confirmation()
        self.client = connect(uri)
        self._experiment = open_experiment(self.client, uri, self._sweep.tracking.experiment)
        found = search_runs(self.client, self._experiment, f"tags.`sweeper.id` = '{self._id}'")
        runs = {run.data.tags.get("sweeper.trial"): run for run in found}
        child, parent = runs.get(str(trial.number)), runs.get(None)
        if child is None or parent is None:
            raise TrackingError(f"trial {trial.number} has not been delivered yet")
        self._child, self._parent = child, parent
        own = [row.number for row in study.rows(with_fresh=True) if row.confirms and row.confirms.trial == trial.number]
        ends = [study.reports(number)[-1:] for number in (trial.number, *own)]
        self.reported = [value for end in ends for report in end for value in report.metrics.values()]
        """What the trial, and the fresh runs that confirm it, have reported at their ends."""
        self._numbers = {run.info.run_id: int(number) for number, run in runs.items() if number is not None}

    def log(self, packed: Path | None, evaluation: Mapping[str, float]) -> LoggedModel | None:
        """Log the packed model, or find the one that was logged before, and the metrics on the test set.

        Returns:
            None if there is no model; then only the metrics are logged.
        """
        log_dataset(self.client, self._child.info.run_id, self._facts)
        model = self._log_model(packed if packed is not None and packed.is_dir() else None)
        if model is not None:
            for run in (self._child, self._parent):
                self._link(run, model)
        self._log_metrics(evaluation, model)
        return model

    def trial_of(self, version: ModelVersion) -> int | None:
        """Return the trial of this sweep that a version comes from; None if it comes from another sweep."""
        return self._numbers.get(str(version.run_id))

    def tags(self) -> dict[str, str]:
        """Return the tags of the model: its value in validation, which decides, what makes it comparable, its lineage.

        The value of one that was retrained is that of its trial, as it has seen the validation data.
        """
        sweep, data = self._sweep, content.dataset_facts(self._facts)
        sizes = [str(data.get(part, "?")) for part in ("train", "validation", "test")]
        return {
            "sweeper.sweep": sweep.name,
            "sweeper.trial": str(self._trial.number),
            "sweeper.dataset.name": str(data.get("name", "?")),
            "sweeper.dataset.digest": str(data.get("digest", "?")),
            "sweeper.split": "/".join(sizes),
            "sweeper.metric": sweep.objective.metric,
            "sweeper.direction": sweep.objective.direction,
            "sweeper.value": repr(self._trial.value),
            RETRAINED: "train+validation" if self._is_retrained else "no",
            **content.lineage(sweep, self._facts),
            **confirmed_tags(self._confirmation, self._trial.number),
        }

    def _log_model(self, packed: Path | None) -> LoggedModel | None:
        """Log the packed model for the trial's run, like mlflow.models.Model.log; None: find the one logged before."""
        from mlflow.models import Model

        same = f"tags.`sweeper.id` = '{self._id}' AND tags.`sweeper.trial` = '{self._trial.number}'"
        found = self.client.search_logged_models([self._experiment], same)
        # A model whose files are gone, as after moving only the database, is of no use and is logged again.
        own = [model for model in found if is_retrained(model) == self._is_retrained]
        usable = (model for model in own if str(model.status) != "READY" or has_files(self.client, model.model_id))
        model = next(usable, None)
        if packed is None:
            return model if model is not None and str(model.status) == "READY" else None
        model = model or self._create_model()
        if str(model.status) != "READY":
            meta = Model.load(str(packed))
            meta.model_id = meta.model_uuid = model.model_id
            meta.run_id, meta.artifact_path = self._child.info.run_id, model.artifact_location
            # In a copy, because the digest of the evaluated model must not change.
            with TemporaryDirectory(prefix="sweeper-") as folder:
                copy = shutil.copytree(packed, Path(folder, PACKED), symlinks=True)
                meta.save(str(copy / "MLmodel"))
                self.client.log_model_artifacts(model.model_id, str(copy))
            model = self.client.finalize_logged_model(model.model_id, "READY")
        return model

    def _create_model(self) -> LoggedModel:
        return self.client.create_logged_model(
            self._experiment,
            name=self._sweep.tracking.model or self._sweep.name,
            source_run_id=self._child.info.run_id,
            tags={"sweeper.id": self._id, **self.tags()},
            params=dict(self._child.data.params),
        )

    def _link(self, run: MlflowRun, model: LoggedModel) -> None:
        from mlflow.entities import LoggedModelOutput

        known = run.outputs.model_outputs if run.outputs else []
        if model.model_id not in [output.model_id for output in known]:
            self.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, self._trial.step)])

    def _log_metrics(self, evaluation: Mapping[str, float], model: LoggedModel | None) -> None:
        """Log the test metrics on the trial's run, and through it on the model.

        Those of a retrained model have names of their own: the trial's run has those of the trial's model.
        """
        from mlflow.entities import Metric

        prefix = "retrained_" if self._is_retrained else ""
        model_id = None if model is None else model.model_id
        known = self._child.data.metrics if model is None else {metric.key for metric in model.metrics or ()}
        data = content.dataset_facts(self._facts)
        name, digest = data.get("name"), str(data.get("digest", ""))[:36] or None
        when = content.milliseconds(self._trial.ended) or 0
        metrics = [
            Metric(key, value, when, self._trial.step, model_id=model_id, dataset_name=name, dataset_digest=digest)
            for key, value in ((fit_key(f"{prefix}{key}"), value) for key, value in evaluation.items())
            if key not in known
        ]
        if metrics:
            self.client.log_batch(self._child.info.run_id, metrics=metrics)
