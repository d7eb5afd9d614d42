"""A recorded trial, trained again in this process, and compared with its record report by report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sweeper.core.environment import processor, versions
from sweeper.core.errors import InputError
from sweeper.core.trials import Report, TrialRecord
from sweeper.run.training import changed_code, changed_data, context_in, needs_whole_gpu, reports_of
from sweeper.worker.task import Task

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
    study: StudyView,
    row: TrialRecord,
    *,
    cpus: int | None = None,
    on_change: Callable[[str], None],
    on_report: Callable[[Report], None],
) -> Reproduction:
    """Train a trial again from its start, up to its last recorded report, and compare every metric bit for bit.

    Nothing is written but to a temporary folder. A trainable that was imported is taken from the copy of the sweep's
    folder, if that is here.

    Args:
        cpus: CPUs to train with, instead of those that it was recorded with.
        on_change: called, before the training, with each thing that differs from when the trial was recorded.
        on_report: called with each new report.

    Raises:
        InputError: the trial has no reports, was not trained here, or its data or code is not at hand.
        SweeperError: it failed this time.
    """
    recorded, objective = study.reports(row.number), study.sweep.objective.metric
    if row.is_added or not recorded:
        how = f"took its reports from {row.reused}" if row.reused else "was added to the study with its value"
        why = how if row.is_added else "has made no report"
        raise InputError(f"trial {row.number} {why}, so there is nothing to compare with")
    with TemporaryDirectory(prefix="sweeper-") as folder:
        context = context_in(folder, study)
        changed = [*changed_code(study, context), *_changes(study), *changed_data(study, context)]
        computed = row.cpus if cpus is None else ((1, cpus),)
        if cpus is not None and computed != (row.cpus or ((1, 1),)):
            changed.append(f"{cpus} {'CPU' if cpus == 1 else 'CPUs'} (was {_in_words(row)})")
        for change in changed:
            on_change(change)
        whole_gpu, seed = needs_whole_gpu(study, row), None if row.confirms is None else row.confirms.seed
        task = Task(row.number, row.params, whole_gpu=whole_gpu, recorded=row.step, cpus=computed, seed=seed)
        first: dict[str, tuple[int, float | None, float | None]] = {}
        made = 0
        with closing(reports_of(context, task, len(recorded))) as reports:
            for before, now in zip(recorded, reports, strict=False):
                on_report(now)
                for name in before.metrics.keys() | now.metrics.keys():
                    pair = before.metrics.get(name), now.metrics.get(name)
                    if repr(pair[0]) != repr(pair[1]):  # equal to the last bit, and NaN is equal to NaN
                        first.setdefault(name, (before.step, *pair))
                made = now.step
    if made < recorded[-1].step:
        first.setdefault(objective, (made + 1, recorded[made].metrics.get(objective), None))
    return Reproduction(made, dict(sorted(first.items(), key=lambda item: (item[1][0], item[0]))), tuple(changed))


def _changes(study: StudyView) -> list[str]:
    """Return which versions and whether the processor differ from when the sweep was recorded."""
    facts = study.facts
    before = {**facts.get("versions", {}), "processor": facts.get("processor", processor())}
    now = {**versions(before), "processor": processor()}
    return [f"{name} {now.get(name)} (was {was})" for name, was in before.items() if now.get(name) != was]


def _in_words(row: TrialRecord) -> str:
    """Say on how many CPUs a trial was computed: 1, or 1, then 2."""
    first = [] if row.cpus and row.cpus[0][0] == 1 else ["1"]
    return ", then ".join(first + [str(cpus) for _, cpus in row.cpus])
