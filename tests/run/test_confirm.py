"""A real sweep whose best trials are trained again with fresh seeds, by its file and by `sweeper confirm`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper.study.open import read_study

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

SPACE = """
name: small
dataset: {type: digits}
budget: {trials: 4, epochs: 2, parallel: 2}
pruner: {type: none}
space:
  cell: gru
  units: {type: int, low: 4, high: 16}
  learning_rate: {type: float, low: 1e-3, high: 1e-2, log: true}
  batch_size: 64
tracking: {experiment: tests, model: small}
"""


def sweeper(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    hidden = ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [sys.executable, "-m", "sweeper", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def runs(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def check(folder: Path, document: dict[str, Any]) -> None:
    """Check the study, MLflow and the folder of a sweep that is confirmed."""
    found = document["confirmation"]
    assert found["complete"] and found["seeds"] == 2 and len(found["contenders"]) == 2
    best = document["best"]["number"]
    assert found["best"] == best and document["champion"]["promoted"]
    study = read_study("small", f"sqlite:///{folder}/sweeper.db")
    assert len(study.rows()) == 4 and study.best() == study.row(best)
    fresh = [row for row in study.rows(with_fresh=True) if row.confirms is not None]
    assert len({row.confirms.seed for row in fresh}) == 4
    assert len({row.value for row in fresh}) > 1, "fresh seeds give other values"
    kept = [path.parent.name for path in (folder / "sweeps/small/trials").glob("*/model")]
    assert len(kept) == 1, "the others' models are deleted"
    marked = [run for run in runs(folder) if "sweeper.confirms" in run.data.tags]
    assert len(marked) == 4 and {run.data.tags["sweeper.confirms"] for run in marked} == {
        str(each["trial"]) for each in found["contenders"]
    }
    (parent,) = [run for run in runs(folder) if "sweeper.trial" not in run.data.tags]
    winner = next(each for each in found["contenders"] if each["trial"] == best)
    assert parent.data.metrics["confirmed_val_accuracy"] == pytest.approx(winner["mean"])
    assert parent.data.metrics["confirmed_val_accuracy_low"] <= winner["mean"]
    assert parent.data.tags["sweeper.best_trial"] == str(best) and parent.data.tags["sweeper.complete"] == "4"


def test_file_that_asks_for_it_is_confirmed_before_the_test_set_is_touched(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE + "confirm: {top: 2, seeds: 2}\n")
    done = sweeper("run", "small.yaml", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(tmp_path, json.loads(done.stdout))
    assert done.stderr.count("Evaluating trial") == 1
    assert done.stderr.index("confirming trial") < done.stderr.index("Evaluating trial")
    shown = sweeper("show", "small", folder=tmp_path)
    assert "searched" in shown.stdout and "over 2 seeds: the search" in shown.stdout, shown.stdout
    assert sweeper("report", "small", "-o", "report.html", folder=tmp_path).returncode == 0
    assert "Is it really better?" in (tmp_path / "report.html").read_text()


def test_sweep_that_has_ended_is_confirmed_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE)
    assert sweeper("run", "small.yaml", "--json", folder=tmp_path).returncode == 0
    done = sweeper("confirm", "small", "--top", "2", "--seeds", "2", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    check(tmp_path, document)
    again = sweeper("confirm", "small", "--json", folder=tmp_path)
    assert again.returncode == 0 and "confirming" not in again.stderr, again.stderr
    assert json.loads(again.stdout)["confirmation"] == document["confirmation"]
    plain = sweeper("run", "small.yaml", "--json", folder=tmp_path)
    assert json.loads(plain.stdout)["best"] == document["best"], "the file without `confirm` takes nothing back"
