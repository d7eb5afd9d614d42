"""The verbs of the command line: each parses, calls one core function, and prints.

Imports of weight stand inside the verbs: `sweeper --help` is asked often and has to answer at once.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.cli import console, options, report
from sweeper.core.errors import InputError, SpecError, SweepBusyError, SweeperError
from sweeper.core.secrets import redact

if TYPE_CHECKING:
    from sweeper.study.view import StudyView


def validate(files: options.Files, json: options.Json = False, debug: options.Debug = False) -> None:
    """Check sweep files: a summary of each, or all its faults with their places."""
    from sweeper.spec import load_sweep

    verdicts: list[dict[str, Any]] = []
    faults: list[str] = []
    for file in files:
        verdict: dict[str, Any] = {"file": str(file), "ok": True, "summary": None, "warnings": [], "problems": []}
        verdicts.append(verdict)
        try:
            sweep = load_sweep(file)
        except SpecError as error:
            verdict |= {"ok": False, "problems": [asdict(problem) for problem in error.problems]}
            faults.append(str(error))
            continue
        verdict |= {"summary": report.sweep_line(sweep), "warnings": sweep.warnings()}
        if not json:
            console.emit(f"{file}  {verdict['summary']}")
            for warning in verdict["warnings"]:
                console.print_note(f"{file}  {warning}")
    if json:
        console.emit(report.to_json(verdicts))
    if faults:
        raise InputError("\n".join(faults))


def schema() -> None:
    """Print the JSON Schema of sweep files, from which editors complete and check."""
    from sweeper.spec import sweep_schema

    console.emit(report.to_json(sweep_schema()))


def list_sweeps(
    storage: options.Storage = options.DEFAULT_STORAGE, json: options.Json = False, debug: options.Debug = False
) -> None:
    """List the sweeps of a database, newest first."""
    from sweeper.study import open

    summaries = open.list_sweeps(storage)
    if json:
        console.emit(report.to_json([asdict(summary) for summary in summaries]))
    else:
        console.print_sweeps(summaries)


def show(
    name: options.Name,
    everything: options.All = False,
    csv: options.Csv = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the leaderboard of a sweep, running or not."""
    from sweeper.study.open import read_study

    study = read_study(name, storage)
    rows = study.leaderboard()
    if json:
        console.emit(report.to_json(report.study_document(study.sweep, rows, study.attempts())))
    elif csv:
        console.emit(report.to_csv(study.sweep, rows))
    else:
        console.print_leaderboard(study.sweep, rows, study.attempts(), limit=None if everything else 20)


def best(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print the best parameters as YAML, to paste into the `space` of a sweep."""
    from sweeper.study.open import read_study

    study = read_study(name, storage)
    row = study.best()
    if row is None:
        raise SweeperError(f"no trial of sweep {name!r} has completed yet")
    if json:
        console.emit(report.to_json(report.trial_document(study.sweep, row)))
    else:
        console.emit(report.best_yaml(study.sweep, row))


def sync(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Copy into MLflow what it lacks of a sweep; as often as you like."""
    from sweeper import tracking
    from sweeper.study.open import lock_study

    try:
        with lock_study(name, storage) as study:
            uri = _store_of(study, tracking_uri)
            written = tracking.sync(study, uri)
    except SweepBusyError as error:
        raise SweepBusyError(
            f"{error}. A running sweep copies itself into MLflow; sync it when it has ended"
        ) from error
    if json:
        console.emit(report.to_json({"name": name, "tracking_uri": redact(uri), "written": written}))
    else:
        console.emit(f"{written} records of {name} written to {redact(uri)}")


def ui(
    name: options.AnyName = None,
    port: options.Port = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Start the MLflow UI, print the links that show a sweep, and serve until Ctrl-C."""
    from sweeper import tracking
    from sweeper.study.open import read_study

    study = read_study(name, storage) if name else None
    uri = _store_of(study, tracking_uri) if study else options.tracking_store(tracking_uri)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended with us
    console.print_note("starting the MLflow UI")
    server = tracking.start_ui(uri, port)
    try:
        links = tracking.sweep_links(study, uri, server.url) if study else []
        if json:
            console.emit(report.to_json({"url": server.url, "links": [asdict(link) for link in links]}))
        else:
            console.print_links([("the MLflow UI", server.url), *((link.title, link.url) for link in links)])
        if server.process is not None:
            console.print_note("Ctrl-C ends it")
            server.process.wait()
    finally:
        server.stop()


def doctor(
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    address: options.Cluster = None,
    folder: options.SharedFolder = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Check versions, data, devices, room and stores; say what is wrong and what to do."""
    from sweeper.cli.doctor import examine
    from sweeper.cli.doctor_cluster import check_cluster

    cluster = partial(check_cluster, address, folder, insecure=insecure) if address is not None else None
    checks = []
    for check in examine(storage, tracking_uri, cluster=cluster):
        checks.append(check)
        if not json:
            console.print_check(check)
    if json:
        console.emit(report.to_json([asdict(check) for check in checks]))
    return int(any(check.state == "fail" for check in checks))


def _store_of(study: StudyView, tracking_uri: str | None) -> str:
    """The MLflow store that the sweep ran with, unless another is named."""
    from sweeper import tracking

    return tracking.tracking_uri(study.sweep, tracking_uri or study.facts.get("tracking_uri"))
