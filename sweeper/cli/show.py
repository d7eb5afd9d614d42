"""The verbs that check and show: each parses, calls one function of another room, and prints.

Heavy imports, rich included, are inside the verbs, so that `sweeper --help` and `sweeper validate` answer at once.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.cli import options, report
from sweeper.core.errors import InputError, SpecError, SweepBusyError, SweeperError, TrackingError
from sweeper.core.secrets import redact

if TYPE_CHECKING:
    from sweeper.cli.doctor import Check
    from sweeper.core.sweep_folder import SweepFolder
    from sweeper.study.view import StudyView


def validate(files: options.Files, json: options.Json = False) -> None:
    """Check sweep files: print a summary of each, or all its mistakes."""
    from sweeper.spec import load_sweep

    verdicts: list[dict[str, Any]] = []
    errors: list[str] = []
    for file in files:
        verdict: dict[str, Any] = {"file": str(file), "ok": True, "summary": None, "warnings": [], "problems": []}
        verdicts.append(verdict)
        try:
            sweep = load_sweep(file)
        except SpecError as error:
            verdict |= {"ok": False, "problems": [asdict(problem) for problem in error.problems]}
            errors.append(str(error))
            continue
        verdict |= {"summary": report.sweep_line(sweep), "warnings": sweep.warnings()}
        if not json:
            report.emit(f"{file}  {verdict['summary']}")
            for warning in verdict["warnings"]:
                from sweeper.cli import console

                console.print_note(f"{file}  {warning}")
    if json:
        report.emit(report.to_json(verdicts))
    if errors:
        raise InputError("\n".join(errors))


def schema() -> None:
    """Print the JSON Schema of sweep files, for editors."""
    from sweeper.spec import sweep_schema

    report.emit(report.to_json(sweep_schema()))


def convert(space: options.File, output: options.Output = None) -> None:
    """Convert a sweep file of W&B."""
    from sweeper.core.files import written_whole
    from sweeper.spec import Sweep
    from sweeper.spec.convert import convert_file
    from sweeper.spec.yaml_file import parse_value

    text = convert_file(space)
    Sweep.from_mapping(parse_value(text))  # what it refuses of the result is a mistake of the file
    if output is None:
        report.emit(text)
    elif output.exists():
        raise InputError(f"{output} exists already. Remove it, or write to another file with --output")
    else:
        with written_whole(output) as beside:
            beside.write_text(text)


def list_sweeps(storage: options.Storage = options.DEFAULT_STORAGE, json: options.Json = False) -> None:
    """List the sweeps of a database, newest first."""
    from sweeper.cli import console
    from sweeper.study import open

    summaries = open.list_sweeps(storage)
    if json:
        report.emit(report.to_json([asdict(summary) for summary in summaries]))
    else:
        console.print_sweeps(summaries)


def show(
    name: options.Name,
    everything: options.All = False,
    csv: options.Csv = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Print the leaderboard of a sweep, running or not."""
    from sweeper.cli import console
    from sweeper.study.open import read_study

    study = read_study(name, storage)
    rows = study.leaderboard()
    if json:
        document = report.study_document(study.sweep, rows, study.attempts())
        report.emit(report.to_json(document | {"eras": study.facts.get("eras", [])}))
    elif csv:
        report.emit(report.to_csv(study.sweep, rows))
    else:
        console.print_leaderboard(study.sweep, rows, study.attempts(), limit=None if everything else 20)


def best(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Print the best parameters as YAML, to paste into a space."""
    from sweeper.study.open import read_study

    study = read_study(name, storage)
    row = study.best()
    if row is None:
        raise SweeperError(f"no trial of sweep {name!r} has completed yet")
    if json:
        report.emit(report.to_json(report.trial_document(study.sweep, row)))
    else:
        report.emit(report.best_yaml(study.sweep, row))


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


def doctor(
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    address: options.ClusterAddress = None,
    dashboard: options.Dashboard = None,
    folder: options.SharedFolder = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
) -> int:
    """Check versions, data, devices, disks and stores."""
    from sweeper.cli import console
    from sweeper.cli.doctor import examine
    from sweeper.cli.doctor.cluster import check_dashboard, check_nodes

    clusters: dict[str, Callable[[], Iterator[Check]]] = {}
    if dashboard is not None:
        clusters["dashboard"] = partial(check_dashboard, dashboard, insecure=insecure)
    if address is not None:
        clusters["cluster"] = partial(check_nodes, address, folder, insecure=insecure)
    checks = []
    for check in examine(storage, tracking_uri, clusters=clusters):
        checks.append(check)
        if not json:
            console.print_check(check)
    if json:
        report.emit(report.to_json([asdict(check) for check in checks]))
    return int(any(check.state == "fail" for check in checks))


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
        report.emit(report.clean(f"== trial {row.number}, {row.state}" + (f": {row.reason}" if row.reason else "")))
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
