"""Whole sweeps of several goals by the real command, with real Ray and MLflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sweeper.study.open import read_study
from tests.run.test_sweep import environment, mlflow_runs, sweeper

GOALS = (
    "objective: [{metric: METRIC, direction: maximize}, {metric: parameters, direction: minimize}]\nprune_on: METRIC\n"
)

DIGITS = (
    GOALS.replace("METRIC", "val_accuracy")
    + """
name: small
dataset: {type: digits}
budget: {trials: 8, epochs: 2, reports_per_epoch: 2, parallel: 2}
sampler: {type: nsga2, population_size: 4}
pruner: {type: median, n_startup_trials: 2, min_epochs: 0.5}
space:
  cell: {type: categorical, choices: [gru, simple_rnn]}
  units: {type: int, low: 4, high: 32}
  learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}
tracking: {experiment: tests, model: small}
"""
)

COUNTING = (
    GOALS.replace("METRIC", "score")
    + """
name: counting
trainable: tests.samples:weigh
budget: {trials: 40, epochs: 4, parallel: 1}
sampler: {type: tpe}
pruner: {type: successive_halving, min_reports: 1, reduction_factor: 2}
space: {height: {type: float, low: 0, high: 1}, width: {type: int, low: 1, high: 64, log: true}}
"""
)


@pytest.mark.long
def test_front_of_a_real_sweep_is_everywhere(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(DIGITS)
    done = sweeper("run", "small.yaml", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result, view = json.loads(done.stdout), read_study("small", f"sqlite:///{tmp_path}/sweeper.db")
    front = view.leaderboard(front=True)
    assert result["front"] == [row.number for row in front] and result["best"]["number"] == front[0].number
    for row in view.rows():
        cell, units = row.params["cell"], row.params["units"]
        gates, biases = (3, 6) if cell == "gru" else (1, 1)
        weights = gates * units * (8 + units) + biases * units + 10 * units + 10
        assert row.others[0].value == weights, (row.params, row.others)
    client, runs, parent = mlflow_runs(tmp_path)
    assert {number for number, run in runs.items() if run.data.tags.get("sweeper.front")} == {*result["front"]}
    assert parent.data.tags["sweeper.front"] == ", ".join(map(str, sorted(result["front"])))
    page = Path(client.download_artifacts(parent.info.run_id, "report.html")).read_text()
    assert 'id="front"' in page
    for row in front[1:2]:  # its model can be had too: its checkpoint was kept
        exported = sweeper("export", "small", str(row.number), "--to", "script", folder=tmp_path)
        assert exported.returncode == 0, exported.stderr
        promoted = sweeper("promote", "small", str(row.number), folder=tmp_path)
        assert promoted.returncode == 0, promoted.stderr
    kept = {path.parent.name for path in (tmp_path / "sweeps/small/trials").glob("*/attempt-*")}
    assert kept == {f"{number:04}" for number in result["front"]}


@pytest.mark.long
def test_killed_sweep_of_several_goals_resumes_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the commands import tests.samples
    rows: dict[str, Any] = {}
    for name in ("whole", "killed"):
        (tmp_path / f"{name}.yaml").write_text(COUNTING.replace("counting", name))
        if name == "killed":
            command = [sys.executable, "-m", "sweeper", "run", f"{name}.yaml"]
            with subprocess.Popen(
                command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
            ) as run:
                deadline = time.monotonic() + 240
                while time.monotonic() < deadline and _trials(tmp_path, name) < 12:
                    time.sleep(0.1)
                os.killpg(run.pid, signal.SIGKILL)
            assert 12 <= _trials(tmp_path, name) < 40
        done = sweeper("run", f"{name}.yaml", "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        view = read_study(name, f"sqlite:///{tmp_path}/sweeper.db")
        rows[name] = [(row.params, row.state, row.value, row.others) for row in view.rows()]
        assert json.loads(done.stdout)["front"] == [row.number for row in view.leaderboard(front=True)]
    assert rows["whole"] == rows["killed"]


def _trials(folder: Path, name: str) -> int:
    try:
        return len(read_study(name, f"sqlite:///{folder}/sweeper.db").rows())
    except Exception:  # it has not begun
        return 0
