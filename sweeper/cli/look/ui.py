"""The verbs that show a sweep in MLflow: `ui` and `sync`."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from sweeper.cli import options, report
from sweeper.cli.look.show import chosen_sweep
from sweeper.core.errors import InputError, SweepBusyError, TrackingError
from sweeper.core.secrets import redact

if TYPE_CHECKING:
    from sweeper.study.view import StudyView


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
