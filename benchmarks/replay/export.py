"""Write the learning curves of a sweep that trained every trial to its end as a table.

Usage: python -m benchmarks.replay.export NAME FILE [--storage URL] [--minimize METRIC]
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from pathlib import Path

from benchmarks.replay.table import Row, Table
from sweeper.core.trials import Report
from sweeper.study.open import read_study
from sweeper.study.view import StudyView

DIGITS = 6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay.export", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("file", type=Path)
    parser.add_argument("--storage", default="sqlite:///sweeper.db")
    parser.add_argument("--minimize", metavar="METRIC", help="a metric to rank by instead of the objective: val_loss")
    arguments = parser.parse_args()
    study = read_study(arguments.name, arguments.storage)
    table = table_of(study, arguments.minimize)
    data = {key: value for key, value in study.facts.get("dataset", {}).items() if key != "source"}  # a path of here
    about = {"sweep": study.name, "seed": study.sweep.seed, "dataset": data}
    table.write(arguments.file, **about, versions=study.facts.get("versions"))
    print(f"{len(table.rows)} curves of {table.reports} reports in {arguments.file}")


def table_of(study: StudyView, minimized: str | None = None) -> Table:
    """Return the curves of a sweep: of its objective, or of another metric, which is minimized.

    The reports that a diverged trial has not made are missing. A trial that failed otherwise, or runs, is refused.

    Raises:
        ValueError: a trial has no whole curve.
    """
    sweep, reports = study.sweep, study.all_reports()
    rows = []
    for row in study.rows():
        made = reports.get(row.number, [])
        has_diverged = row.state == "FAIL" and (row.reason or "").startswith("diverged")
        if row.state != "COMPLETE" and not has_diverged:
            raise ValueError(f"trial {row.number} is {row.state} after {len(made)} reports ({row.reason})")
        curve = [round(report.metrics[minimized or sweep.objective.metric], DIGITS) for report in made]
        curve += [math.nan] * (sweep.budget.reports - len(curve))
        params = {name: value for name, value in row.params.items() if sweep.space[name].count() != 1}
        rows.append(Row(params, tuple(curve), seconds_of(made)))
    space = sweep.model_dump(mode="json", exclude_none=True)["space"]
    searched = {name: domain for name, domain in space.items() if sweep.space[name].count() != 1}
    direction = "minimize" if minimized else sweep.objective.direction
    return Table(study.name, tuple(rows), direction, sweep.budget.reports_per_epoch, searched)


def seconds_of(reports: list[Report]) -> float:
    """Return the seconds that one report takes when nothing else delays it: few of the intervals are shorter."""
    intervals = sorted(after.time - before.time for before, after in pairwise(reports))
    return round(intervals[len(intervals) // 10], 3) if intervals else 1.0


if __name__ == "__main__":
    main()
