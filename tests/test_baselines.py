"""The baselines, run and read as their benchmark does it: real TensorFlow, a fraction of the steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import baselines

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_baseline_runs_from_its_file_and_is_read_for_the_table(tmp_path: Path) -> None:
    shorter = ["--set", "budget.steps=200", "--set", "budget.report_every=100", "--trials", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", "run", str(baselines.FILES / "e8.yaml"), *shorter],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = baselines._read(baselines.FILES / "e8.yaml")
    assert found["seeds"] == 2
    assert all(0 < metrics["test_loss"] < 5 for metrics in found["last"])
    for last, best in zip(found["last"], found["best"], strict=True):
        assert best["test_loss"] <= last["test_loss"]
    losses = {round(metrics["test_loss"], 6) for metrics in found["last"]}
    assert len(losses) == 2  # the seeds differ


def test_every_baseline_has_its_file_and_every_file_its_baseline() -> None:
    assert {path.stem for path in baselines.FILES.glob("*.yaml")} == set(baselines.BASELINES)
