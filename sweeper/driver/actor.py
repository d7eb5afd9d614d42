"""The process that runs trials as Ray Tune sees it. What it imports, every worker must wait for: no Optuna here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import Any

from ray import tune

from sweeper.core.errors import InputError
from sweeper.core.files import MASK
from sweeper.core.remote_folder import local_folder
from sweeper.core.secrets import has_secret, learn, learn_url
from sweeper.core.urls import expand, references
from sweeper.spec import Sweep
from sweeper.worker.runner import TaskRun
from sweeper.worker.task import Job, Task

_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in the shell
    "PL_DISABLE_FORK": "1",  # what Tune gives its own workers
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


_PASSWORDS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "PGPASSWORD",
    "MYSQL_PWD",
)


_NODE_ID = "ray.io/node-id"


_ADDRESSES = ("SWEEPER_STORAGE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


class Worker(tune.Trainable):  # type: ignore[misc]
    """A warm worker: one process that runs task after task, so that imports and compiled models are paid once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        os.umask(MASK)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        super().__init__(*args, **kwargs)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What a trial needs of a node, and which nodes it is not to have; warm workers are reused among equals."""
        avoided = {_NODE_ID: f"!in({', '.join(config['avoided'])})"} if config["avoided"] else {}
        return tune.PlacementGroupFactory([config["asked"]], bundle_label_selector=[avoided])

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        assert job is not None
        _withhold(job.sweep)
        # Each node has a folder of its own then.
        self._job = job if job.remote is None else replace(job, folder=local_folder(job.remote))
        self._run = TaskRun(self._job, task_from(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.stop()
        if self._job.remote is not None:
            self._run.leave()
        self._run = TaskRun(self._job, task_from(new_config))
        return True

    def step(self) -> dict[str, Any]:
        return {"event": self._run.next_event()}

    def cleanup(self) -> None:
        self._run.stop()


def _withhold(sweep: Sweep) -> None:
    """Take out of the environment of trials what only the driver needs, before any code of theirs runs.

    Trials talk neither to the study's database nor to MLflow: what proves who may, they need not hold. Whatever else
    the environment has, they may want, as keys for the data they load. It is no wall: they run as the same user.
    """
    urls = [url for url in (sweep.storage, sweep.tracking.uri) if url]
    for url in urls:
        with suppress(InputError):  # a node elsewhere has no such variables
            expand(url)
    for name in _drivers_own(urls):
        value = os.environ.pop(name, "")
        if "://" in value:
            learn_url(value)
        elif name in _PASSWORDS:
            learn(value)


def _drivers_own(urls: list[str]) -> Iterator[str]:
    """The variables that the sweep's own addresses refer to, passwords by their usual names, addresses with one."""
    yield from (name for url in urls for name in references(url))
    yield from _PASSWORDS
    yield from (name for name in _ADDRESSES if has_secret(os.environ.get(name, "")))


def task_from(config: Mapping[str, Any]) -> Task:
    """The task in a Ray Tune config, see `as_config`."""
    return Task(**{field.name: config[field.name] for field in fields(Task)})


def as_config(task: Task) -> dict[str, Any]:
    """A task as a Ray Tune config: plain values, so that Ray's own views can show them."""
    return asdict(task)
