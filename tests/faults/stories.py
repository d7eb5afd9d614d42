"""A sweep without Ray, in a process of its own, that logs what the study has acknowledged to a file on another disk."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from sweeper.core.errors import SweeperError
from sweeper.core.trials import Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.open import open_study


class AcknowledgementLog:
    """File of the study's acknowledgements. Each is synced to disk before the next step is made."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def write(self, *words: object) -> None:
        self._file.write(" ".join(map(str, words)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Do nothing: a report counts as acknowledged when the study's method returns."""

    def on_phase(self, message: str) -> None:
        self.write("phase", message)


def main(storage: str, path: Path, trials: int, pause: float) -> int:
    """Start or resume a sweep, run it to its end, and return the exit code that the command line would."""
    log = AcknowledgementLog(path)
    sweep = Sweep.from_mapping(
        {
            "name": "climbing",
            "trainable": "tests.samples:climb",
            "objective": {"metric": "score", "direction": "maximize"},
            "budget": {"trials": trials, "epochs": 9},
            "space": {"height": {"type": "float", "low": 0.0, "high": 1.0}},
            "pruner": {"type": "median", "n_startup_trials": 2},
            "sampler": {"type": "random"},
            "storage": storage,
        }
    )
    try:
        with open_study(sweep, listeners=[log]) as study:
            while not study.is_exhausted():
                row = study.ask()
                log.write("asked", row.number, row.params["height"])
                for step in range(row.step + 1, 10):
                    time.sleep(pause)
                    study.report(row.number, Report(step, 0.0, {"score": row.params["height"] * step}))
                    log.write("reported", row.number, step)
                    if study.row(row.number).state != "RUNNING":
                        break
                log.write("ended", row.number, study.row(row.number).state)
    except SweeperError as error:
        log.write("error", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
