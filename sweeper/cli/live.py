"""Live progress of a sweep on a terminal: a display that is redrawn. Elsewhere it is printed as plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sweeper.analysis.lines import PlainLines
from sweeper.analysis.progress import Progress
from sweeper.analysis.trials import describe_objective, goal_cells, position, unit, varying
from sweeper.cli.console import STATE_STYLES, columns_that_fit, err, storage_option, table
from sweeper.core.secrets import redact
from sweeper.core.text import clean, metric, scalar, shorten, tally

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.spec import Sweep

MIN_PHASE_S = 3.0
"""Seconds for which a phase is shown, such as that the sweep stops, although trials report meanwhile."""

MAX_BAR_COLUMNS = 40
MIN_BAR_COLUMNS = 10
MAX_WORKERS = 16
LINES_BESIDE_WORKERS = 9
"""Lines of the display other than those of the workers, and a few to spare."""

MIN_PLOT_LINES, MAX_PLOT_LINES = 10, 20
"""Height of what is drawn below the workers. It is left out where there is less room."""


def live_view(sweep: Sweep, tracking_uri: str | None = None, console: Console = err) -> LiveProgress | PlainLines:
    """Return what shows a sweep while it runs: a display on a terminal that can redraw it, otherwise plain lines.

    Args:
        tracking_uri: the MLflow store that the command names.
    """
    link = partial(mlflow_line, sweep, tracking_uri)
    if console.is_interactive and console.file.isatty():
        return LiveProgress(sweep, console, link=link)
    return PlainLines(sweep, link=link)


def mlflow_line(sweep: Sweep, tracking_uri: str | None) -> str:
    """Return a line that says where the sweep can be seen in MLflow."""
    from sweeper import tracking
    from sweeper.core.urls import is_http

    uri, command = tracking.tracking_uri(sweep, tracking_uri), f"sweeper ui {sweep.name}{storage_option(sweep)}"
    if is_http(uri):
        return f"MLflow: {redact(uri)}, experiment {clean(sweep.tracking.experiment)}; links to the sweep: {command}"
    return f"MLflow: {command}"


class LiveProgress:
    """Shows a sweep while it runs: a listener of the study, and a context manager around the run.

    Args:
        link: returns a line about where to see more; printed when the first trial starts.
        plot: draws something of a width and a height below the workers; None: nothing to draw.
        hint: a last line, for as long as the display is redrawn.
        refreshes: how often it is redrawn, per second.

    Attributes:
        runs_on: whether the sweep continues without this display: none of its trials is interrupted then.
    """

    runs_on = False

    def __init__(
        self,
        sweep: Sweep,
        console: Console = err,
        *,
        link: Callable[[], str] | None = None,
        plot: Callable[[int, int], str | None] | None = None,
        hint: str = "",
        refreshes: float = 4.0,
    ) -> None:
        self.progress = Progress(sweep)
        self._params = varying(sweep)
        self._console = console
        self._link = link
        self._plot = plot
        self._hint = hint
        self._phase = ""
        self._phase_began = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._spinner = Spinner("line" if console.options.ascii_only else "dots", style="cyan")
        self._live = Live(self, console=console, refresh_per_second=refreshes)

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.end()
        self._live.stop()  # the last frame stays on the screen, without workers
        self._console.print()

    def end(self) -> None:
        """Show the sweep as one that has ended: without workers."""
        self._ended.set()

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Record an event of a trial, and print a line if the trial has failed."""
        with self._lock:
            line = self.progress.record(row, report)
            if report is None or time.monotonic() - self._phase_began > MIN_PHASE_S:
                self._phase = ""
        # Print without holding the lock: rich holds its own lock while it calls `__rich__`.
        if row.state == "RUNNING" and self._link is not None:
            link, self._link = self._link, None
            self._console.print(Text(link(), "dim"), soft_wrap=True)
        if line is not None and row.state == "FAIL":
            self._console.print(Text(shorten(line, self._console.width), "red"), soft_wrap=True)

    def on_phase(self, message: str) -> None:
        """Show what the sweep does between trials."""
        with self._lock:
            self._phase = shorten(clean(message), self._console.width - 4)
            self._phase_began = time.monotonic()

    def __rich__(self) -> RenderableType:
        """Draw the display; rich calls this four times a second."""
        with self._lock:
            has_ended = self._ended.is_set()
            counts = _counts(self.progress, has_ended and not self.runs_on)
            lines: list[RenderableType] = [_title(self.progress), self._bar(), counts]
            if self.progress.best is not None:
                lines.append(_best(self.progress.best, self._params))
            if used := self.progress.used():
                lines.append(_line((used, "dim")))
            if not has_ended:
                running = sorted([*self.progress.running(), *self.progress.confirming()], key=lambda row: row.number)
                if running:
                    lines += [Text(), *self._workers(running)]
                if waits := self.progress.waits_for() or self.progress.confirms():
                    lines.append(_line((waits, "dim")))
                if self._phase:
                    self._spinner.update(text=_line((self._phase, "cyan")))
                    lines.append(self._spinner)
            lines += self._drawing(lines, has_ended)
            return Group(*lines)

    def _bar(self) -> RenderableType:
        text = _line(self.progress.summary(has_ended=self._ended.is_set()))
        width = min(MAX_BAR_COLUMNS, self._console.width - text.cell_len - 1)
        if width < MIN_BAR_COLUMNS:
            return text
        bar = ProgressBar(total=1.0, completed=self.progress.share(), width=width, complete_style="cyan")
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(bar, text)
        return grid

    def _drawing(self, lines: list[RenderableType], has_ended: bool) -> list[RenderableType]:
        """Draw the plot into the lines that are left of the terminal, and the hint below it."""
        hint: list[RenderableType] = [_line((self._hint, "dim"))] if self._hint and not has_ended else []
        if self._plot is None:
            return hint
        room = MAX_PLOT_LINES
        if self._console.is_terminal:
            used = len(self._console.render_lines(Group(*lines), pad=False))
            room = min(room, self._console.height - used - len(hint) - 2)
        drawn = self._plot(self._console.width, room) if room >= MIN_PLOT_LINES else None
        return [Text(), Text.from_ansi(drawn, no_wrap=True), *hint] if drawn else hint

    def _workers(self, running: list[TrialRecord]) -> list[RenderableType]:
        """Draw a table of the running trials that fits into the terminal, and name what did not fit."""
        sweep = self.progress.sweep
        others = LINES_BESIDE_WORKERS + (MIN_PLOT_LINES if self._plot else 0)
        limit = max(1, min(MAX_WORKERS, self._console.height - others)) if self._console.is_terminal else MAX_WORKERS
        has_nodes = len({row.node for row in self.progress.rows.values() if row.node}) > 1
        columns = ["trial", unit(sweep.budget).removesuffix("s"), *(clean(goal.metric) for goal in sweep.goals)]
        columns += ["node"] * has_nodes + [clean(name) for name in self._params]
        rows = [self._worker(row, has_nodes) for row in running[:limit]]
        fitting = max(2, columns_that_fit(columns, rows, self._console.width))
        workers = table(columns[:fitting])
        for cells in rows:
            workers.add_row(*(Text(shorten(cell)) for cell in cells[:fitting]))
        rest = [f"and {len(running) - len(rows)} more"] * (len(running) > len(rows))
        rest += [f"too narrow for {', '.join(columns[fitting:])}"] * (fitting < len(columns))
        return [workers, *([_line(("; ".join(rest), "dim"))] if rest else [])]

    def _worker(self, row: TrialRecord, has_nodes: bool) -> list[str]:
        number = f"{row.number}" if row.confirms is None else f"{row.confirms.trial}, seed {row.confirms.run}"
        number += "" if row.attempt == 1 else f" (attempt {row.attempt})"
        node = [clean(row.node or "")] if has_nodes else []
        params = [scalar(row.params[name]) if name in row.params else "" for name in self._params]
        place = position(row, self.progress.sweep).partition(" ")[2]
        return [number, place, *goal_cells(row, self.progress.sweep), *node, *params]


def _title(progress: Progress) -> Text:
    budget, goal = progress.sweep.budget, describe_objective(progress.sweep)
    length = f"{budget.epoch_of(budget.reports):g} {unit(budget)}"
    return _line((progress.sweep.name, "bold"), (f"  {goal}, {progress.trials} trials of {length}", "dim"))


def _counts(progress: Progress, has_ended: bool) -> Text:
    counts = progress.counts(has_ended=has_ended)
    parts = [(tally({state: counts[state]}), style) for state, style in STATE_STYLES.items() if counts.get(state)]
    to_come = progress.trials - len(progress.rows)
    if to_come > 0:
        parts.append((f"{to_come} to come", "dim"))
    joined = [piece for part in parts for piece in ((", ", ""), part)]
    return _line(*joined[1:])


def _best(best: TrialRecord, names: list[str]) -> Text:
    params = "  ".join(f"{clean(name)}={scalar(best.params[name])}" for name in names if name in best.params)
    return _line("best ", (metric(best.value), "bold green"), f" in trial {best.number}  ", (params, "dim"))


def _line(*parts: str | tuple[str, str]) -> Text:
    """Make one line that is cut, never wrapped, on a narrow terminal."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
