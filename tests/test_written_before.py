"""Studies, folders and MLflow stores of sweeper 0.1.0 are shown, resumed, extended and synced by this version."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

WRITTEN = Path(__file__).parent / "assets" / "written-by-0.1.0.tar.gz"
"""Three sweeps: `old` is done and has a champion, `flaky` has failed attempts, `counting` was interrupted."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(tmp_path, filter="data")
    for name in ("sweeper", "mlflow"):
        with sqlite3.connect(tmp_path / f"{name}.db") as database:
            database.executescript((tmp_path / f"{name}.sql").read_text().replace("@HOME@", str(tmp_path)))
        database.close()
    for file in tmp_path.glob("mlartifacts/models/*/artifacts/MLmodel"):
        file.write_text(file.read_text().replace("@HOME@", str(tmp_path)))
    return tmp_path


def sweeper(folder: Path, *arguments: str) -> str:
    hidden = ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [sys.executable, "-m", "sweeper", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


def test_old_study_is_shown(project: Path) -> None:
    shown = json.loads(sweeper(project, "show", "old", "--json"))
    best = shown["trials"][0]
    assert (best["number"], best["state"], best["params"]["units"]) == (6, "COMPLETE", 8)
    assert best["value"] == pytest.approx(0.7306, abs=1e-4)
    assert "the network refused" in sweeper(project, "show", "flaky", "--json")


@pytest.mark.long
def test_interrupted_old_sweep_resumes_from_its_checkpoints(project: Path) -> None:
    (project / "fast").touch()
    sweeper(project, "resume", "counting")
    trials = json.loads(sweeper(project, "show", "counting", "--json"))["trials"]
    assert {trial["number"]: trial["attempt"] for trial in trials} == {0: 2, 1: 2, 2: 1}
    for trial in trials:  # the score counts the steps, also those before the interruption
        assert trial["value"] == pytest.approx(12 * trial["params"]["x"])
    assert json.loads((project / "sweeps" / "counting" / "study.json").read_text())["name"] == "counting"


def test_old_study_is_synced_once(project: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("old")
    assert experiment is not None
    before = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    for name in ("old", "flaky"):
        sweeper(project, "sync", name)
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == before


@pytest.mark.long
def test_old_sweep_is_extended(project: Path) -> None:
    sweeper(project, "resume", "old", "--trials", "10")
    trials = json.loads(sweeper(project, "show", "old", "--json", "--all"))["trials"]
    assert sorted(trial["number"] for trial in trials) == list(range(10))
    assert all(trial["state"] in ("COMPLETE", "PRUNED") for trial in trials)
