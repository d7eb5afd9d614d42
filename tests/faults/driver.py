"""The command `sweeper` as the campaign runs it: it also appends to the history what its study acknowledges."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sweeper import run
from sweeper.analysis.result import SweepResult
from sweeper.cli.main import main
from sweeper.core.trials import Report, TrialRecord
from sweeper.spec import Sweep
from tests.faults.checker import PAUSED, Line, write_line


class Acknowledgements:
    """Listener that appends what the study has recorded to the history."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        if report is not None or row.state != "RUNNING":
            state = "RUNNING" if report is not None else PAUSED if row.is_paused else row.state
            line = Line("ack", row.number, row.step, row.attempt, state=state, value=row.value)
            write_line(self._folder, line)

    def on_phase(self, message: str) -> None:
        """Do nothing: the history is about trials."""


def log_acknowledgements() -> None:
    """Add the listener to every sweep of this process."""
    undisturbed = run.run_sweep

    def run_sweep(sweep: Sweep, *, listeners: Any = (), **options: Any) -> SweepResult:
        return undisturbed(sweep, listeners=[*listeners, Acknowledgements(Path.cwd())], **options)

    run.run_sweep = run_sweep


if __name__ == "__main__":
    log_acknowledgements()
    sys.exit(main())
