"""Sync of a study into MLflow: one run for the sweep and one for each trial; only what is missing is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sweeper.core.errors import StorageError, TrackingError
from sweeper.core.files import PinnedPath
from sweeper.core.trials import Report
from sweeper.core.urls import sqlite_path
from sweeper.tracking import content
from sweeper.tracking.client import (
    KnownRun,
    connect,
    giving_way,
    has_file,
    known_run,
    log_dataset,
    log_text_best_effort,
    open_experiment,
    search_runs,
)
from sweeper.tracking.content import MAX_BATCH, altered_names, batches, fit_key, fit_params, fit_tags
from sweeper.tracking.pages.links import REPORT
from sweeper.tracking.pages.note import Places, sweep_note
from sweeper.tracking.pages.view import has_view, save_view
from sweeper.tracking.server import short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

    from sweeper.core.trials import TrialRecord

logger = logging.getLogger(__name__)

PARENT = -1
"""Key of the sweep's own run among the runs by trial number."""

_NONE: Mapping[str, str] = MappingProxyType({})

_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
"""Error codes for a request that MLflow will never accept; a retry may solve any other error."""


class StudySync:
    """Writer of one study into MLflow.

    It caches what MLflow holds, and writes the difference. After any error it drops the cache and reads again: a
    request whose answer was lost may have been carried out.

    Args:
        outcome: further tags of the sweep's run, read at each write: what became of the best model.
    """

    def __init__(self, study: content.Study, uri: str, outcome: Mapping[str, str] = _NONE) -> None:
        self.written = 0
        self._outcome = outcome
        self._study = study
        self._sweep = study.sweep
        assert study.id is not None, "a study has an id since open_study, and only an opened study is written"
        self._id = study.id
        self._uri = uri
        self._client: MlflowClient | None = None
        self._file: PinnedPath | None = None
        self._rows = {row.number: row for row in study.rows(with_fresh=True)}
        self._runs: dict[int, KnownRun] | None = None
        self._experiment = ""
        self._must_reload = False
        self._has_view: bool | None = None
        self._refused: dict[int, int] = {}
        self._curve: dict[int, float] = {}

    def write(self, rows: Iterable[TrialRecord], *, is_live: bool) -> None:
        """Write what the runs of these trials and the run of the sweep lack.

        Raises:
            Exception: MLflow cannot be reached, or refuses; call again to write the rest.
        """
        client = self._connect()
        rows = sorted(rows, key=lambda row: row.number)
        self._rows.update({row.number: row for row in rows})
        try:
            runs = self._runs if self._runs is not None else self._load(client)
            parent = runs.get(PARENT) or self._create_parent(client, runs)
            for row in rows:
                with giving_way() if is_live else nullcontext():
                    self._write_or_skip_trial(client, runs, parent, row)
            marked = {number for number, run in runs.items() if number != PARENT and run.tags.get(content.FRONT)}
            changes = content.front_changes(self._sweep, self._rows.values(), marked)
            for number in changes.keys() & runs.keys():
                self._log(client, runs[number], [], tags={content.FRONT: changes[number]})
            self._write_sweep(client, parent, is_live=is_live)
            if self._must_reload:
                self._load(client)
                self._must_reload = False
        except Exception:
            self._runs, self._must_reload = None, True
            raise

    def _connect(self) -> MlflowClient:
        """Return the client of the store; raise TrackingError if the store's file is not the one that it opened.

        MLflow keeps connections to a deleted file, and would write into it without an error.
        """
        if self._client is None:
            self._client = connect(self._uri)
            path = sqlite_path(self._uri)
            self._file = PinnedPath(path, "MLflow's store") if path else None
        try:
            if self._file:
                self._file.check_unchanged()
        except StorageError:
            raise TrackingError("its file was removed or replaced") from None
        return self._client

    def _load(self, client: MlflowClient) -> dict[int, KnownRun]:
        """Read the runs of the study. If a lost answer led to two runs of one trial, delete that with fewer metrics."""
        self._experiment = open_experiment(client, self._uri, self._sweep.tracking.experiment)
        found: dict[int, MlflowRun] = {}
        for run in search_runs(client, self._experiment, f"tags.`sweeper.id` = '{self._id}'"):
            number = int(run.data.tags.get("sweeper.trial", PARENT))
            other = found.setdefault(number, run)
            if other is not run:
                found[number], surplus = sorted((other, run), key=lambda run: (-len(run.data.metrics), run.info.run_id))
                client.delete_run(surplus.info.run_id)
        self._curve = {}
        self._runs = {number: known_run(run) for number, run in found.items()}
        return self._runs

    def _create_parent(self, client: MlflowClient, runs: dict[int, KnownRun]) -> KnownRun:
        started = min((row.started for row in self._rows.values() if row.started), default=None)
        cut = altered_names(content.sweep_params(self._sweep))
        run = self._create(client, self._sweep.name, started, {"sweeper.truncated": cut})
        runs[PARENT] = run
        return run

    def _create(self, client: MlflowClient, name: str, started: Any, tags: Mapping[str, str]) -> KnownRun:
        own = {"sweeper.id": self._id, "sweeper.sweep": self._sweep.name, **content.run_tags(self._study.facts)}
        tags = fit_tags({key: value for key, value in {**own, **tags}.items() if value})
        when = content.milliseconds(started)
        run = client.create_run(self._experiment, start_time=when, tags=tags, run_name=name)
        return KnownRun(run.info.run_id, run.info.status, tags=tags)

    def _write_or_skip_trial(
        self, client: MlflowClient, runs: dict[int, KnownRun], parent: KnownRun, row: TrialRecord
    ) -> None:
        """Write one trial; skip a trial that MLflow refuses twice, so that it does not block the others."""
        from mlflow.exceptions import MlflowException

        try:
            self._write_trial(client, runs, parent, row)
            self._refused.pop(row.number, None)
        except MlflowException as error:
            self._refused[row.number] = self._refused.get(row.number, 0) + 1
            if error.error_code not in _REFUSALS or self._refused[row.number] < 2:
                raise
            if self._refused[row.number] == 2:
                logger.warning("MLflow refuses trial %d (%s). Only the study has it.", row.number, short_reason(error))

    def _write_trial(self, client: MlflowClient, runs: dict[int, KnownRun], parent: KnownRun, row: TrialRecord) -> None:
        tags = {**content.trial_tags(self._sweep, row), "mlflow.parentRunId": parent.id}
        run = runs.get(row.number)
        if run is None:
            running = {**tags, "sweeper.state": "RUNNING", "sweeper.reason": "", "mlflow.note.content": ""}
            run = self._create(client, content.trial_name(row), row.started, running)
            runs[row.number] = run
        metric = fit_key(self._sweep.objective.metric)
        status = content.STATUS[row.state]
        if run.status == status != "RUNNING" and run.steps is None and run.metrics.get(metric) == row.value:
            run.steps = set(range(1, row.step + 1))
        reports = self._missing_reports(client, run, row, metric)
        if cut := altered_names(row.params, reports[0].metrics if reports else ()):
            tags["sweeper.truncated"] = max(cut, run.tags.get("sweeper.truncated", ""), key=len)
        # The state is written last: a run with a final state is complete.
        self._log(client, run, reports, row.params, tags)
        self._set_status(client, run, status, row.ended)

    def _missing_reports(self, client: MlflowClient, run: KnownRun, row: TrialRecord, metric: str) -> list[Report]:
        """Return the reports that a trial's run lacks, up to the last one that the study has judged."""
        if run.steps is None:
            run.steps = {point.step for point in client.get_metric_history(run.id, metric)}
        lacking = set(range(1, row.step + 1)) - run.steps
        reports = self._study.reports(row.number) if lacking else []
        return [content.with_epoch(report, self._sweep.budget) for report in reports if report.step in lacking]

    def _log(
        self, client: MlflowClient, run: KnownRun, reports: Sequence[Report], params: Any = _NONE, tags: Any = _NONE
    ) -> None:
        """Write reports, and of parameters and tags what a run lacks: in one request, if MLflow accepts so many."""
        from mlflow.entities import Param, RunTag

        new = {key: value for key, value in fit_params(params).items() if key not in run.params}
        changed = {key: value for key, value in fit_tags(tags).items() if run.tags.get(key, "") != value}
        groups = [*batches(reports)]
        if (others := len(new) + len(changed)) and (not groups or len(groups[-1]) + others > MAX_BATCH):
            groups.append([])
        for group in groups[:-1]:
            client.log_batch(run.id, metrics=group)
        if groups:
            named, marked = [Param(*item) for item in new.items()], [RunTag(*item) for item in changed.items()]
            client.log_batch(run.id, groups[-1], named, marked)
        self.written += sum(map(len, groups))
        run.params |= new.keys()
        run.tags |= changed
        run.steps = run.steps if run.steps is None else run.steps | {report.step for report in reports}

    def _set_status(self, client: MlflowClient, run: KnownRun, status: str, ended: Any) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            client.update_run(run.id, status=status)
        else:
            client.set_terminated(run.id, status, content.milliseconds(ended))
        run.status = status
        self.written += 1

    def _write_sweep(self, client: MlflowClient, run: KnownRun, *, is_live: bool) -> None:
        rows, facts = list(self._rows.values()), self._study.facts
        searched = [row for row in rows if row.confirms is None]
        tags = self._sweep_tags(client, run, searched, is_live=is_live)
        if run.steps is None or not run.params:
            log_text_best_effort(client, run.id, content.sweep_yaml(self._sweep), "sweep.yaml")
        if run.tags.get("sweeper.dataset.digest") != tags.get("sweeper.dataset.digest"):
            log_dataset(client, run.id, facts)
        points = [*self._confirmed(run), *self._sweep_curve(client, run, rows)]
        self._log(client, run, points, content.sweep_params(self._sweep), tags)
        ended = max((row.ended for row in rows if row.ended), default=None)
        self._set_status(client, run, content.STATUS.get(tags["sweeper.state"], "KILLED"), ended)

    def _confirmed(self, run: KnownRun) -> list[Report]:
        found = content.confirmed_metrics(self._study)
        missing = {name: value for name, value in found.items() if run.metrics.get(name) != value}
        run.metrics |= missing
        return [Report(0, time.time(), missing)] if missing else []

    def _sweep_tags(
        self, client: MlflowClient, run: KnownRun, rows: list[TrialRecord], *, is_live: bool
    ) -> dict[str, str]:
        tags = {**content.sweep_tags(self._study, rows, is_live=is_live), **self._outcome}
        if self._runs is not None and (best := self._runs.get(int(tags.get("sweeper.best_trial", PARENT)))):
            tags["sweeper.best_run"] = best.id
        if self._has_view is None:  # once: this user may not be allowed to; `sweeper ui` may have saved a better one
            known = has_view(client.get_experiment(self._experiment).tags, self._id)
            self._has_view = known or save_view(client, self._experiment, self._id, self._sweep, run.id)
        places = Places(
            self._experiment,
            run.id,
            best=tags.get("sweeper.best_run"),
            has_view=self._has_view,
            has_report=not is_live and has_file(client, run.id, REPORT),
        )
        tags["mlflow.note.content"] = sweep_note(self._study, rows, places, {**run.tags, **tags})
        return tags

    def _sweep_curve(self, client: MlflowClient, run: KnownRun, rows: list[TrialRecord]) -> list[Report]:
        """Return the points of `best_METRIC`, with a trial's number as the step, that the sweep's run lacks.

        A trial that was run again changes the points of the later ones: these get another point, which is newer.
        """
        name = fit_key(f"best_{self._sweep.objective.metric}")
        if run.steps is None:
            points = client.get_metric_history(run.id, name)
            self._curve = {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
            run.steps = set(self._curve)
        first = self._study.facts.get("history", {}).get("trials", 0)
        missing = [
            Report(row.number, when, {name: best})
            for row, best, when in content.best_so_far(self._sweep, rows, first=first)
            if self._curve.get(row.number) != best
        ]
        self._curve |= {report.step: report.metrics[name] for report in missing}
        return missing
