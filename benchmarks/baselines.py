"""The systems that sweeper grew out of, run from their files and compared with what their authors printed.

Each file in search_spaces/baselines is an ordinary sweep; after an interruption, the same command resumes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import ROOT, keep, versions
from sweeper.core.trials import Report
from sweeper.spec import load_sweep
from sweeper.study.open import read_study

FILES = ROOT / "search_spaces" / "baselines"


@dataclass(frozen=True)
class Baseline:
    """What an author printed, and the flaw of that figure."""

    system: str
    printed: str
    flaw: str = ""


BASELINES = {
    "e1": Baseline("LSTM-128, SGD, 10,000 steps", "0.8906 on 128", "128 test images: ± 2.8 points"),
    "e1_keras_head": Baseline("the same with Keras's head", "", "too small a learning rate for this head"),
    "e2": Baseline("LSTM-256, Adam, 13 epochs", "a figure (0.985 to 0.989)", "its loss adds up over the epochs"),
    "e3": Baseline("LSTM-128, Adam, 781 steps", "0.9609, 0.9766 on 128", "128 test images; undefined names"),
    "e4": Baseline("RNN-150 tanh, Adam, 100 epochs", "> 0.98", "chosen by the test set"),
    "e4b": Baseline("RNN-150 relu, He, 100 epochs", "0.9772 to 0.9841, best 0.9852", "chosen by the test set"),
    "e8": Baseline("RNN-100 relu, forecasting", "MSE 0.0418", "no separate test set"),
    "e9": Baseline("2 x LSTM-128 relu, dense, dropout", "0.97, loss 0.08", "validated on the test set"),
    "lstm_150x3": Baseline("3 x LSTM-150, Adam, 10 epochs", "0.9871, best 0.9878", "chosen by the test set"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(BASELINES), choices=list(BASELINES), metavar="NAME")
    parser.add_argument(
        "--show", action="store_true", help="run nothing; show the results of the studies in this folder"
    )
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.only:
        started = time.monotonic()
        if not arguments.show:
            _run(FILES / f"{name}.yaml")
        results[name] = {"seconds": time.monotonic() - started, **_read(FILES / f"{name}.yaml")}
    installed = versions(["sweeper", "tensorflow", "keras"])
    console = Console(width=170)
    console.print(_table(results))
    console.print(", ".join(f"{name} {number}" for name, number in installed.items()))
    console.print(f"saved in {keep('baselines', {'versions': installed, 'results': results})}")


def _run(path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "sweeper", "run", str(path)], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{path.name} ended with exit code {done.returncode}; the same command resumes it")


def _read(path: Path) -> dict[str, Any]:
    """Return, for every seed, the metrics of three reports: the last, the best on validation, and the best on test."""
    sweep = load_sweep(path)
    study = read_study(sweep.name, sweep.storage)
    key = sweep.objective.metric
    sign = -1 if sweep.objective.direction == "minimize" else 1
    trials = [study.reports(row.number) for row in study.rows() if row.state == "COMPLETE"]

    def chosen(by: str) -> list[dict[str, float]]:
        def score(report: Report) -> float:
            return sign * report.metrics.get(by, 0.0)

        return [max(reports, key=score).metrics for reports in trials]

    return {
        "seeds": len(trials),
        "last": [reports[-1].metrics for reports in trials],
        "chosen": chosen(key),
        "best": chosen(key.replace("val_", "test_")),
    }


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Printed, and reproduced: mean ± standard deviation over the seeds, on the 10,000 test images")
    headings = ("experiment", "system", "printed", "seeds", "at the end", "chosen by validation", "best on test")
    for heading in (*headings, "first 128", "test loss", "s", "flaw of the original"):
        table.add_column(heading)
    for name, found in results.items():
        baseline = BASELINES[name]
        forecasts = "test_accuracy" not in found["last"][0]
        metric = "test_loss" if forecasts else "test_accuracy"
        table.add_row(
            name,
            baseline.system,
            baseline.printed,
            str(found["seeds"]),
            *(_spread(found[kind], metric) for kind in ("last", "chosen", "best")),
            "" if forecasts else _spread(found["last"], "test_accuracy_128"),
            _spread(found["last"], "test_loss"),
            f"{found['seconds']:.0f}",
            baseline.flaw,
        )
    return table


def _spread(runs: Sequence[dict[str, float]], metric: str) -> str:
    values = [run[metric] for run in runs]
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
