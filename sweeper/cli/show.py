"""The verbs that show: each parses, calls one function of another room, and prints.

Heavy imports, rich included, are inside the verbs, so that `sweeper --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from sweeper.cli import options, report
from sweeper.core.errors import InputError, SweepBusyError, SweeperError, TrackingError
from sweeper.core.secrets import redact
from sweeper.core.text import clean

if TYPE_CHECKING:
    from sweeper.core.sweep_folder import SweepFolder
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


def sync(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> None:
    """Write to MLflow what it lacks of a sweep that has ended."""
    from sweeper import tracking
    from sweeper.study.open import lock_study, read_study

    study = read_study(name, storage)
    uri = _store_of(study, tracking_uri)  # refused before the database of the study is written to
    tracking.check_store(uri, study.sweep.tracking.experiment)
    try:
        with lock_study(name, storage) as study:
            written = tracking.sync(study, uri)
    except SweepBusyError as error:
        raise SweepBusyError(
            f"{error}. A running sweep writes to MLflow by itself; run `sweeper sync {name}` when it has ended"
        ) from error
    if json:
        report.emit(report.to_json({"name": name, "tracking_uri": redact(uri), "written": written}))
    else:
        report.emit(f"{written} records of {name} written to {redact(uri)}")


def ui(
    name: options.OptionalName = None,
    port: options.Port = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> None:
    """Start the MLflow UI and print links to a sweep."""
    from sweeper import tracking
    from sweeper.cli import console
    from sweeper.study.open import read_study

    if name is None and tracking_uri is None:
        with suppress(InputError):  # there is no sweep yet: the UI has more to show than sweeps
            name = chosen_sweep(None, storage)
    study = read_study(name, storage) if name else None
    uri = _store_of(study, tracking_uri) if study else tracking.store_uri(tracking_uri)
    if reason := tracking.check_store(uri, study.sweep.tracking.experiment if study else None, must_exist=True):
        raise TrackingError(f"MLflow at {redact(uri)} does not answer: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the server with this process
    console.print_note("Starting the MLflow UI.")
    server = tracking.start_ui(uri, port)
    try:
        links = tracking.sweep_links(study, uri, server.url) if study else []
        if json:
            report.emit(report.to_json({"url": server.url, "links": [asdict(link) for link in links]}))
        else:
            console.print_links([("the MLflow UI", server.url), *((link.title, link.url) for link in links)])
        if server.process is not None:
            console.print_note("Press Ctrl-C to end it.")
            server.process.wait()
    finally:
        server.stop()


def _store_of(study: StudyView, tracking_uri: str | None) -> str:
    """Return the MLflow store that the options name, otherwise the one that the sweep ran with."""
    from sweeper import tracking

    return tracking.tracking_uri(study.sweep, tracking_uri or study.facts.get("tracking_uri"))


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
