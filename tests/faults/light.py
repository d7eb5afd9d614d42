"""A sweep without Ray, in a process that is forked quickly and killed at a chosen durable write.

The product's own code makes all durable writes: the study's commits, the checkpoints, MLflow's projection, the files.
Only Ray is replaced: the trials run in the process itself, one after the other.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  imported before the fork
from sqlalchemy.engine.default import DefaultDialect

from sweeper.core.trials import Verdict
from sweeper.driver.bridge import TuneBridge
from sweeper.driver.stop import Control
from sweeper.run import sweep as run
from sweeper.spec import load_sweep
from sweeper.study.compatibility import record_dataset
from sweeper.study.study import SweepStudy
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import WorkerContext
from tests.faults import driver


@dataclass(frozen=True)
class Point:
    """A moment before or after a durable write.

    Attributes:
        thread: which thread writes, "study" or "mlflow".
        count: the number of the write within its thread, from 1.
        moment: "before" or "after".
    """

    thread: str
    count: int
    moment: str


class FailPoint:
    """Counter of the durable writes of this process; kills the process at one of them."""

    def __init__(self, point: Point | None) -> None:
        self._point = point
        self._counts = {"study": 0, "mlflow": 0}
        self._lock = threading.Lock()

    def wrap(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            kind = {"sweeper-mlflow": "mlflow", "sweeper-lease": ""}.get(threading.current_thread().name, "study")
            if not kind or not _is_durable(args):
                return write(*args, **options)
            with self._lock:
                self._counts[kind] += 1
                count = self._counts[kind]
            self._kill_at(Point(kind, count, "before"))
            result = write(*args, **options)
            self._kill_at(Point(kind, count, "after"))
            return result

        return counted

    def _kill_at(self, point: Point) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)

    def save(self, path: Path) -> None:
        path.write_text(" ".join(str(count) for count in self._counts.values()))


def _is_durable(args: tuple[Any, ...]) -> bool:
    """Return whether a commit ends a transaction; SQLAlchemy also commits after reads."""
    connection = next((getattr(arg, "driver_connection", arg) for arg in args[1:2]), None)
    return not isinstance(connection, sqlite3.Connection) or connection.in_transaction


def tune_trials(
    study: SweepStudy, context: WorkerContext, *, control: Control, must_evaluate: Any, **others: Any
) -> dict[str, float] | None:
    """Run the trials in this process, in the place of `sweeper.driver.tune.tune_trials`."""
    one_by_one: Any = {"has_room": lambda handed_out: not handed_out}
    bridge = TuneBridge(study, must_evaluate=must_evaluate, control=control, **one_by_one, **others)
    while not isinstance(task := bridge.next_task(), str):
        if task is None:
            time.sleep(0.05)
            continue
        runner = TaskRunner(context, task)
        while bridge.handle_event(task, runner.next_event()) is Verdict.CONTINUE:
            pass
        runner.stop()
    return bridge.evaluation


@contextmanager
def _data_without_ray(study: SweepStudy, context: WorkerContext, **_: Any) -> Iterator[WorkerContext]:
    data = context.load_data()
    record_dataset(study, data.facts() if data else None)
    yield replace(context, data=data)


def run_light(folder: Path, uri: str, point: Point | None) -> None:
    """Run the sweep of a folder to its end, or until the process is killed at `point`."""
    os.chdir(folder)
    assert callable(vars(run)["ray_with_data"])
    sys.modules["sweeper.driver.tune"] = without_ray = ModuleType("sweeper.driver.tune")
    without_ray.tune_trials = tune_trials  # type: ignore[attr-defined]
    vars(run)["ray_with_data"] = _data_without_ray
    driver.log_acknowledgements()
    fail_point = FailPoint(point)
    DefaultDialect.do_commit = fail_point.wrap(DefaultDialect.do_commit)  # type: ignore[method-assign]
    for name in ("fsync", "rename"):
        setattr(os, name, fail_point.wrap(getattr(os, name)))
    sweep = load_sweep("sweep.yaml")
    result = run.run_sweep(sweep, tracking_uri=uri)
    if point is None:
        fail_point.save(folder / "writes")
    assert result.stopped is None and not result.notes, result
