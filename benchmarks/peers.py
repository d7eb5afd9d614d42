"""The same 48 configurations on the same cores, by sweeper, by its peers, and by the training alone."""

from __future__ import annotations

import argparse
import sys
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import keep, run, versions
from benchmarks.recipes import PRUNING, RECIPES
from benchmarks.workload import EPOCHS, PARALLEL, TRAIN, missing_data

_BARE = ("bare training", "bare training, side by side")
_NOT_INSTALLED = "not installed"


def main() -> None:
    arguments = _arguments()
    if (missing := missing_data()) is not None:
        sys.exit(f"error: {missing}")
    installed = versions(["sweeper", *sorted({package for package, _ in RECIPES.values()} - {"sweeper"}), "tensorflow"])
    results: dict[str, list[Any]] = {name: [] for name in arguments.only}
    for _ in range(arguments.rounds):
        for name in arguments.only:
            results[name].append(_measure(name, arguments.trials, installed, arguments.timeout))
    record = {"trials": arguments.trials, "epochs": EPOCHS, "images": TRAIN, "versions": installed, "results": results}
    console = Console(width=120)
    console.print(_table(arguments.trials, results))
    for sentence in filter(None, (_efficiency(results, ideal) for ideal in _BARE)):
        console.print(sentence)
    console.print(", ".join(f"{name} {number}" for name, number in installed.items()))
    console.print(f"saved in {keep('peers', record)}")
    if any(isinstance(run, str) and not run.startswith(_NOT_INSTALLED) for runs in results.values() for run in runs):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--trials", type=int, default=48, help="how many of the 48 configurations to run")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each peer, in turns")
    parser.add_argument("--only", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="PEER")
    parser.add_argument("--timeout", type=float, default=3600, help="longest duration of one run, in seconds")
    return parser.parse_args()


def _measure(name: str, trials: int, installed: dict[str, str], timeout: float) -> dict[str, float] | str:
    package, _ = RECIPES[name]
    if installed[package] == "not installed":
        return f"{_NOT_INSTALLED}: pip install {package}"
    answer = run("benchmarks.recipes", name, trials, timeout=timeout)
    if isinstance(answer, str):
        return answer
    measured, started = answer
    if failure := shortfall(measured, trials, prunes=name in PRUNING):
        return failure
    seconds = {"seconds": measured["last"] - started}
    return {**measured, **seconds, **({"to_first": measured["first"] - started} if "first" in measured else {})}


def shortfall(measured: dict[str, float], trials: int, *, prunes: bool) -> str | None:
    """Return what was not trained of the work, None if it was: a side whose trials failed has no time to compare."""
    epochs = trials * (1 if prunes else EPOCHS)
    if measured["trials"] >= trials and measured["epochs"] >= epochs:
        return None
    return f"failed: {measured['trials']:.0f} of {trials} trials, {measured['epochs']:.0f} of {epochs} epochs"


def _table(trials: int, results: dict[str, list[Any]]) -> Table:
    table = Table(title=f"{trials} configurations, {TRAIN:,} images, {EPOCHS} epochs, {PARALLEL} at a time")
    table.add_column("")
    for heading in ("s to the last result", "of sweeper's", "trials", "epochs"):
        table.add_column(heading, justify="right")
    seconds = {name: _seconds(runs) for name, runs in results.items()}
    own = seconds.get("sweeper run")
    for name, runs in results.items():
        took = seconds[name]
        if (failure := next((run for run in runs if isinstance(run, str)), None)) is not None or took is None:
            table.add_row(name, failure)
            continue
        last = next(run for run in reversed(runs) if not isinstance(run, str))
        ratio = f"{took / own:.2f}" if own else ""
        table.add_row(name, f"{took:.1f}", ratio, f"{last['trials']:.0f}", f"{last['epochs']:.0f}")
        if "training" in last:
            ideal = last["training"] / PARALLEL
            table.add_row(f"ideal: that over {PARALLEL} cores", f"{ideal:.1f}", f"{ideal / own:.2f}" if own else "")
    return table


def _efficiency(results: dict[str, list[Any]], ideal_name: str) -> str | None:
    """Return a sentence on how much of the time from sweeper's first report to its last was training."""
    runs, bare = (
        [run for run in results.get(name, []) if isinstance(run, dict)] for name in ("sweeper run", ideal_name)
    )
    if not runs or not bare:
        return None
    ideal = median(run["training"] for run in bare) / PARALLEL
    shares = [ideal / (run["last"] - run["first"]) for run in runs]
    firsts = ", ".join(f"{run['to_first']:.1f}" for run in runs)
    return (
        f"sweeper: first report after {firsts} s; of the time from there to the last, the {ideal_name} needs "
        f"{median(shares):.0%}"
    )


def _seconds(runs: list[Any]) -> float | None:
    return median(found) if (found := [run["seconds"] for run in runs if not isinstance(run, str)]) else None


if __name__ == "__main__":
    main()
