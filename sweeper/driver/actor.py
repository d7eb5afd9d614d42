"""The process that runs trials as Ray Tune sees it. What it imports, every worker must wait for: no Optuna here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import Any

from ray import tune

from sweeper.core.errors import InputError
from sweeper.core.files import PRIVATE_UMASK
from sweeper.core.secrets import has_secret, register_secret, register_url_secrets
from sweeper.core.urls import expand, references
from sweeper.spec import Sweep
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Task, WorkerContext

_WORKER_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in the shell
    "PL_DISABLE_FORK": "1",  # what Tune gives its own workers
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


_PASSWORD_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "PGPASSWORD",
    "MYSQL_PWD",
)


_NODE_ID = "ray.io/node-id"


_ADDRESS_VARIABLES = ("SWEEPER_STORAGE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """A warm worker: one process that runs task after task, so that imports and compiled models are paid once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        os.umask(PRIVATE_UMASK)
        for name, value in _WORKER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        super().__init__(*args, **kwargs)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What a trial needs of a node, and which nodes it is not to have; warm workers are reused among equals."""
        excluded = {_NODE_ID: f"!in({', '.join(config['excluded'])})"} if config["excluded"] else {}
        return tune.PlacementGroupFactory([config["request"]], bundle_label_selector=[excluded])

    def setup(self, config: dict[str, Any], context: WorkerContext | None = None) -> None:
        assert context is not None
        _drop_driver_secrets(context.sweep)
        self._context = replace(context, folder=context.folder.on_this_node())
        self._run = TaskRunner(self._context, task_from(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.stop()
        if self._context.folder.url is not None:
            self._run.delete_local_files()
        self._run = TaskRunner(self._context, task_from(new_config))
        return True

    def step(self) -> dict[str, Any]:
        return {"event": self._run.next_event()}

    def cleanup(self) -> None:
        self._run.stop()


def _drop_driver_secrets(sweep: Sweep) -> None:
    """Take out of the environment of trials what only the driver needs, before any code of theirs runs.

    Trials talk neither to the study's database nor to MLflow: what proves who may, they need not hold. Whatever else
    the environment has, they may want, as keys for the data they load. It is no wall: they run as the same user.
    """
    urls = [url for url in (sweep.storage, sweep.tracking.uri) if url]
    for url in urls:
        with suppress(InputError):  # a node elsewhere has no such variables
            expand(url)
    for name in _driver_only_variables(urls):
        value = os.environ.pop(name, "")
        if "://" in value:
            register_url_secrets(value)
        elif name in _PASSWORD_VARIABLES:
            register_secret(value)


def _driver_only_variables(urls: list[str]) -> Iterator[str]:
    """The variables that the sweep's own addresses refer to, passwords by their usual names, addresses with one."""
    yield from (name for url in urls for name in references(url))
    yield from _PASSWORD_VARIABLES
    yield from (name for name in _ADDRESS_VARIABLES if has_secret(os.environ.get(name, "")))


def task_from(config: Mapping[str, Any]) -> Task:
    """The task in a Ray Tune config, see `as_config`."""
    return Task(**{field.name: config[field.name] for field in fields(Task)})


def as_config(task: Task) -> dict[str, Any]:
    """A task as a Ray Tune config: plain values, so that Ray's own views can show them."""
    return asdict(task)
