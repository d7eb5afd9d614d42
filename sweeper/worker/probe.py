"""A process that trains the starts of some trials, to measure their pace: `python -m sweeper.worker.probe FILE`."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.core.files import bytes_below
from sweeper.spec import Sweep
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Task, WorkerContext

MIN_REPORTS, MIN_SECONDS, MAX_SECONDS = 3, 0.6, 3.0
"""Reports after which, and seconds after the first report from which on, a trial has shown its pace; and seconds after
the first report from which on the second one is enough."""


@dataclass(frozen=True)
class Probe:
    """What a process measures: the starts of some trials, each on a part of the data, until a moment.

    Attributes:
        parts: share of the data for each trial; the cost of a report is in proportion to it.
        until: Unix time after which no trial begins.
        output: the file that gets a line of JSON for each event.
    """

    context: WorkerContext
    tasks: tuple[Task, ...]
    parts: tuple[float, ...]
    until: float
    output: Path


def main() -> None:
    # The file was written by the process that started this one, in a folder of its own.
    probe: Probe = pickle.loads(Path(sys.argv[1]).read_bytes())
    with probe.output.open("a") as lines:

        def write(task: Task, event: str, **more: Any) -> None:
            known = {"trial": task.number, "event": event, "time": time.time(), "waited": _waited()}
            lines.write(json.dumps(known | more) + "\n")
            lines.flush()

        for task, part in zip(probe.tasks, probe.parts, strict=True):
            if time.time() >= probe.until:
                return
            _train_start(part_of(probe.context, part), task, write, probe.until)


def _train_start(context: WorkerContext, task: Task, write: Any, until: float) -> None:
    """Train a trial until it has shown its pace, and write each event."""
    runner, times = TaskRunner(context, task, owns_process=True), list[float]()
    write(task, "begin")
    while not _is_enough(times, until):
        event = runner.next_event()
        if event.failure is not None:
            write(task, "failure", reason=event.failure.reason)
            break
        if event.notice is None and event.report is None:
            break
        if event.report is not None:
            times.append(event.report.time)
            write(task, "report", step=event.report.step)
    runner.stop()
    folder = context.folder.trial(task.number)
    write(task, "end", bytes=sum(map(bytes_below, folder.glob("attempt-*"))))
    shutil.rmtree(folder, ignore_errors=True)


def _waited() -> float:
    """Return the seconds that threads of this process have waited for a CPU; 0 where the system does not tell."""
    total = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # the thread has ended, or Linux was built without this
            total += int(file.read_text().split()[1])
    return total / 1e9


def _is_enough(times: Sequence[float], until: float) -> bool:
    if len(times) < 2:
        return False
    passed = times[-1] - times[0]
    return passed >= MAX_SECONDS or (len(times) >= MIN_REPORTS and passed >= MIN_SECONDS) or times[-1] >= until


def part_of(context: WorkerContext, part: float) -> WorkerContext:
    """Return a sweep on a part of its data, or of its steps, with as many reports: each costs that part of one.

    Training and validation shrink alike.
    """
    if part >= 1 or context.data is None:
        return context
    sweep, data = context.sweep, context.data
    if sweep.budget.steps is None:
        train = max(1, round(part * len(data.y_train)))
        data = replace(data, x_train=data.x_train[:train], y_train=data.y_train[:train])
    else:
        sweep = _with_fewer_steps(sweep, part)
    valid, test = max(1, round(part * len(data.y_val))), max(1, round(part * len(data.y_test)))
    data = replace(data, x_val=data.x_val[:valid], y_val=data.y_val[:valid])
    return replace(context, sweep=sweep, data=replace(data, x_test=data.x_test[:test], y_test=data.y_test[:test]))


def _with_fewer_steps(sweep: Sweep, part: float) -> Sweep:
    budget = sweep.budget
    width = max(1, round(part * budget.epoch_of(1)))
    fewer = {"steps": width * budget.reports, "report_every": width}
    return sweep.model_copy(update={"budget": budget.model_copy(update=fewer)})


if __name__ == "__main__":
    main()
