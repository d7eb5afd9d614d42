"""Runs a sweep in processes of its own, injects faults at random moments, and checks the result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from tests.faults.checker import Line, leftovers, read_history, read_outcome, violations

ROOT = Path(__file__).parents[2]
MARK = "SWEEPER_FAULTS"
"""Environment variable that all processes of a campaign inherit, so that those left behind can be found."""

PATIENCE_S = 240.0
"""Longest wait for something that must happen, in seconds. Long, because the machine may be busy."""

PAPER: dict[str, Any] = {
    "name": "paper",
    "trainable": "tests.faults.trainables:paper",
    "objective": {"metric": "score"},
    "budget": {"trials": 6, "epochs": 6},
    "space": {"height": {"type": "float", "low": 0, "high": 1}},
    "sampler": {"type": "random"},
    "pruner": {"type": "none"},
}

KERAS: dict[str, Any] = {
    "name": "keras",
    "trainable": "tests.faults.trainables:keras",
    "dataset": {"type": "digits"},
    "budget": {"trials": 4, "epochs": 4},
    "space": {"cell": "gru", "units": {"type": "int", "low": 4, "high": 12}, "batch_size": 64, "learning_rate": 0.003},
    "sampler": {"type": "random"},
    "pruner": {"type": "none"},
}


class Campaign:
    """One sweep in one folder, started again each time its driver ends, until the sweep is done."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.sweep: dict[str, Any] = {}
        self.storage = f"sqlite:///{folder / 'sweeper.db'}"
        self.tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.runs: list[subprocess.Popen[bytes]] = []
        self.kills = 0
        self._mark = uuid4().hex

    def declare(self, base: dict[str, Any], **changes: Any) -> None:
        self.sweep = base | {"storage": self.storage} | changes
        (self.folder / "sweep.yaml").write_text(json.dumps(self.sweep))  # JSON is YAML

    def start(self, *options: str, before: Sequence[str] = (), **environment: str) -> subprocess.Popen[bytes]:
        """Start the sweep's command in a process group of its own.

        Args:
            options: further options of the command.
            before: a command that runs it, such as `nohup`.
            environment: variables to set.
        """
        command = [*before, sys.executable, "-m", "tests.faults.driver", "run", "sweep.yaml", "--debug", *options]
        command += ["--tracking-uri", self.tracking_uri]
        env = self._environment() | environment
        with (self.folder / f"{len(self.runs):03d}.log").open("wb") as log:
            run = subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True)
        self.runs.append(run)
        return run

    def sweeper(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of sweeper to its end, as from another terminal."""
        command = [sys.executable, "-m", "sweeper", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=PATIENCE_S
        )

    def _environment(self) -> dict[str, str]:
        hidden = ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS")
        own = {key: value for key, value in os.environ.items() if key not in hidden}
        return own | {"PYTHONPATH": str(ROOT), MARK: self._mark}

    def output(self, run: int = -1) -> str:
        """Return what a run wrote to the terminal; the last one by default."""
        return (self.folder / f"{range(len(self.runs))[run]:03d}.log").read_text(errors="replace")

    def history(self) -> list[Line]:
        return read_history(self.folder)

    def wait_for(self, claim: Callable[[], Any], run: subprocess.Popen[bytes] | None = None) -> bool:
        """Wait until the claim holds; return False if the run ended first."""
        deadline = time.monotonic() + PATIENCE_S
        while not claim():
            if run is not None and run.poll() is not None:
                return bool(claim())
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {PATIENCE_S:g} s in vain:\n{self.output()}")
            time.sleep(0.02)
        return True

    def wait_for_lines(self, count: int, run: subprocess.Popen[bytes]) -> bool:
        """Wait until the history has grown by `count` lines, then a random moment of up to 0.2 s."""
        wanted = len(self.history()) + count
        happened = self.wait_for(lambda: len(self.history()) >= wanted, run)
        time.sleep(self.random.uniform(0, 0.2))
        return happened

    def processes(self) -> list[psutil.Process]:
        """Return the live processes that the runs of this campaign started, found by the mark they inherit."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARK) == self._mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def trainers(self) -> list[int]:
        """Return the ids of the live processes that train; they write their ids into the history."""
        pids = {line.pid for line in self.history() if line.pid}
        return sorted(pids & {process.pid for process in self.processes()})

    def named(self, name: str) -> list[psutil.Process]:
        """Return the processes whose command contains a name: `raylet`, `gcs_server`."""
        return [process for process in self.processes() if any(name in part for part in process.cmdline()[:1])]

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        try:
            os.kill(pid, number)
            self.kills += 1
        except ProcessLookupError:
            pass

    def wait_for_exit(self, seconds: float = 30.0) -> None:
        """Wait until all processes of the campaign are gone; fail if one is left after so many seconds."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, f"still there after {seconds:g} s: {[process.cmdline()[:3] for process in left]}"

    def finish(self, *, codes: tuple[int, ...] = (0,), interval: int = 1, **environment: str) -> None:
        """Run the same command once more, undisturbed, and check the result."""
        run = self.start(**environment)
        assert run.wait(PATIENCE_S) in codes, f"exit code {run.returncode}:\n{self.output()}"
        self.check(interval=interval)

    def check(self, *, interval: int = 1) -> None:
        """Fail if the sweep broke a promise or left something behind.

        Args:
            interval: reports from one checkpoint to the next.
        """
        self.wait_for_exit()
        name = self.sweep["name"]
        found = violations(read_outcome(self.folder, name, self.storage, self.tracking_uri, interval=interval))
        found += leftovers(self.folder, name, self.storage)
        assert not found, "\n".join([*found, self.output()])

    def clean_up(self) -> None:
        for process in self.processes():
            process.kill()
        for run in self.runs:
            run.wait()

    def fingerprint(self) -> list[Any]:
        """Return the content of the study without what may differ between runs: times, attempts, processes."""
        from sweeper.study.open import read_study

        study = read_study(self.sweep["name"], self.storage)
        return [
            (row.number, row.state, row.params, row.value, [(r.step, r.metrics) for r in study.reports(row.number)])
            for row in study.rows()
        ]
