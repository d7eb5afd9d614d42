"""A sweep without Ray, in a process of its own: it writes down what the study has acknowledged, on another disk."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from sweeper.core.errors import SweeperError
from sweeper.core.trials import Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.open import open_study


class Witness:
    """Keeps every acknowledgement of the study, each on the disk before the next step is made."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def say(self, *words: object) -> None:
        self._file.write(" ".join(map(str, words)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Told here nothing that counts: the study's answer counts."""

    def on_phase(self, message: str) -> None:
        self.say("phase", message)


def main(storage: str, witness: Path, trials: int, pause: float) -> int:
    """Run a sweep to its end, or take it up; the exit code is that of the command line."""
    told = Witness(witness)
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
        with open_study(sweep, listeners=[told]) as study:
            while not study.is_exhausted():
                row = study.ask()
                told.say("asked", row.number, row.params["height"])
                for step in range(row.step + 1, 10):
                    time.sleep(pause)
                    study.report(row.number, Report(step, 0.0, {"score": row.params["height"] * step}))
                    told.say("reported", row.number, step)
                    if study.row(row.number).state != "RUNNING":
                        break
                told.say("ended", row.number, study.row(row.number).state)
    except SweeperError as error:
        told.say("error", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
