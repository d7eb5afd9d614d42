"""The cost of a trial and of a report when the training costs nothing."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.drivers import DRIVERS
from benchmarks.measure import keep, run, versions

FEW, MANY = 1, 10
"""Reports per trial. The cost of a trial is measured with few, that of a report by the difference."""

PAUSING, PAUSING_REPORTS = "sweeper, pausing", 32


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[100, 1000], help="numbers of trials; 10000 takes long"
    )
    parser.add_argument("--only", nargs="+", default=list(DRIVERS), choices=list(DRIVERS), metavar="DRIVER")
    parser.add_argument("--timeout", type=float, default=3600, help="longest duration of one run, in seconds")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    pausing = {trials: _pausing(trials, arguments.timeout) for trials in arguments.trials if PAUSING in arguments.only}
    for trials in arguments.trials:
        for name in (name for name in arguments.only if name != PAUSING):
            results.append({"driver": name, "trials": trials, **_measure(name, trials, arguments.timeout)})
    installed = versions(["sweeper", "ray", "optuna", "mlflow"])
    console = Console(width=120)
    if results:
        console.print(_table(results))
    for trials, cost in pausing.items():
        console.print(f"{PAUSING}, {trials:,} trials: {cost}")
    console.print(", ".join(f"{name} {number}" for name, number in installed.items()))
    console.print(f"saved in {keep('overhead', {'versions': installed, 'results': results, 'pausing': pausing})}")


def _measure(name: str, trials: int, timeout: float) -> dict[str, Any]:
    runs = {}
    for reports in (FEW, MANY):
        answer = run("benchmarks.drivers", name, trials, reports, timeout=timeout)
        if isinstance(answer, str):
            return {"failure": answer}
        runs[reports] = answer[0]
    few, many = (_per_trial(runs[reports], "seconds") for reports in (FEW, MANY))
    points = runs[FEW]
    quarter = len(points) // 4
    return {
        "trial_ms": few,
        "trial_cpu_ms": _per_trial(points, "cpu"),
        "first_quarter_ms": _per_trial(points[: quarter + 1], "seconds"),
        "last_quarter_ms": _per_trial(points[-quarter - 1 :], "seconds"),
        "report_ms": (many - few) / (MANY - FEW),
        "rss_mb": points[-1]["rss"],
        # Without the first quarter, in which late imports and caches grow.
        "rss_mb_per_100_trials": _per_trial(points[quarter:], "rss") / 10,
        "points": runs,
    }


def _pausing(trials: int, timeout: float) -> dict[str, float] | str:
    """Return the milliseconds and the processor time per report of a sweep that pauses trials and continues them."""
    answer = run("benchmarks.drivers", PAUSING, trials, PAUSING_REPORTS, timeout=timeout)
    if isinstance(answer, str):
        return answer
    first, last = answer[0][0], answer[0][-1]
    reports = last["reports"] - first["reports"]
    return {
        "reports": reports,
        **{f"{what}_ms": (last[what] - first[what]) / reports * 1000 for what in ("seconds", "cpu")},
    }


def _per_trial(points: list[dict[str, float]], what: str) -> float:
    """Return the growth of `what` per trial, in thousandths of its unit."""
    first, last = points[0], points[-1]
    return (last[what] - first[what]) / (last["trials"] - first["trials"]) * 1000


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title=f"Trials that do nothing, {FEW} report each, and {MANY} for the cost of a report")
    columns = {
        "ms per trial": "trial_ms",
        "of it CPU": "trial_cpu_ms",
        "first quarter": "first_quarter_ms",
        "last quarter": "last_quarter_ms",
        "ms per report": "report_ms",
        "RSS, MB": "rss_mb",
        "MB per 100 trials": "rss_mb_per_100_trials",
    }
    for heading in ("", "trials", *columns):
        table.add_column(heading, justify="left" if not heading else "right")
    for result in results:
        shown = [result["failure"]] if "failure" in result else [f"{result[key]:.1f}" for key in columns.values()]
        table.add_row(result["driver"], f"{result['trials']:,}", *shown)
    return table


if __name__ == "__main__":
    main()
