"""Questions about sweeps that are answered in a pod: this file runs there, after the text of tests/faults/checker.py.

It reads one question a line, as JSON, and writes one answer a line.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

STORAGE, TRACKING_URI = os.environ["SWEEPER_STORAGE"], os.environ["MLFLOW_TRACKING_URI"]


def progress(name: str) -> dict[str, Any]:
    """Return every trial of a sweep, and the time of each of its reports."""
    from sweeper.study.open import read_study

    study = read_study(name, STORAGE)
    rows = [
        {
            "number": row.number,
            "state": row.state,
            "step": row.step,
            "attempt": row.attempt,
            "value": row.value,
            "resumed": row.resumed.timestamp() if row.resumed else 0.0,
        }
        for row in study.rows()
    ]
    times = sorted(report.time for reports in study.all_reports().values() for report in reports)
    return {"rows": rows, "times": times, "is_running": study.is_running}


def faults_of_ended(name: str) -> list[str]:
    """Return where the trials that have ended differ between the study and MLflow; the sweep may be running."""
    outcome = read_outcome(Path("/mnt/sweeps", name), name, STORAGE, TRACKING_URI)  # noqa: F821
    ended = [result for result in outcome.results if result.state != "RUNNING"]
    numbers = {result.number for result in ended}
    copies = [copy for copy in outcome.copies if copy.number in numbers]
    return list(differing_copies(replace(outcome, results=ended, copies=copies)))  # noqa: F821


def faults_of_whole(name: str) -> list[str]:
    """Return every promise that a sweep that is over has broken, and what it left behind."""
    folder = Path("/mnt/sweeps", name)
    outcome = read_outcome(folder, name, STORAGE, TRACKING_URI)  # noqa: F821
    return violations(outcome) + leftovers(folder, name, STORAGE)  # noqa: F821


def main() -> None:
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"answer": globals()[question["what"]](question["name"])}
        except Exception as error:  # the database or MLflow is away, or the sweep does not exist yet
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(f"answer {json.dumps(answer)}", flush=True)


main()
