"""The Ray actor that runs trials. Every worker waits for what this module imports, so it does not import Optuna."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import Any

from ray import tune

from sweeper.core.code.functions import unpickle_function
from sweeper.core.errors import InputError
from sweeper.core.files import PRIVATE_UMASK
from sweeper.core.secrets import has_secret, register_secret, register_url_secrets
from sweeper.core.urls import expand, references
from sweeper.spec import Sweep
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Task, WorkerContext

_WORKER_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in the shell
    "PL_DISABLE_FORK": "1",  # as Tune sets it for its workers, see `skip_runtime_env_and_telemetry`
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


_PASSWORD_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "PGPASSWORD",
    "MYSQL_PWD",
)


_NODE_ID_LABEL = "ray.io/node-id"


_ADDRESS_VARIABLES = ("SWEEPER_STORAGE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """A warm worker: one process that runs many tasks, so that it imports packages and compiles models once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        os.umask(PRIVATE_UMASK)
        for name, value in _WORKER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        super().__init__(*args, **kwargs)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Request the trial's resources on any node that is not excluded. Equal requests share warm workers."""
        excluded = {_NODE_ID_LABEL: f"!in({', '.join(config['excluded'])})"} if config["excluded"] else {}
        return tune.PlacementGroupFactory([config["request"]], bundle_label_selector=[excluded])

    def setup(self, config: dict[str, Any], context: WorkerContext | None = None) -> None:
        assert context is not None
        _drop_driver_secrets(context.sweep)
        self._context = replace(context, folder=context.folder.on_this_node())
        if context.function is not None:
            unpickle_function(str(context.sweep.trainable), context.function, context.code)
        self._run = TaskRunner(self._context, task_from(config), owns_process=True)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.stop()
        if self._context.folder.url is not None:
            self._run.delete_local_files()
        self._run = TaskRunner(self._context, task_from(new_config), owns_process=True)
        return True

    def allow(self, cpus: int) -> None:
        """Let the trial use so many CPUs from its next report on."""
        self._run.allow(cpus)

    def step(self) -> dict[str, Any]:
        return {"event": self._run.next_event()}

    def cleanup(self) -> None:
        self._run.stop()


def _drop_driver_secrets(sweep: Sweep) -> None:
    """Remove the driver's passwords from the environment of trials, before any code of a trial runs.

    Trials connect neither to the study's database nor to MLflow. They keep all other variables, which may be keys for
    the data that they load. This is no security boundary: they run as the same user as the driver.
    """
    urls = [url for url in (sweep.storage, sweep.tracking.uri) if url]
    for url in urls:
        with suppress(InputError):  # another node may not have these variables
            expand(url)
    for name in _driver_only_variables(urls):
        value = os.environ.pop(name, "")
        if "://" in value:
            register_url_secrets(value)
        elif name in _PASSWORD_VARIABLES:
            register_secret(value)


def _driver_only_variables(urls: list[str]) -> Iterator[str]:
    """Yield the variables that the sweep's URLs refer to, those of passwords, and those of URLs that hold one."""
    yield from (name for url in urls for name in references(url))
    yield from _PASSWORD_VARIABLES
    yield from (name for name in _ADDRESS_VARIABLES if has_secret(os.environ.get(name, "")))


def task_from(config: Mapping[str, Any]) -> Task:
    """Read a task from a Ray Tune config, the inverse of `as_config`."""
    return Task(**{field.name: config[field.name] for field in fields(Task)})


def as_config(task: Task) -> dict[str, Any]:
    """Convert a task to a Ray Tune config of plain values, which Ray's own tools can show."""
    return asdict(task)
