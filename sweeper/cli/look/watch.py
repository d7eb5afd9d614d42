"""The verb `watch`: the live view of a sweep that another process runs, from any terminal."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sweeper.cli import options, report
from sweeper.cli.cluster import reach
from sweeper.cli.goals import goals_document
from sweeper.cli.look.show import chosen_sweep
from sweeper.cli.look.terminal import keys, orderly_end, reader
from sweeper.core.errors import InputError, StorageError
from sweeper.core.secrets import redact
from sweeper.core.trials import pareto_front

if TYPE_CHECKING:
    from sweeper.analysis.curves import Curve
    from sweeper.analysis.progress import Progress
    from sweeper.cli.live import LiveProgress
    from sweeper.cli.look.watcher import Watcher
    from sweeper.study.storage.follow import FollowedStudy

POLL_INTERVAL_S = 1.0
MAX_POLLING_SHARE = 0.05
"""Largest share of the time that is spent on reading: a slow database is read less often."""

MAX_PLOT_WIDTH = 120

MAX_OUTAGE_S = 300.0
"""Longest wait for a database that cannot be read; the sweep itself waits no longer."""


def watch(
    name: options.OptionalName = None,
    once: options.Once = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> int:
    """Show a running sweep live, from any terminal; q leaves it."""
    from sweeper.analysis.names import parse_target
    from sweeper.cli.console import print_note
    from sweeper.study.storage.follow import follow_study

    chosen, trials = parse_target(chosen_sweep(name, storage))
    if trials:
        follow = f"To follow one trial: sweeper logs {chosen} {trials[0]} --follow"
        raise InputError(f"{name} is a trial, and `watch` shows whole sweeps: sweeper watch {chosen}. {follow}")
    with orderly_end():
        study = follow_study(chosen, storage)
        if once or json or not study.is_running:
            _print_once(study, storage, json=json)
            return 0
        while study.is_running:
            if not _show(study):
                print_note(f"{chosen} continues. Watch it again with: {_command('watch', study, storage)}")
                return 0
            study = follow_study(chosen, storage)  # another process may have resumed it by now
        _print_end(study, _attached(study)[0].progress, storage)
        return 0
    print_note(f"Left. Sweep {chosen} is not affected.")
    return 130


def _show(study: FollowedStudy) -> bool:
    """Show a sweep until the process that runs it ends; return False if the user leaves it before."""
    from sweeper.analysis.lines import PlainLines
    from sweeper.cli.console import out
    from sweeper.cli.look.watcher import Watcher, headline

    with ExitStack() as stack:
        view: LiveProgress | PlainLines
        screen: LiveProgress | None = None
        if out.is_interactive and out.file.isatty():
            screen, watcher = _attached(study, hint="q leaves; the sweep continues")
            view, has_left, screen.runs_on = screen, stack.enter_context(keys()), True
        else:
            view = PlainLines(study.sweep, sys.stdout)
            watcher, has_left = Watcher(study, view), stack.enter_context(reader())
            view.on_phase(headline(study, view.progress))
            watcher.announce()
        stack.enter_context(view)
        poller = _Poller(watcher)
        stack.callback(poller.left.set)
        poller.start()
        while poller.is_alive():
            if has_left():
                return False
        if screen is not None:
            screen.runs_on = poller.error is not None
    if poller.error is not None:
        raise poller.error
    return True


def _attached(study: FollowedStudy, hint: str = "") -> tuple[LiveProgress, Watcher]:
    """Make the view of a sweep, with its trials until now, and what keeps it up to date."""
    from sweeper.cli.console import out
    from sweeper.cli.live import LiveProgress
    from sweeper.cli.look.watcher import Watcher

    plot = _Plot(study)
    # Drawing takes most of what `watch` needs, and the sweep may need all processors: once for each reading.
    view = LiveProgress(study.sweep, out, plot=plot.draw, hint=hint, refreshes=1 / POLL_INTERVAL_S)
    plot.watcher = watcher = Watcher(study, view)
    watcher.announce()
    return view, watcher


class _Plot:
    """Learning curves of the best and the running trials, drawn again only if they or the size have changed."""

    watcher: Watcher

    def __init__(self, study: FollowedStudy) -> None:
        self._sweep = study.sweep
        self._drawn: tuple[tuple[tuple[Curve, ...], int, int], str | None] | None = None

    def draw(self, width: int, height: int) -> str | None:
        from sweeper.analysis.trials import unit
        from sweeper.cli.look.plots import draw_curves

        key = (self.watcher.curves, width, height)
        if self._drawn is None or self._drawn[0] != key:
            curves = [curve for curve in key[0] if curve.values]
            names = {curve.number: f"trial {curve.number}" for curve in curves}
            names |= {curve.number: f"trial {curve.number}, the best" for curve in curves if curve.state == "COMPLETE"}
            title, by = self._sweep.objective.metric, unit(self._sweep.budget)
            size: dict[str, Any] = {"width": min(width, MAX_PLOT_WIDTH), "height": height, "title": title, "unit": by}
            self._drawn = key, draw_curves(curves, highlight=names.keys(), names=names, **size) if curves else None
        return self._drawn[1]


class _Poller(threading.Thread):
    """Reads a sweep in the background, until its process ends: while a database does not answer, `q` still leaves."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__(name="sweeper-watch", daemon=True)
        self.error: Exception | None = None
        self.left = threading.Event()
        self._watcher = watcher

    def run(self) -> None:
        try:
            self._poll_until_it_ends()
        except Exception as error:
            self.error = error

    def _poll_until_it_ends(self) -> None:
        read_at, pause = time.monotonic(), POLL_INTERVAL_S
        while not self.left.wait(pause):
            began = time.monotonic()
            try:
                if not self._watcher.poll():
                    return
                read_at = time.monotonic()
            except StorageError as error:
                if began - read_at > MAX_OUTAGE_S:
                    raise
                self._watcher.announce_outage(str(error), began - read_at)
            pause = max(POLL_INTERVAL_S, (time.monotonic() - began) / MAX_POLLING_SHARE)


def _print_once(study: FollowedStudy, storage: str, *, json: bool) -> None:
    """Print the state of a sweep as it is now; of one that does not run, with the commands for it."""
    from sweeper.cli.console import print_table

    view, watcher = _attached(study)
    if json:
        report.emit(report.to_json(_document(study, view.progress, watcher)))
        return
    if study.is_running:
        print_table(view)
        return
    view.end()
    print_table(view)
    report.emit("")
    _print_end(study, view.progress, storage)


def _print_end(study: FollowedStudy, progress: Progress, storage: str) -> None:
    """Print how a sweep ended, and the next commands."""
    from sweeper.cli.console import print_links
    from sweeper.cli.look.watcher import headline, state_of

    counts = progress.counts(has_ended=True)
    verbs = ["resume"] * (state_of(study) == "stopped") + ["retry"] * bool(counts.get("FAIL"))
    verbs = [] if reach.asked() else verbs  # there a sweep is submitted again
    verbs += ["show"] + ["best", "ui"] * (progress.best is not None)
    report.emit(headline(study, progress))
    commands = [_command(verb, study, storage) for verb in verbs]
    print_links([("" if index else "next", command) for index, command in enumerate(commands)])


def _document(study: FollowedStudy, progress: Progress, watcher: Watcher) -> dict[str, Any]:
    """Build the document of `watch --json`."""
    from sweeper.cli.look.watcher import state_of

    sweep, holder, left = study.sweep, study.holder if study.is_running else None, progress.seconds_left()
    running = sorted(progress.running(), key=lambda row: row.number)
    return {
        "name": study.name,
        "state": state_of(study),
        "metric": sweep.objective.metric,
        "direction": sweep.objective.direction,
        **goals_document(sweep, pareto_front(progress.rows.values(), sweep.objective.direction)),
        "counts": progress.counts(),
        "interrupted": 0 if study.is_running else len(running),
        "trials": study.trial_limit,
        "share": round(progress.share(), 4),
        "elapsed_seconds": round(progress.elapsed(), 1),
        "seconds_left": None if left is None or not study.is_running else [round(seconds, 1) for seconds in left],
        "process": None if holder is None else {"pid": holder.pid, "host": holder.host},
        "best": None if progress.best is None else report.trial_document(sweep, progress.best),
        "running": [report.trial_document(sweep, row) for row in running] if study.is_running else [],
        "curves": [asdict(curve) for curve in watcher.curves],
    }


def _command(verb: str, study: FollowedStudy, storage: str) -> str:
    """Return a command for a sweep; the URL of its database as it was given, without a password."""
    from sweeper.cli.console import storage_option

    if (cluster := reach.storage_option()) is not None:
        return f"sweeper {verb} {shlex.quote(study.name)}{cluster}"
    is_default = storage in (options.DEFAULT_STORAGE, os.environ.get("SWEEPER_STORAGE"))
    option = "" if is_default else f" --storage {shlex.quote(redact(storage))}"
    with suppress(InputError):  # the sweep may refer to a variable that is not set here
        option = storage_option(study.sweep) if storage == study.sweep.storage_url() else option
    return f"sweeper {verb} {shlex.quote(study.name)}{option}"
