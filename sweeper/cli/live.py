"""The live progress of a sweep: a display that is redrawn on a terminal, plain lines anywhere else."""

from __future__ import annotations

import threading
import time
from math import ceil
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

_BAR = 40
_MOST_WORKERS = 16


class LiveProgress:
    """Shows a sweep while it runs; a listener of the study, and a context manager around the run.

    Args:
        live: whether to redraw in place; by default only where `console` is a terminal that can.
        heartbeat: the seconds after which plain output says where the sweep stands, if nothing else was said.
    """

    def __init__(
        self, sweep: Sweep, console: Console = err, *, live: bool | None = None, heartbeat: float = 30.0
    ) -> None:
        self.progress = Progress(sweep)
        self._sweep = sweep
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
            self._live.stop()  # the last frame stays, without workers: a summary
            self._console.print()

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        known = self.progress.rows.get(row.number)
        with self._lock:
            self.progress.see(row, report)
            self._phase = ""
            line = self._ending(row) if known is not None and row.state not in (known.state, "RUNNING") else None
        # Printed outside of the lock: rich holds its own while it asks for a frame.
        if line is not None and (self._live is None or row.state == "FAIL"):
            self._say(line, "red" if row.state == "FAIL" else "")

    def on_phase(self, message: str) -> None:
        with self._lock:
            self._phase = shorten(clean(message), self._console.width - 4)
        if self._live is None:
            self._say(self._phase)

    def __rich__(self) -> RenderableType:
        """The display as it is now; rich asks for it four times a second."""
        with self._lock:
            lines: list[RenderableType] = [self._title(), self._bar(), self._counts()]
            if self.progress.best is not None:
                lines.append(self._best(self.progress.best))
            if not self._ended.is_set():
                running = sorted(self.progress.running(), key=lambda row: row.number)
                if running:
                    lines += [Text(), *self._workers(running)]
                if self._phase:
                    self._spinner.update(text=_line((self._phase, "cyan")))
                    lines.append(self._spinner)
            return Group(*lines)

    def _say(self, line: str, style: str = "") -> None:
        self._last_line = time.monotonic()
        stamp = "" if self._live is not None else f"[{duration(int(self.progress.elapsed()))}] "
        self._console.print(Text.assemble((stamp, "dim"), (line, style)), soft_wrap=True)

    def _beat(self) -> None:
        while not self._ended.wait(max(0.01, self._heartbeat - (time.monotonic() - self._last_line))):
            if time.monotonic() - self._last_line >= self._heartbeat:
                with self._lock:
                    line = f"{tally(self.progress.counts())}; {self._how_far()}{self._best_so_far()}"
                self._say(line)

    def _ending(self, row: TrialRecord) -> str:
        word = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(row.state, row.state)
        if row.state == "FAIL":
            return f"trial {row.number} failed: {clean(row.reason or 'no reason known')}"
        value = f"{clean(self._sweep.objective.metric)} {metric(row.value)}"
        counted = f"{self.progress.ended()} of {self.progress.trials} ended"
        return f"trial {row.number} {word} at {self._reached(row)}, {value}; {counted}{self._best_so_far()}"

    def _best_so_far(self) -> str:
        best = self.progress.best
        return f"; best {metric(best.value)} (trial {best.number})" if best else ""

    def _reached(self, row: TrialRecord) -> str:
        budget = self._sweep.budget
        return f"{unit(budget).removesuffix('s')} {budget.epoch_of(row.step):g}/{budget.epoch_of(budget.reports):g}"

    def _how_far(self) -> str:
        left = self.progress.seconds_left()
        rest = f", about {duration(ceil(left))} left" if left and not self._ended.is_set() else ""
        return f"{self.progress.share():.0%}, {duration(int(self.progress.elapsed()))} elapsed{rest}"

    def _title(self) -> Text:
        budget, objective = self._sweep.budget, self._sweep.objective
        length = f"{budget.epoch_of(budget.reports):g} {unit(budget)}"
        goal = f"{objective.direction} {clean(objective.metric)}"
        return _line((self._sweep.name, "bold"), (f"  {goal}, {self.progress.trials} trials of {length}", "dim"))

    def _bar(self) -> RenderableType:
        text = _line(self._how_far())
        width = min(_BAR, self._console.width - text.cell_len - 1)
        if width < 10:
            return text
        bar = ProgressBar(total=1.0, completed=self.progress.share(), width=width, complete_style="cyan")
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(bar, text)
        return grid

    def _counts(self) -> Text:
        counts = self.progress.counts()
        parts = [(tally({state: counts[state]}), style) for state, style in STATE_STYLES.items() if counts[state]]
        to_come = self.progress.trials - len(self.progress.rows)
        if to_come > 0:
            parts.append((f"{to_come} to come", "dim"))
        joined = [piece for part in parts for piece in ((", ", ""), part)]
        return _line(*joined[1:])

    def _best(self, best: TrialRecord) -> Text:
        params = "  ".join(f"{clean(name)}={scalar(best.params[name])}" for name in self._params if name in best.params)
        return _line("best ", (metric(best.value), "bold green"), f" in trial {best.number}  ", (params, "dim"))

    def _workers(self, running: list[TrialRecord]) -> list[RenderableType]:
        """A table of the running trials, no wider and no longer than the terminal has room for."""
        limit = max(1, min(_MOST_WORKERS, self._console.height - 9))
        nodes = len({row.node for row in self.progress.rows.values() if row.node}) > 1
        columns = ["trial", unit(self._sweep.budget).removesuffix("s"), clean(self._sweep.objective.metric)]
        columns += ["node"] * nodes + [clean(name) for name in self._params]
        rows = [self._worker(row, nodes) for row in running[:limit]]
        fitting = max(2, columns_that_fit(columns, rows, self._console.width))
        made = table(columns[:fitting])
        for cells in rows:
            made.add_row(*(Text(shorten(cell)) for cell in cells[:fitting]))
        more = len(running) - len(rows)
        return [made, *([_line((f"and {more} more", "dim"))] if more else [])]

    def _worker(self, row: TrialRecord, nodes: bool) -> list[str]:
        number = f"{row.number}" if row.attempt == 1 else f"{row.number} (attempt {row.attempt})"
        node = [clean(row.node or "")] if nodes else []
        params = [scalar(row.params[name]) if name in row.params else "" for name in self._params]
        reached = self._reached(row).partition(" ")[2]
        return [number, reached, metric(row.value), *node, *params]


def _line(*parts: str | tuple[str, str]) -> Text:
    """One line that is cut, never wrapped, where the terminal is too narrow."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
