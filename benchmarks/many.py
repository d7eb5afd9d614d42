"""What a study of very many trials costs: the driver's time and memory from the first to the last, to read, to resume.

Usage: python -m benchmarks.many [--trials 10000 100000] [--mlflow]

Each trial makes one report, at once. As in `scale`, events reach the driver's bridge as Ray Tune passes them, and what
Ray itself costs is left out. TPE proposes, and SQLite syncs every commit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.drivers import SPACE
from benchmarks.measure import keep, run, versions
from benchmarks.reading import measure

WORKERS = 16
NAME = "large"  # as `reading` calls it
VERBS = {"show": ["show", NAME], "show 7": ["show", NAME, "7"], "list": ["list"]}


def drive(trials: int, *, mlflow: bool) -> dict[str, float]:
    """Run the trials of a sweep in the current folder; return milliseconds per trial, and megabytes."""
    from sweeper.core.files import PinnedPath
    from sweeper.core.trials import Report
    from sweeper.driver.bridge import TuneBridge
    from sweeper.driver.stop import RunControl, StopSignal
    from sweeper.spec import Sweep
    from sweeper.study.open import open_study
    from sweeper.tracking import Projection
    from sweeper.worker.task import Event, Task

    sweep = Sweep.from_mapping(
        {
            "name": NAME,
            "trainable": "benchmarks.drivers:nothing",
            "objective": {"metric": "score"},
            "budget": {"trials": trials, "epochs": 1, "parallel": WORKERS},
            "sampler": {"type": "tpe"},
            "pruner": {"type": "none"},
            "space": SPACE,
            "storage": "sqlite:///sweeper.db",
        }
    )
    projection = Projection(sweep, "sqlite:///mlflow.db") if mlflow else None
    points = [_point(0)]
    opening = time.perf_counter()
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(None))
        study = stack.enter_context(open_study(sweep, listeners=[projection] if projection else []))
        resumed = time.perf_counter() - opening
        points[0] = _point(0)
        if projection:
            projection.start(study)
        bridge = TuneBridge(
            study,
            has_room=lambda handed_out: len(handed_out) < WORKERS,
            must_evaluate=lambda best: False,
            control=RunControl(study, stop, PinnedPath(Path(), "the working folder")),
        )
        step = max(1, trials // 1000)
        ended = sum(row.state == "COMPLETE" for row in study.rows())
        while tasks := [task for task in (bridge.next_task() for _ in range(WORKERS)) if isinstance(task, Task)]:
            events = [(task, Event(report=Report(1, time.time(), _metrics(task)), node="node")) for task in tasks]
            bridge.record_together(events)
            for task, event in events:
                bridge.handle_event(task, event)
            before, ended = ended, ended + len(tasks)
            if before // step != ended // step:
                points.append(_point(ended))
        if bridge.error is not None:
            raise bridge.error
        closing = time.perf_counter()
        if projection:
            projection.close(timeout=3600)
        return {"opened": resumed, "delivered": time.perf_counter() - closing, **_summary(points)}


def _metrics(task: Any) -> dict[str, float]:
    return {"score": task.params["dropout"] - task.params["units"] / 1000}


def _point(ended: int) -> dict[str, float]:
    process = psutil.Process()
    cpu = sum(process.cpu_times()[:2])
    return {"trials": ended, "seconds": time.perf_counter(), "cpu": cpu, "rss": process.memory_info().rss / 2**20}


def _summary(points: Sequence[dict[str, float]]) -> dict[str, float]:
    """Compare the second thousandth of the trials, which loads no module any more, with the last one."""
    found = {}
    for name, (first, last) in {"first": points[1:3], "last": points[-2:]}.items() if len(points) > 3 else ():
        for what in ("seconds", "cpu"):
            found[f"{name}_{what}"] = (last[what] - first[what]) / (last["trials"] - first["trials"]) * 1000
    middle = points[len(points) // 10]
    return {**found, "rss": points[-1]["rss"], "rss_at_a_tenth": middle["rss"], "rss_at_start": points[0]["rss"]}


def measured(trials: int, *, mlflow: bool) -> dict[str, float]:
    """Run a sweep, read it with each command, and take it up again in a process of its own."""
    found = drive(trials, mlflow=mlflow)
    found["database"] = Path("sweeper.db").stat().st_size / 2**20
    for verb, command in VERBS.items():
        found[verb] = min(measure(command) for _ in range(2))[0]
    again = run("benchmarks.many", "resume", Path.cwd(), trials, timeout=3600)
    assert not isinstance(again, str), again
    return {**found, "resume": again[0]["opened"], "resume_rss": again[0]["rss"]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--mlflow", action="store_true", help="record the trials in MLflow too")
    chosen = parser.parse_args()
    results: list[dict[str, Any]] = []
    for trials in chosen.trials:
        answer = run("benchmarks.many", "run", trials, chosen.mlflow, timeout=600 + trials / 10)
        found: dict[str, Any] = {"failure": answer} if isinstance(answer, str) else answer[0]
        results.append({"trials": trials, **found})
        print(line(results[-1]), flush=True)
        keep("many", {"mlflow": chosen.mlflow, "versions": versions(["sweeper", "optuna"]), "results": results})
    if any("failure" in result for result in results):
        sys.exit(1)


def line(result: dict[str, Any]) -> str:
    about = f"{result['trials']:7,} trials"
    if "failure" in result:
        return f"{about}  failed: {result['failure']}"
    return (
        f"{about}: {result['first_seconds']:.1f} ms a trial at first ({result['first_cpu']:.1f} of it CPU), "
        f"{result['last_seconds']:.1f} at last ({result['last_cpu']:.1f}); {result['rss']:.0f} MB, "
        f"{result['rss_at_a_tenth']:.0f} after a tenth; database {result['database']:.0f} MB; MLflow "
        f"{result['delivered']:.1f} s later; show {result['show']:.1f} s, show 7 {result['show 7']:.1f} s, list "
        f"{result['list']:.1f} s; resume {result['resume']:.1f} s, {result['resume_rss']:.0f} MB"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(measured(int(sys.argv[2]), mlflow=sys.argv[3] == "True")))
    elif sys.argv[1:2] == ["resume"]:
        import os

        os.chdir(sys.argv[2])
        print(json.dumps(drive(int(sys.argv[3]), mlflow=False)))
    else:
        main()
