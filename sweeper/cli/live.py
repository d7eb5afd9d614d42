"""Live progress of a sweep: a display that is redrawn on a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sweeper.cli.console import STATE_STYLES, columns_that_fit, err, shorten, table
from sweeper.cli.progress import Progress
from sweeper.cli.report import clean, duration, metric, scalar, tally, unit, varying

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.spec import Sweep

MAX_BAR_COLUMNS = 40
MIN_BAR_COLUMNS = 10
MAX_WORKERS = 16
LINES_BESIDE_WORKERS = 9
"""Lines of the display other than those of the workers, and a few to spare."""


class LiveProgress:
    """Shows a sweep while it runs: a listener of the study, and a context manager around the run.

    Args:
        live: redraw in place; by default only on a terminal that supports it.
        heartbeat: seconds without output after which plain output prints a summary.
    """

    def __init__(
        self, sweep: Sweep, console: Console = err, *, live: bool | None = None, heartbeat: float = 30.0
    ) -> None:
        self.progress = Progress(sweep)
        self._params = varying(sweep)
        self._console = console
        self._phase = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heartbeat = heartbeat
        self._last_line = time.monotonic()
        self._spinner = Spinner("line" if console.options.ascii_only else "dots", style="cyan")
        self._live: Live | None = None
        if (console.is_interactive and console.file.isatty()) if live is None else live:
            self._live = Live(self, console=console, refresh_per_second=4)

    def __enter__(self) -> LiveProgress:
        if self._live is not None:
            self._live.start()
        else:
            threading.Thread(target=self._beat, name="sweeper-heartbeat", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()  # the last frame stays on the screen, without workers
            self._console.print()

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Record an event of a trial, and print a line if the trial has ended."""
        known = self.progress.rows.get(row.number)
        with self._lock:
            self.progress.record(row, report)
            self._phase = ""
            line = (
                self.progress.ending(row) if known is not None and row.state not in (known.state, "RUNNING") else None
            )
        # Print without holding the lock: rich holds its own lock while it calls `__rich__`.
        if line is not None and (self._live is None or row.state == "FAIL"):
            self._print(line, "red" if row.state == "FAIL" else "")

    def on_phase(self, message: str) -> None:
        """Show what the sweep does between trials."""
        with self._lock:
            self._phase = shorten(clean(message), self._console.width - 4)
        if self._live is None:
            self._print(self._phase)

    def __rich__(self) -> RenderableType:
        """Draw the display; rich calls this four times a second."""
        with self._lock:
            lines: list[RenderableType] = [_title(self.progress), self._bar(), _counts(self.progress)]
            if self.progress.best is not None:
                lines.append(_best(self.progress.best, self._params))
            if not self._ended.is_set():
                running = sorted(self.progress.running(), key=lambda row: row.number)
                if running:
                    lines += [Text(), *self._workers(running)]
                if self._phase:
                    self._spinner.update(text=_line((self._phase, "cyan")))
                    lines.append(self._spinner)
            return Group(*lines)

    def _print(self, line: str, style: str = "") -> None:
        self._last_line = time.monotonic()
        stamp = "" if self._live is not None else f"[{duration(int(self.progress.elapsed()))}] "
        self._console.print(Text.assemble((stamp, "dim"), (line, style)), soft_wrap=True)

    def _beat(self) -> None:
        while not self._ended.wait(max(0.01, self._heartbeat - (time.monotonic() - self._last_line))):
            if time.monotonic() - self._last_line >= self._heartbeat:
                with self._lock:
                    line = f"{tally(self.progress.counts())}; {self.progress.summary()}{self.progress.best_so_far()}"
                self._print(line)

    def _bar(self) -> RenderableType:
        text = _line(self.progress.summary(has_ended=self._ended.is_set()))
        width = min(MAX_BAR_COLUMNS, self._console.width - text.cell_len - 1)
        if width < MIN_BAR_COLUMNS:
            return text
        bar = ProgressBar(total=1.0, completed=self.progress.share(), width=width, complete_style="cyan")
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(bar, text)
        return grid

    def _workers(self, running: list[TrialRecord]) -> list[RenderableType]:
        """Draw a table of the running trials that fits into the terminal."""
        sweep = self.progress.sweep
        limit = max(1, min(MAX_WORKERS, self._console.height - LINES_BESIDE_WORKERS))
        has_nodes = len({row.node for row in self.progress.rows.values() if row.node}) > 1
        columns = ["trial", unit(sweep.budget).removesuffix("s"), clean(sweep.objective.metric)]
        columns += ["node"] * has_nodes + [clean(name) for name in self._params]
        rows = [self._worker(row, has_nodes) for row in running[:limit]]
        fitting = max(2, columns_that_fit(columns, rows, self._console.width))
        workers = table(columns[:fitting])
        for cells in rows:
            workers.add_row(*(Text(shorten(cell)) for cell in cells[:fitting]))
        more = len(running) - len(rows)
        return [workers, *([_line((f"and {more} more", "dim"))] if more else [])]

    def _worker(self, row: TrialRecord, has_nodes: bool) -> list[str]:
        number = f"{row.number}" if row.attempt == 1 else f"{row.number} (attempt {row.attempt})"
        node = [clean(row.node or "")] if has_nodes else []
        params = [scalar(row.params[name]) if name in row.params else "" for name in self._params]
        position = self.progress.position(row).partition(" ")[2]
        return [number, position, metric(row.value), *node, *params]


def _title(progress: Progress) -> Text:
    budget, objective = progress.sweep.budget, progress.sweep.objective
    length = f"{budget.epoch_of(budget.reports):g} {unit(budget)}"
    goal = f"{objective.direction} {clean(objective.metric)}"
    return _line((progress.sweep.name, "bold"), (f"  {goal}, {progress.trials} trials of {length}", "dim"))


def _counts(progress: Progress) -> Text:
    counts = progress.counts()
    parts = [(tally({state: counts[state]}), style) for state, style in STATE_STYLES.items() if counts[state]]
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
