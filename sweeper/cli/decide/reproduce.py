"""The verb that trains a recorded trial again, and says whether it comes out the same."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli import options, report
from sweeper.core.text import clean, duration

if TYPE_CHECKING:
    from sweeper.run.reproduce import Reproduction
    from sweeper.study.view import StudyView

_Cpus = Annotated[
    int | None, typer.Option("--cpus", metavar="N", min=1, help="Train with so many CPUs. Default: as recorded.")
]


def reproduce(
    name: options.Name,
    trial: options.OneTrial = None,
    cpus: _Cpus = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> int:
    """Train a recorded trial again, the best if none is named, and compare every metric bit for bit."""
    from sweeper.analysis.names import parse_target, trial_named
    from sweeper.cli import console
    from sweeper.cli.decide.promote import complete_trial, progress_of
    from sweeper.run.reproduce import reproduce as train_again
    from sweeper.study.open import read_study

    name, numbers = parse_target(name, [] if trial is None else [trial])
    study = read_study(name, storage)
    row = trial_named(study, numbers[0]) if numbers else complete_trial(study, None)
    began = time.monotonic()
    console.print_note(f"training trial {row.number} of {name} again: {row.step} reports")

    def warn(change: str) -> None:
        console.print_note(f"different here: {change}")

    found = train_again(study, row, cpus=cpus, on_change=warn, on_report=progress_of(row.step))
    if json:
        report.emit(report.to_json({**asdict(found), "is_equal": found.is_equal}))
    else:
        for line in _lines(study, found, time.monotonic() - began):
            report.emit(clean(line))
    return 0 if found.is_equal else 1


def _lines(study: StudyView, found: Reproduction, seconds: float) -> list[str]:
    """Say whether the trial came out the same; if not, where it first differs, and what is different here."""
    budget, objective = study.sweep.budget, study.sweep.objective.metric
    unit = "step" if budget.steps is not None else "epoch"
    lines = []
    if found.is_equal:
        lines.append(f"equal: every metric of all {found.reports} reports, bit for bit; {duration(int(seconds))}")
    for metric, (step, before, now) in found.first.items():
        gap = "" if before is None or now is None else f", by {abs(now - before):.1e}"
        values = f"{_number(now)} (was {_number(before)})"
        lines.append(f"differs from {unit} {budget.epoch_of(step):g} on: {metric} {values}{gap}")
    if found.first and objective not in found.first:
        lines.append(f"{objective} is equal in all {found.reports} reports")
    return lines + [f"different here: {change}" for change in found.changed]


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.9g}"
