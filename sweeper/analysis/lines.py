"""A sweep while it runs, as plain lines on a stream: one for each phase and each trial that ends, and a heartbeat."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self, TextIO

from sweeper.analysis.progress import Progress
from sweeper.core.secrets import redact
from sweeper.core.text import clean, duration, tally

if TYPE_CHECKING:
    from sweeper.core.trials import Listener, Report, TrialRecord
    from sweeper.spec import Sweep

HEARTBEAT_S = 30.0
"""Seconds without output after which a summary is printed."""


@contextmanager
def plain_lines(sweep: Sweep, wanted: bool | None) -> Iterator[list[Listener]]:
    """Yield a listener that prints lines on stdout for the block, or none.

    Args:
        wanted: whether to print; None: if Python is used interactively, as in a notebook.
    """
    if not (hasattr(sys, "ps1") if wanted is None else wanted):
        yield []
        return
    with PlainLines(sweep, sys.stdout) as lines:
        yield [lines]


class PlainLines:
    """Prints a sweep while it runs: a listener of the study, and a context manager around the run.

    No line fails: a terminal or a reader that is gone must not end the sweep.

    Args:
        stream: where to print; by default the stderr of the moment.
        link: returns a line about where to see more; printed when the first trial starts.
    """

    def __init__(
        self,
        sweep: Sweep,
        stream: TextIO | None = None,
        *,
        link: Callable[[], str] | None = None,
        heartbeat: float = HEARTBEAT_S,
    ) -> None:
        self.progress = Progress(sweep)
        self._stream = stream
        self._link = link
        self._heartbeat = heartbeat
        self._last_line = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._beat, name="sweeper-heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Record an event of a trial, and print a line if the trial has ended."""
        with self._lock:
            line = self.progress.record(row, report)
        if row.state == "RUNNING" and self._link is not None:
            link, self._link = self._link, None
            self._print(link())
        if line is not None:
            self._print(line)

    def on_phase(self, message: str) -> None:
        """Print what the sweep does between trials."""
        self._print(clean(message))

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        stream = self._stream or sys.stderr
        with suppress(OSError, ValueError):  # it is gone, or closed
            stream.write(f"[{duration(int(self.progress.elapsed()))}] {redact(line)}\n")
            stream.flush()

    def _beat(self) -> None:
        while not self._ended.wait(max(0.01, self._heartbeat - (time.monotonic() - self._last_line))):
            if time.monotonic() - self._last_line >= self._heartbeat:
                with self._lock:
                    progress = self.progress
                    line = f"{tally(progress.counts())}; {progress.summary()}{progress.best_so_far()}"
                    others = progress.used(), progress.waits_for(), progress.confirms()
                    line += "".join(f"; {more}" for more in others if more)
                self._print(line)
