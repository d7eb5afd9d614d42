"""The process that runs trials as Ray Tune sees it. What it imports, every worker must wait for: no Optuna here."""

from __future__ import annotations

import os
from typing import Any

from ray import tune

from sweeper.worker import Job, TaskRun, task_from

_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in the shell
    "PL_DISABLE_FORK": "1",  # what Tune gives its own workers
}


class Worker(tune.Trainable):  # type: ignore[misc]
    """A warm worker: one process that runs task after task, so that imports and compiled models are paid once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        super().__init__(*args, **kwargs)

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        assert job is not None
        self._job = job
        self._run = TaskRun(job, task_from(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.stop()
        self._run = TaskRun(self._job, task_from(new_config))
        return True

    def step(self) -> dict[str, Any]:
        return {"event": self._run.next_event()}

    def cleanup(self) -> None:
        self._run.stop()
