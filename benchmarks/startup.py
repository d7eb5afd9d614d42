"""The start of a sweep on MNIST, from the command to the first report, and its end, from the last report to the prompt;
and the time of the commands that start nothing, compared with an empty Python.

Usage: python -m benchmarks.startup [--rounds 5] [--tree CHECKOUT] [--cluster]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, keep, run, versions

SPACE = """
name: startup
dataset: {type: mnist, train: 10000, validation: 2000, test: 2000}
budget: {trials: TRIALS, epochs: 1, reports_per_epoch: 4}
pruner: {type: none}
space: {cell: lstm, units: 64, batch_size: 64, learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}}
"""

LIGHT = {
    "python": ["-c", ""],
    "sweeper --help": ["-m", "sweeper", "--help"],
    "sweeper validate": ["-m", "sweeper", "validate", "search_spaces/lstm.yaml"],
}

IMPORTS = {
    "worker": "import sweeper.driver.actor",
    "all": "import sweeper.driver.actor, sweeper.training.engine.runtime as runtime; runtime.start_backend(1)",
}
"""What a worker imports before its first trial begins, and before it trains: nothing can be sooner."""

COLUMNS = {
    "worker's": "worker",
    "trial": "trial",
    " beyond": "trial beyond",
    "all": "all",
    "report": "first",
    "beyond": "report beyond",
    "to exit": "to exit",
    "testing": "evaluation",
    "rest": "rest",
}

CLUSTER_START_S = 90.0
"""Longest start of the cluster, which is not measured."""


def sweep(tree: str, trials: str, address: str | None = None) -> None:
    """Run a sweep of this checkout or another one; print the seconds to its first trial and report, last one, and exit.

    A trial begins when its worker makes its folder, before it imports what trains. The evaluation counts from the last
    report on: what a worker did before that, nobody waited for.
    """
    from sweeper.study.open import read_study

    Path("startup.yaml").write_text(SPACE.replace("TRIALS", trials))
    command = [sys.executable, "-m", "sweeper", "run", "startup.yaml", *(["--address", address] if address else [])]
    said: list[tuple[float, str]] = []
    began: list[float] = []
    started = time.time()
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": tree}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        reader = threading.Thread(target=lambda: said.extend((time.time(), line) for line in process.stderr or ()))
        reader.start()
        while process.poll() is None and not began:
            began += [time.time()] * any(Path("sweeps/startup/trials").glob("*"))
            time.sleep(0.01)
        code, ended = process.wait(), time.time()
        reader.join()
    if code:
        sys.exit(said[-1][1] if said else f"exit code {code}")
    study = read_study("startup", "sqlite:///sweeper.db")
    times = [report.time for row in study.rows() for report in study.reports(row.number)]
    asked = max(when for when, line in said if "Evaluating trial" in line)
    tested = Path("sweeps/startup/champion/mlflow_model/MLmodel").stat().st_mtime  # of the original: the worker's
    moments = {"trial": began[0], "first": min(times), "last": max(times), "exit": ended}
    found = {name: moment - started for name, moment in moments.items()}
    print(json.dumps(found | {"evaluation": max(0.0, tested - max(asked, max(times)))}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tree", metavar="CHECKOUT", help="another checkout, measured in turn with this one")
    parser.add_argument("--cluster", action="store_true", help="also on a Ray cluster that runs already")
    parser.add_argument("--trials", default="2", help="trials of the sweep; with one, a core is left for the driver")
    parser.add_argument("--sweep", nargs="+", metavar="TREE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sweep:
        return sweep(*arguments.sweep)
    trees = {"before": str(Path(arguments.tree).resolve()), "now": str(ROOT)} if arguments.tree else {"now": str(ROOT)}
    rounds: list[dict[str, Any]] = []
    print(" " * 16, *(f"{head:>8}" for head in COLUMNS), "  seconds")
    with _cluster() if arguments.cluster else nullcontext() as address:
        for _ in range(arguments.rounds):
            for place in [None, address] if address else [None]:
                for name, tree in trees.items():
                    row = _round(tree, arguments.trials, place)
                    rounds.append({"side": f"{name}, {'cluster' if place else 'local'}", **row})
                    _show(rounds[-1])
    print("median:")
    sides = list(dict.fromkeys(row["side"] for row in rounds))
    middle = [_median([row for row in rounds if row["side"] == side]) for side in sides]
    for row in middle:
        _show(row)
    light = {name: min(_seconds(*command) for _ in range(arguments.rounds)) for name, command in LIGHT.items()}
    for name, seconds in light.items():
        print(f"{seconds:8.2f} {seconds / light['python']:8.1f}x  {name}")
    packages = ("tensorflow", "keras", "ray", "optuna", "mlflow")
    print(keep("startup", {"versions": versions(packages), "rounds": rounds, "median": middle, "light": light}))


def _round(tree: str, trials: str, address: str | None) -> dict[str, float]:
    """Measure a sweep, and what its workers import, alone, before and after it."""
    alone = [_imports()]
    done = run("benchmarks.startup", "--sweep", tree, trials, *([address] if address else []), timeout=300)
    if isinstance(done, str):
        sys.exit(done)
    alone.append(_imports())
    row: dict[str, float] = {name: statistics.mean(times[name] for times in alone) for name in IMPORTS} | done[0]
    end = row["exit"] - row["last"]
    row |= {"trial beyond": row["trial"] - row["worker"], "report beyond": row["first"] - row["all"]}
    return row | {"to exit": end, "rest": end - row["evaluation"]}


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value if key == "side" else statistics.median(r[key] for r in rows) for key, value in rows[0].items()}


@contextmanager
def _cluster() -> Iterator[str]:
    """Run a Ray cluster of two CPUs on this machine for the block; yield its address."""
    os.environ["RAY_AUTH_TOKEN"], os.environ["RAY_AUTH_MODE"] = secrets.token_hex(32), "token"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without the end of the block
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false"]
    deadline = time.monotonic() + CLUSTER_START_S
    with tempfile.NamedTemporaryFile("w+") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            while "Ray runtime started" not in (text := Path(log.name).read_text()):
                if head.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"error: the Ray cluster did not start:\n{text}")
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            head.send_signal(signal.SIGTERM)  # `ray stop` would end the Rays of others too
            head.wait(60)


def _imports() -> dict[str, float]:
    return {name: _seconds("-c", code) for name, code in IMPORTS.items()}


def _seconds(*arguments: str) -> float:
    with tempfile.TemporaryFile() as nothing:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=nothing, stderr=nothing)
        return time.perf_counter() - started


def _show(row: dict[str, Any]) -> None:
    print(f"{row['side']:16}", *(f"{row[name]:8.2f}" for name in COLUMNS.values()), flush=True)


if __name__ == "__main__":
    main()
