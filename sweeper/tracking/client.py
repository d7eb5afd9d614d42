"""Client of MLflow: the address of the store, a connection with short timeouts, experiments and runs."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.errors import InputError, TrackingError
from sweeper.core.files import exclusive_lock, written_whole
from sweeper.core.urls import SQLITE, expand, problem_of_tracking_uri, sqlite_path
from sweeper.tracking import content
from sweeper.tracking.artifact_root import ARTIFACTS, correct_root
from sweeper.tracking.server import deleted_experiment, short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

    from sweeper.spec import Sweep

logger = logging.getLogger(__name__)

WAY, MAX_WAY_S = 4.0, 1.0
"""Seconds to sleep for each one computed beside a thread that is always busy; and at most at a time."""

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # MLflow would repeat a `runs/create` whose answer was lost, and create a second run; we first search for the run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def tracking_uri(sweep: Sweep, override: str | None = None) -> str:
    """Return the MLflow store of a sweep: `override`, else the sweep's, else MLFLOW_TRACKING_URI, else a local file.

    Raises:
        InputError: the address is not valid, is a folder, which MLflow no longer supports, or refers to a variable that
            is not set.
    """
    return store_uri(override or sweep.tracking.resolved_uri())


def store_uri(asked: str | None) -> str:
    """Return the address of an MLflow store: `asked`, else MLFLOW_TRACKING_URI, else a local file.

    Raises:
        InputError: as `tracking_uri` does.
    """
    uri = expand(asked or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db")
    if problem := problem_of_tracking_uri(uri, secrets=True):
        raise InputError(f"the address of MLflow {problem}")
    path = sqlite_path(uri)
    return uri if path is None else f"{SQLITE}{path}"


def configure_mlflow() -> None:
    """Set short timeouts and quiet logs for MLflow in this process; variables that are set keep their values.

    What MLflow and its libraries log about a failure is a traceback for each request; sweeper reports it in one line.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for library in ("alembic", "sqlalchemy.pool", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # MLflow reads its level when it is imported, and other code may have imported it before.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())


def connect(uri: str) -> MlflowClient:
    """Return a client of the store at `uri`. Create a SQLite store that does not exist, with mode 0600."""
    configure_mlflow()
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(path.parent):
            if not path.exists() or not path.stat().st_size:
                _create(path)
    return MlflowClient(uri)


def _create(path: Path) -> None:
    """Create a SQLite store beside `path`, and rename it when it is complete.

    MLflow creates its tables in some fifty migrations. A process that is killed between two of them leaves a file that
    no MLflow can open: "table _alembic_tmp_metrics already exists". SQLite would wait for the disk after each of their
    400 statements, which takes longer than the rest; here the complete file is written to disk once.
    """
    # `_initialize_tables` is private in MLflow 3.17. The public way, a client of the file, also creates an experiment
    # in it and keeps an engine on its temporary name. test_client.py kills a process between two migrations.
    import sqlalchemy as sa
    from mlflow.store.db.utils import _initialize_tables

    leftover = re.compile(rf"\.writing-[0-9a-f]{{8}}{re.escape(path.suffix)}(-journal|-wal|-shm)?")
    for file in path.parent.iterdir():  # the caller holds the folder's lock, so these are of processes that were killed
        if leftover.fullmatch(file.name) and file.is_file():
            file.unlink()
    with written_whole(path) as beside:
        beside.touch(mode=0o600)
        engine = sa.create_engine(f"{SQLITE}{beside}")
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()
        with beside.open("rb") as whole:
            os.fsync(whole.fileno())


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Make `uri` the store of the whole process for the block; MLflow's registry looks for models there only."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def open_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of the experiment called `name`; create it if there is none.

    Raises:
        TrackingError: it was deleted; MLflow keeps its name reserved.
    """
    from mlflow.exceptions import MlflowException

    found, path = client.get_experiment_by_name(name), sqlite_path(uri)
    if found is None:
        # By default MLflow uses a folder relative to the working directory, and every reader has another one.
        artifacts = None if path is None else (path.parent / ARTIFACTS).as_uri()
        try:
            # Without this tag the UI asks what kind of experiment this is.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was first
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(deleted_experiment(name))
    if path is not None and (note := correct_root(path, found.artifact_location)):
        _warn_once(note)
    return str(found.experiment_id)


@cache
def _warn_once(note: str) -> None:
    logger.warning(note)


@dataclass
class KnownRun:
    """Contents of one run, as far as they are known; `steps` is None until its history was read."""

    id: str
    status: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    steps: set[int] | None = field(default_factory=set)


def search_runs(client: MlflowClient, experiment: str, filter_string: str) -> Iterator[MlflowRun]:
    """Yield all runs of an experiment that match a filter, page by page."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment], filter_string, max_results=500, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def log_dataset(client: MlflowClient, run_id: str, facts: Mapping[str, Any]) -> None:
    """Record on a run the data that it was trained on; MLflow stores equal records once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = content.dataset_facts(facts)
    if {"name", "digest"} <= found.keys():
        source = json.dumps({"uri": str(found.get("source", found["name"]))})
        sizes = {name: value for name, value in found.items() if isinstance(value, int)}
        # MLflow accepts 36 characters of a digest; the tags have all of it.
        dataset = Dataset(str(found["name"]), str(found["digest"])[:36], "local", source, profile=json.dumps(sizes))
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _clocks() -> tuple[float, float, float]:
    return time.monotonic(), time.process_time(), time.thread_time()


@contextmanager
def giving_way() -> Iterator[None]:
    """Sleep after the block: the longer it computed, and the busier the other threads of this process were meanwhile.

    Python runs one thread at a time. The driver answers its workers first, and MLflow may lag behind.
    """
    before = _clocks()
    yield
    wall, process, own = (now - then for now, then in zip(_clocks(), before, strict=True))
    others = min(1.0, max(0.0, process - own) / wall) if wall > 0 else 0.0  # the clocks of a process differ a little
    time.sleep(min(MAX_WAY_S, WAY * others * max(0.0, own)))


def log_text_best_effort(client: MlflowClient, run_id: str, text: str, name: str) -> None:
    """Store a small text file with a run; log a warning if the store cannot keep files."""
    try:
        client.log_text(run_id, text, name)
    except Exception as error:
        logger.warning("MLflow did not store %s (%s).", name, short_reason(error))


def has_file(client: MlflowClient, run_id: str, name: str) -> bool:
    """Return whether a run has a file of this name; False too if the store cannot tell."""
    try:
        return any(file.path == name for file in client.list_artifacts(run_id))
    except Exception:  # it is only about a link to the file
        return False


def known_run(run: MlflowRun) -> KnownRun:
    """Return the contents of a run that was just read; its history is read later, when it is needed."""
    return KnownRun(
        id=run.info.run_id,
        status=run.info.status,
        params=set(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        steps=None,
    )
