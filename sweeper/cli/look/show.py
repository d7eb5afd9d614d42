"""The verbs that show a study: `list`, `show`, `best`.

Heavy imports, rich included, are inside the verbs, so that `sweeper --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.cli import options, report
from sweeper.core.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.core.trials import Attempt, TrialRecord
    from sweeper.study.view import StudyView


def list_sweeps(storage: options.Storage = options.DEFAULT_STORAGE, json: options.Json = False) -> None:
    """List the sweeps of a database, newest first."""
    from sweeper.cli import console
    from sweeper.study import open

    summaries = open.list_sweeps(storage)
    if json:
        report.emit(report.to_json([report.summary_document(summary) for summary in summaries]))
    else:
        console.print_sweeps(summaries)


def show(
    name: options.OptionalName = None,
    trial: options.OneTrial = None,
    everything: options.All = False,
    csv: options.Csv = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Print the leaderboard of a sweep, running or not; with a trial, all about that one."""
    from sweeper.analysis.names import parse_target, trial_named
    from sweeper.analysis.trials import as_seen
    from sweeper.cli import console
    from sweeper.study.open import read_study

    chosen, numbers = parse_target(name or chosen_sweep(None, storage), [] if trial is None else [trial])
    study = read_study(chosen, storage)
    rows = [trial_named(study, number) for number in numbers] or study.leaderboard()
    rows = as_seen(rows, is_running=study.is_running)
    attempts = study.attempts()
    if csv:
        report.emit(report.to_csv(study.sweep, rows))
    elif numbers:
        _show_trial(study, rows[0], attempts.get(rows[0].number, ()), json=json)
    elif json:
        document = report.study_document(study.sweep, rows, attempts)
        origin = {"history": study.facts.get("history"), "eras": study.facts.get("eras", [])}
        report.emit(report.to_json(document | origin))
    else:
        limit = None if everything else 20
        console.print_leaderboard(study.sweep, rows, attempts, limit=limit, remarks=study.remarks())


def _show_trial(study: StudyView, row: TrialRecord, failed: Sequence[Attempt], *, json: bool) -> None:
    """Print one trial: state, value, parameters, failed attempts, and the files that it wrote for people."""
    from sweeper.cli import console
    from sweeper.core.sweep_folder import SweepFolder

    folder = SweepFolder.of(study.folder, study.name).trial(row.number)
    files = sorted(path for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    if json:
        document = report.attempts_document(study.sweep, row, failed) | {"files": [str(file) for file in files]}
        report.emit(report.to_json(document))
    else:
        console.print_trial(study.sweep, row, failed, files)


def best(
    name: options.OptionalName = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Print the best parameters as YAML, to paste into a space."""
    from sweeper.analysis.trials import is_done, remark_on_pruned
    from sweeper.study.open import read_study

    study = read_study(chosen_sweep(name, storage), storage)
    row = study.best()
    if row is None:
        is_over = not study.is_running and is_done(study)
        how = ", and all its trials have ended" if is_over else " yet"
        raise SweeperError(f"no trial of sweep {study.name!r} has completed{how}. See: sweeper show {study.name}")
    if json:
        report.emit(report.to_json(report.trial_document(study.sweep, row)))
        return
    if remark := remark_on_pruned(study.rows(), study.sweep):
        from sweeper.cli import console

        console.print_note(remark)
    report.emit(report.best_yaml(study.sweep, row))


def chosen_sweep(name: str | None, storage: str) -> str:
    """Return the name of the sweep that a command is for: the newest of the database if it names none, with a note."""
    if name is not None:
        return name
    from sweeper.analysis.names import newest_sweep
    from sweeper.cli import console

    name = newest_sweep(storage)
    console.print_note(f"{name} is the newest sweep, and no other was named.")
    return name
