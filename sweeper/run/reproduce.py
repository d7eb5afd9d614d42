"""A recorded trial, trained again in this process, and compared with its record report by report."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sweeper.analysis.trials import folder_at_hand
from sweeper.core.code.user_code import digest_user_code, user_code_root
from sweeper.core.environment import processor, versions
from sweeper.core.errors import InputError, SweeperError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Report, TrialRecord
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Task, WorkerContext

if TYPE_CHECKING:
    from sweeper.study.view import StudyView


@dataclass(frozen=True)
class Reproduction:
    """How a trial that was trained again compares with its record.

    Attributes:
        reports: reports that were compared.
        first: for each metric that differs, the number of the first report in which it does, the recorded value and the
            new one; None for a metric that one of them lacks.
        changed: what differs from when the trial was recorded: versions, processor, data, code, CPUs.
    """

    reports: int
    first: dict[str, tuple[int, float | None, float | None]]
    changed: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        return not self.first


def reproduce(
    study: StudyView, row: TrialRecord, *, cpus: int | None = None, on_report: Callable[[Report], None]
) -> Reproduction:
    """Train a trial again from its start, up to its last recorded report, and compare every metric bit for bit.

    Nothing is written but to a temporary folder. A trainable that was imported is taken from the copy of the sweep's
    folder, if that is here.

    Args:
        cpus: CPUs to train with, instead of those that it was recorded with.
        on_report: called with each new report.

    Raises:
        InputError: the trial has no reports, was not trained here, or its data or code is not at hand.
        SweeperError: it failed this time.
    """
    recorded = study.reports(row.number)
    if row.is_added or not recorded:
        why = "was added to the study with its value" if row.is_added else "has made no report"
        raise InputError(f"trial {row.number} {why}, so there is nothing to compare with")
    dataset = study.sweep.dataset
    sweep = study.sweep.model_copy(update={"dataset": None if dataset is None else dataset.resolve()})
    code, changed = _code_of(study)
    with TemporaryDirectory(prefix="sweeper-") as folder:
        context = WorkerContext(sweep, SweepFolder.of(folder, sweep.name), study=study.id or "", code=code)
        context = replace(context, data=context.load_data())
        changed += _changes(study, context)
        computed = row.cpus if cpus is None else ((1, cpus),)
        if cpus is not None and computed != (row.cpus or ((1, 1),)):
            changed.append(f"{cpus} {'CPU' if cpus == 1 else 'CPUs'} (was {_in_words(row)})")
        whole_gpu = any(attempt.kind == "gpu" for attempt in study.attempts().get(row.number, ()))
        seed = None if row.confirms is None else row.confirms.seed
        task = Task(row.number, row.params, whole_gpu=whole_gpu, recorded=row.step, cpus=computed, seed=seed)
        first: dict[str, tuple[int, float | None, float | None]] = {}
        made = 0
        with closing(_reports(context, task, len(recorded))) as reports:
            for before, now in zip(recorded, reports, strict=False):
                on_report(now)
                for name in before.metrics.keys() | now.metrics.keys():
                    pair = before.metrics.get(name), now.metrics.get(name)
                    if repr(pair[0]) != repr(pair[1]):  # equal to the last bit, and NaN is equal to NaN
                        first.setdefault(name, (before.step, *pair))
                made = now.step
    if made < recorded[-1].step:
        first.setdefault(sweep.objective.metric, (made + 1, recorded[made].metrics.get(sweep.objective.metric), None))
    return Reproduction(made, dict(sorted(first.items(), key=lambda item: (item[1][0], item[0]))), tuple(changed))


def _reports(context: WorkerContext, task: Task, count: int) -> Generator[Report, None, None]:
    """Train in this process; yield the reports as they are made."""
    runner = TaskRunner(context, task)
    try:
        for _ in range(count):
            event = runner.next_event()
            while event.notice is not None:
                event = runner.next_event()
            if event.failure is not None:
                raise SweeperError(f"trial {task.number} failed this time: {event.failure.reason}")
            if event.report is None:  # it has returned
                return
            yield event.report
    finally:
        runner.stop()


def _code_of(study: StudyView) -> tuple[Path | None, list[str]]:
    """Return the folder to import the user's code from, None if it is on Python's path, and whether it has changed."""
    trainable, place = study.sweep.trainable, folder_at_hand(study)
    root = user_code_root(trainable)
    if root is None:
        return None, []
    if place is not None and (frozen := place.code / root.name).is_dir():
        return frozen, []
    before, now = study.facts.get("files", {}), digest_user_code(trainable)
    changed = sorted(file for file in {**before, **now} if before.get(file) != now.get(file))
    return None, [f"the code has changed: {', '.join(changed)}"] if changed else []


def _changes(study: StudyView, context: WorkerContext) -> list[str]:
    """Return what differs from when the sweep was recorded: versions, processor and data."""
    facts = study.facts
    before = {**facts.get("versions", {}), "processor": facts.get("processor", processor())}
    now = {**versions(before), "processor": processor()}
    found = [f"{name} {now.get(name)} (was {was})" for name, was in before.items() if now.get(name) != was]
    data, known = context.data.facts() if context.data else None, facts.get("dataset")
    if data is not None and known is not None and data["digest"] != known["digest"]:
        found.append(f"other data: {data['name']} from {data['source']} (was {known['name']} from {known['source']})")
    return found


def _in_words(row: TrialRecord) -> str:
    """Say on how many CPUs a trial was computed: 1, or 1, then 2."""
    first = [] if row.cpus and row.cpus[0][0] == 1 else ["1"]
    return ", then ".join(first + [str(cpus) for _, cpus in row.cpus])
