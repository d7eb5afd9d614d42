"""What the trials of a sweep on this machine print, for `logs`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeper.cli import report
from sweeper.cli.cluster import reach
from sweeper.core.errors import InputError
from sweeper.core.text import clean

if TYPE_CHECKING:
    from sweeper.core.sweep_folder import SweepFolder

FOLLOW_INTERVAL_S = 1.0
SHOWN_LINES, SHOWN_TRIALS = 5, 5
"""Last lines of a trial, and trials, that `logs` prints if none is named."""


def show_output(name: str, trial: int | None, storage: str, *, follow: bool) -> None:
    """Print what a trial of a sweep on this machine has printed, or the last lines of those that run or failed."""
    from sweeper.core.sweep_folder import SweepFolder
    from sweeper.study.open import read_study

    study = read_study(name, storage)
    if isinstance(study.folder, str):
        raise InputError(f"what the trials of {name!r} print stays on their nodes: its folder is {study.folder}")
    if reach.asked() is not None:
        place = reach.namespace_options()
        raise InputError(
            f"what the trials of {name!r} print is in {study.folder} in the cluster, and cannot be read through its "
            f"database. What the sweep itself prints: sweeper logs {name} --backend kuberay{place}"
        )
    folder, rows = SweepFolder.of(study.folder, name), {row.number: row for row in study.rows()}
    if trial in rows:
        _print_trial(folder, trial, (lambda: _is_running(name, trial, storage)) if follow else lambda: False)
        return
    if trial is not None or follow:
        what = f"sweep {name!r} has no trial {trial}" if trial is not None else "the trial to follow is missing"
        raise InputError(f"{what}; name one of 0 to {max(rows)}" if rows else f"sweep {name!r} has no trial yet")
    shown = [row for row in rows.values() if row.state in ("RUNNING", "FAIL")][-SHOWN_TRIALS:]
    for row in shown:
        report.emit(clean(f"== trial {row.number}, {row.state}" + (f": {row.reason}" if row.reason else "")))
        for file in folder.outputs(row.number)[-1:]:
            report.emit_file(file, last_lines=SHOWN_LINES)
    if not shown:
        raise InputError(f"no trial of {name!r} runs or has failed; name one: sweeper logs {name} TRIAL")


def _is_running(name: str, trial: int, storage: str) -> bool:
    from sweeper.study.open import list_sweeps, read_study

    runs = any(summary.running for summary in list_sweeps(storage) if summary.name == name)
    return runs and read_study(name, storage).row(trial).state == "RUNNING"


def _print_trial(folder: SweepFolder, trial: int, is_running: Callable[[], bool]) -> None:
    """Print the output of all attempts of a trial, and what is added while it runs; then its traceback."""
    printed: dict[str, int] = {}
    runs = True
    while runs:
        runs, seen = is_running(), set(printed)
        for file in (files := folder.outputs(trial)):
            if file.name not in seen and len(files) > 1:
                report.emit(f"== {file.name}")
            if not seen or ".old" not in file.name:  # later, a file that was moved aside has been printed
                printed[file.name] = report.emit_file(file, printed.get(file.name, 0))
        time.sleep(FOLLOW_INTERVAL_S if runs else 0)
    if (error := folder.trial(trial) / "error.txt").is_file():
        report.emit(f"== {error.name}")
        report.emit_file(error)
    elif not printed:
        raise InputError(f"there is no output of trial {trial} in {folder.path}: it has printed nothing")
