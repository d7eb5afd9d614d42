"""The time from the command's start to the first report of a sweep on MNIST, compared with a bare import of TensorFlow,
and the time of the commands that start nothing, compared with an empty Python.

Usage: python -m benchmarks.startup [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import keep, run, versions

SPACE = """
name: startup
dataset: {type: mnist, train: 10000, validation: 2000, test: 2000}
budget: {trials: 2, epochs: 1, reports_per_epoch: 4}
pruner: {type: none}
space: {cell: lstm, units: 64, batch_size: 64, learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}}
"""

LIGHT = {
    "python": ["-c", ""],
    "sweeper --help": ["-m", "sweeper", "--help"],
    "sweeper validate": ["-m", "sweeper", "validate", "search_spaces/lstm.yaml"],
}


def sweep() -> None:
    """Run a sweep; print the seconds to its first report, to its last one, and to its exit."""
    import json

    from sweeper.study.open import read_study

    Path("startup.yaml").write_text(SPACE)
    command = [sys.executable, "-m", "sweeper", "run", "startup.yaml"]
    started = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ended = time.time()
    study = read_study("startup", "sqlite:///sweeper.db")
    times = [report.time for row in study.rows() for report in study.reports(row.number)]
    print(json.dumps({"first": min(times) - started, "last": max(times) - started, "exit": ended - started}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweep", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sweep:
        return sweep()
    rounds: list[dict[str, Any]] = []
    print(f"{'import':>8} {'report':>8} {'beyond':>8} {'to exit':>8}   seconds")
    for _ in range(arguments.rounds):
        alone = [_import_tensorflow()]
        done = run("benchmarks.startup", "--sweep", timeout=300)
        if isinstance(done, str):
            sys.exit(done)
        alone.append(_import_tensorflow())
        rounds.append({"import": statistics.mean(alone), **done[0]})
        _show(rounds[-1])
    middle = {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}
    print("median:")
    _show(middle)
    light = {name: min(_seconds(*command) for _ in range(arguments.rounds)) for name, command in LIGHT.items()}
    for name, seconds in light.items():
        print(f"{seconds:8.2f} {seconds / light['python']:8.1f}x  {name}")
    packages = ("tensorflow", "keras", "ray", "optuna", "mlflow")
    print(keep("startup", {"versions": versions(packages), "rounds": rounds, "median": middle, "light": light}))


def _import_tensorflow() -> float:
    return _seconds("-c", "import tensorflow")


def _seconds(*arguments: str) -> float:
    with tempfile.TemporaryFile() as nothing:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=nothing, stderr=nothing)
        return time.perf_counter() - started


def _show(row: dict[str, float]) -> None:
    beyond, rest = row["first"] - row["import"], row["exit"] - row["last"]
    print(f"{row['import']:8.2f} {row['first']:8.2f} {beyond:8.2f} {rest:8.2f}", flush=True)


if __name__ == "__main__":
    main()
