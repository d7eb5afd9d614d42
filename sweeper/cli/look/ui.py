"""The verbs that show a sweep in MLflow: `ui` and `sync`."""

from __future__ import annotations

import json as json_format
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sweeper.cli import options, report
from sweeper.cli.cluster import reach
from sweeper.cli.look.show import chosen_sweep
from sweeper.core.errors import InputError, SweepBusyError, TrackingError
from sweeper.core.secrets import redact

if TYPE_CHECKING:
    from sweeper.study.view import StudyView
    from sweeper.tracking import Link, Ui

LOCAL_PORT = 5000
"""Port in links into a UI of a local store that has not been started yet."""

_DASHBOARD_STORAGE = "SWEEPER_DASHBOARD_STORAGE"
_DASHBOARD = (
    "import os; from optuna_dashboard import run_server; "
    "run_server(os.environ.pop('{name}'), host='127.0.0.1', port={port})"
)


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
    uri = store_of(study, tracking_uri)  # refused before the database of the study is written to
    tracking.check_store(uri, study.sweep.tracking.experiment)
    try:
        with lock_study(name, storage) as study:
            written = tracking.sync(study, uri)
    except SweepBusyError as error:
        raise SweepBusyError(
            f"{error}. A running sweep writes to MLflow by itself; run `sweeper sync {name}` when it has ended"
        ) from error
    if json:
        report.emit(report.to_json({"name": name, "tracking_uri": reach.shown(redact(uri)), "written": written}))
    else:
        report.emit(f"{written} records of {name} written to {reach.shown(redact(uri))}")


def ui(
    name: options.OptionalName = None,
    port: options.Port = None,
    optuna: options.OptunaDashboard = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> None:
    """Start the MLflow UI and print links to a sweep; with --optuna, the dashboard of Optuna."""
    from sweeper import tracking
    from sweeper.analysis.report.optuna_study import most_important
    from sweeper.cli import console
    from sweeper.study.open import read_study

    if optuna:
        _show_dashboard(name, port, storage, tracking_uri, json=json)
        return
    if name is None and tracking_uri is None:
        with suppress(InputError):  # there is no sweep yet: the UI has more to show than sweeps
            name = chosen_sweep(None, storage)
    study = read_study(name, storage) if name else None
    uri = store_of(study, tracking_uri, port) if study else reach.local(tracking.store_uri(tracking_uri), port)
    if reason := tracking.check_store(uri, study.sweep.tracking.experiment if study else None, must_exist=True):
        raise TrackingError(f"MLflow at {redact(uri)} does not answer: {reason}")
    console.print_note("Starting the MLflow UI.")

    def links_in(server: Ui) -> list[Link]:
        if study is None:
            return []
        return tracking.sweep_links(study, uri, server.url, important=most_important(study)[:2])

    _serve("the MLflow UI", lambda: tracking.start_ui(uri, port), links_in, json=json)


def _show_dashboard(name: str | None, port: int | None, storage: str, tracking_uri: str | None, *, json: bool) -> None:
    """Start optuna-dashboard on the database of studies."""
    from sweeper import tracking
    from sweeper.cli import console
    from sweeper.study.open import read_study

    if tracking_uri is not None:
        raise InputError("--tracking-uri names a store of MLflow, and --optuna shows the database of --storage")
    if find_spec("optuna_dashboard") is None:
        raise InputError("optuna-dashboard is not installed. Install it with: pip install 'sweeper[dashboard]'")
    study = read_study(chosen_sweep(name, storage), storage)

    def command(chosen: int) -> tuple[list[str], dict[str, str]]:
        # The URL is not on the command line, where every user could read its password.
        words = [sys.executable, "-c", _DASHBOARD.format(name=_DASHBOARD_STORAGE, port=chosen)]
        return words, {_DASHBOARD_STORAGE: storage}

    def links_in(server: Ui) -> list[Link]:
        return [tracking.Link(study.name, f"{server.url}/dashboard{_page_of(study.name, server.url)}")]

    console.print_note("Starting optuna-dashboard.")
    start = partial(tracking.start_server, "optuna-dashboard", command, port, health="dashboard")
    _serve("optuna-dashboard", start, links_in, json=json)


def _page_of(name: str, url: str) -> str:
    """Return the path of a study in optuna-dashboard, which numbers its studies; empty if it does not tell."""
    from urllib.request import urlopen

    try:
        with urlopen(f"{url}/api/studies", timeout=10) as answer:
            found = json_format.load(answer)["study_summaries"]
        return next(f"/studies/{study['study_id']}" for study in found if study["study_name"] == name)
    except (OSError, ValueError, KeyError, StopIteration):
        return ""


def _serve(title: str, start: Callable[[], Ui], links_in: Callable[[Ui], list[Link]], *, json: bool) -> None:
    """Start a server, print its address and links into it, and wait until it ends or this process is ended."""
    from sweeper.cli import console

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the server with this process
    server = start()
    try:
        links = links_in(server)
        if json:
            report.emit(report.to_json({"url": server.url, "links": [asdict(link) for link in links]}))
        else:
            console.print_links([(title, server.url), *((link.title, link.url) for link in links)])
        if server.process is not None:
            console.print_note("Press Ctrl-C to end it.")
            server.process.wait()
        elif reach.is_forwarded(server.url):
            console.print_note(f"It is forwarded from {reach.asked()} until you press Ctrl-C.")
            threading.Event().wait()
    finally:
        server.stop()


def store_of(study: StudyView, tracking_uri: str | None, port: int | None = None) -> str:
    """Return the MLflow store that the options name, otherwise the one that the sweep ran with.

    Args:
        port: the port to forward to a store in a cluster; None: any free one.
    """
    from sweeper import tracking

    return reach.local(tracking.tracking_uri(study.sweep, tracking_uri or study.facts.get("tracking_uri")), port)
