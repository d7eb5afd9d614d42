"""A recorded trial, run in this process: its sweep, its code and its data as they were, and its reports."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.analysis.trials import folder_at_hand
from sweeper.core.code.user_code import digest_user_code, user_code_root
from sweeper.core.errors import SweeperError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Report, TrialRecord
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Event, Task, WorkerContext

if TYPE_CHECKING:
    from sweeper.study.view import StudyView


def context_in(folder: Path | str, study: StudyView, *, frozen: bool = True) -> WorkerContext:
    """Return a sweep as its workers know it, with its data, in another folder.

    Args:
        frozen: take a trainable that was imported from the copy in the sweep's folder, if that is here, and not as its
            files are now.
    """
    dataset = study.sweep.dataset
    sweep = study.sweep.model_copy(update={"dataset": None if dataset is None else dataset.resolve()})
    root = user_code_root(study.sweep.trainable)
    code = (_frozen_code(study) if frozen else None) or root
    context = WorkerContext(sweep, SweepFolder.of(folder, sweep.name), study=study.id or "", code=code)
    return replace(context, data=context.load_data())


def changed_code(study: StudyView, context: WorkerContext) -> list[str]:
    """Return in a sentence which files of the user have changed since the sweep was recorded, if any."""
    before = study.facts.get("files")
    if before is None or context.code is None or context.code == _frozen_code(study):
        return []
    now = digest_user_code(study.sweep.trainable)
    changed = sorted(file for file in {**before, **now} if before.get(file) != now.get(file))
    return [f"the code has changed: {', '.join(changed)}"] if changed else []


def changed_data(study: StudyView, context: WorkerContext) -> list[str]:
    """Return in a sentence which data is other than that of the sweep, if it is."""
    data, known = context.data.facts() if context.data else None, study.facts.get("dataset")
    if data is None or known is None or data["digest"] == known["digest"]:
        return []
    return [f"other data: {data['name']} from {data['source']} (was {known['name']} from {known['source']})"]


def needs_whole_gpu(study: StudyView, row: TrialRecord) -> bool:
    """Return whether a trial ran out of memory on its share of a GPU, and then got a whole one."""
    return any(attempt.kind == "gpu" for attempt in study.attempts().get(row.number, ()))


def reports_of(context: WorkerContext, task: Task, count: int) -> Generator[Report, None, None]:
    """Train in this process; yield at most so many reports as they are made.

    Raises:
        SweeperError: the trial failed.
    """
    runner = TaskRunner(context, task)
    try:
        for _ in range(count):
            event = _next_event(runner, task)
            if event.report is None:  # it has returned
                return
            yield event.report
    finally:
        runner.stop()


def evaluate(context: WorkerContext, task: Task) -> dict[str, float]:
    """Test a trial in this process, from the checkpoint or the model in the folder of the context; return its metrics.

    Raises:
        SweeperError: the test failed.
    """
    runner = TaskRunner(context, replace(task, evaluate=True))
    try:
        return _next_event(runner, task).evaluation or {}
    finally:
        runner.stop()


def _next_event(runner: TaskRunner, task: Task) -> Event:
    event = runner.next_event()
    while event.notice is not None:
        event = runner.next_event()
    if event.failure is not None:
        raise SweeperError(f"trial {task.number} failed this time: {event.failure.reason}")
    return event


def _frozen_code(study: StudyView) -> Path | None:
    """Return the copy of the user's code in the sweep's folder; None if it is not here, or nothing was copied."""
    place, root = folder_at_hand(study), user_code_root(study.sweep.trainable)
    code = None if place is None or root is None else place.code / root.name
    return code if code is not None and code.is_dir() else None
