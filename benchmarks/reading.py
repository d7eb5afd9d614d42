"""Seconds until `sweeper show` and its kin have printed a large study, and what reading it takes of them."""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing

from benchmarks.drivers import SPACE
from benchmarks.measure import ROOT, keep, versions

SEED_TRIALS, REPORTS = 100, 10
"""Trials that are really run; the others are copies of them in the database. Reports of each trial."""

VERBS = {
    "show": ["show", "large"],
    "show 7": ["show", "large", "7"],
    "list": ["list"],
    "show --json": ["show", "large", "--json"],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="number of trials of the study")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each command; the best counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        os.chdir(folder)
        make_study(arguments.trials)
        found = {verb: min(measure(VERBS[verb]) for _ in range(arguments.rounds)) for verb in VERBS}
        os.chdir(ROOT)
    for verb, (wall, cpu) in found.items():
        print(f"sweeper {verb:12} {wall:6.2f} s, of it CPU {cpu:5.2f} s")
    installed = versions(["sweeper", "optuna", "sqlalchemy"])
    print(f"saved in {keep('reading', {'versions': installed, 'trials': arguments.trials, 'results': found})}")


def make_study(trials: int) -> None:
    """Make the study of a sweep in the current folder: some trials through the study, the others as their copies."""
    from sweeper.core.trials import Report
    from sweeper.spec import Sweep
    from sweeper.study.open import open_study

    sweep = Sweep.from_mapping(
        {
            "name": "large",
            "trainable": "benchmarks.drivers:nothing",
            "objective": {"metric": "score"},
            "budget": {"trials": trials, "epochs": REPORTS},
            "sampler": {"type": "random"},
            "pruner": {"type": "median"},
            "space": SPACE,
            "storage": "sqlite:///sweeper.db",
        }
    )
    with open_study(sweep) as study:
        for number in range(SEED_TRIALS):
            study.ask()
            for step in range(1, REPORTS + 1):
                study.report(number, Report(step, time.time(), {"score": step / 10, "loss": 1 / step}), node="here")
    with closing(sqlite3.connect("sweeper.db")) as database, database:
        for copy in range(1, trials // SEED_TRIALS):
            _copy_trials(database, copy * SEED_TRIALS)


def _copy_trials(database: sqlite3.Connection, offset: int) -> None:
    """Copy the first trials, with numbers and ids that are larger by an offset."""
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        columns = [column for _, column, *_ in database.execute(f"PRAGMA table_info({table})")]
        key = "number" if "number" in columns else "trial_id" if "trial_id" in columns else None
        if key is None:
            continue
        # Rows of Optuna's tables have a key of their own in the first column, which SQLite assigns.
        kept = columns if columns[0] in ("sweep", "trial_id") else columns[1:]
        moved = [f"{name} + {offset}" if name in ("number", "trial_id") else name for name in kept]
        first = f"{key} < {SEED_TRIALS}" if key == "number" else f"{key} <= {SEED_TRIALS}"
        database.execute(
            f"INSERT INTO {table} ({', '.join(kept)}) SELECT {', '.join(moved)} FROM {table} WHERE {first}"
        )


def measure(command: list[str]) -> tuple[float, float]:
    """Return the seconds and the seconds of CPU of one command."""
    before, started = os.times(), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "sweeper", *command], check=True, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
