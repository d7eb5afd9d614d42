"""The command `sweeper` as the campaign runs it: whatever its study acknowledges is written into the history."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sweeper import run
from sweeper.cli.main import main
from sweeper.core.trials import Report, TrialRecord
from sweeper.run import SweepResult
from sweeper.spec import Sweep
from tests.faults.checker import Line, write_line


class Acknowledgements:
    """Writes down what the study says is on record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        if report is not None or row.state != "RUNNING":
            state = "RUNNING" if report is not None else row.state
            line = Line("ack", row.number, row.step, row.attempt, state=state, value=row.value)
            write_line(self._folder, line)

    def on_phase(self, message: str) -> None:
        """The history is about trials."""


def acknowledge() -> None:
    """Give each sweep of this process one listener more."""
    undisturbed = run.run_sweep

    def run_sweep(sweep: Sweep, *, listeners: Any = (), **options: Any) -> SweepResult:
        return undisturbed(sweep, listeners=[*listeners, Acknowledgements(Path.cwd())], **options)

    run.run_sweep = run_sweep


if __name__ == "__main__":
    acknowledge()
    sys.exit(main())
