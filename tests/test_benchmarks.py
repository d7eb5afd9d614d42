"""Short runs of the benchmarks: each gives figures, and none for a side that failed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import ROOT
from benchmarks.peers import shortfall
from benchmarks.workload import missing_data

SHORT = {
    "peers": ("--trials", "2", "--only", "sweeper run", "Ray Tune", "Optuna", "bare training"),
    "overhead": ("--trials", "20", "--only", "sweeper", "Optuna, SQLite"),
    "startup": ("--rounds", "1", "--tree", str(ROOT), "--cluster"),
    "training": ("--cells", "simple_rnn", "--units", "8", "--rounds", "1"),
    "reading": ("--trials", "50", "--rounds", "1"),
    "watching": ("--pairs", "1", "--trials", "6", "--only", "sqlite"),
}


def run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.timeout(900)  # of startup, four whole sweeps beside the other tests
@pytest.mark.skipif(missing_data() is not None, reason="MNIST is not at hand")
@pytest.mark.parametrize("name", SHORT)
def test_benchmark_gives_figures(name: str, tmp_path: Path) -> None:
    done = run(name, *SHORT[name], SWEEPER_BENCHMARK_RESULTS=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = tmp_path.glob("*.json")
    assert json.loads(record.read_text())["versions"]["python"]
    assert "failed" not in done.stdout and "error" not in done.stdout


@pytest.mark.parametrize("trials, epochs, prunes, what", [
    (48, 144, False, None),
    (48, 60, True, None),
    (48, 60, False, "failed: 48 of 48 trials, 60 of 144 epochs"),
    (48, 0, True, "failed: 48 of 48 trials, 0 of 48 epochs"),
    (47, 141, False, "failed: 47 of 48 trials, 141 of 144 epochs"),
])  # fmt: skip
def test_side_whose_trials_failed_has_no_figure(trials: int, epochs: int, prunes: bool, what: str | None) -> None:
    assert shortfall({"trials": trials, "epochs": epochs, "last": 1.0}, 48, prunes=prunes) == what


def test_peers_looks_for_the_data_before_its_first_side(tmp_path: Path) -> None:
    done = run("peers", SWEEPER_DATA_DIR=str(tmp_path))
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == f"error: there is no {tmp_path}/mnist.npz; SWEEPER_DATA_DIR names the folder of mnist.npz\n"


def test_peers_says_why_a_side_has_no_figure(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    peers = importlib.import_module("benchmarks.peers")
    answers: dict[str, Any] = {
        "sweeper run": ({"trials": 1, "epochs": 3, "first": 2.0, "last": 9.0}, 0.0),
        "Optuna": ({"trials": 0, "epochs": 0, "last": 3.0}, 0.0),
        "bare training": "FileNotFoundError: x",
    }
    monkeypatch.setattr(peers, "run", lambda module, name, *rest, timeout: answers[name])
    monkeypatch.setattr(peers, "missing_data", lambda: None)
    monkeypatch.setattr("benchmarks.measure.RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["peers", "--trials", "1", "--only", *answers])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    shown = capsys.readouterr().out
    assert ended.value.code == 1 and "failed: 0 of 1 trials, 0 of 3 epochs" in shown
    assert "FileNotFoundError: x" in shown and " 3.0" not in shown


def test_data_is_missing_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWEEPER_DATA_DIR", raising=False)
    assert missing_data() == "SWEEPER_DATA_DIR is not set; it names the folder of mnist.npz"
