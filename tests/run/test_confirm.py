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


def shown(folder: Path) -> str:
    return sweeper("show", "small", folder=folder).stdout


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
    test = found["mcnemar"][0]
    loser = next(each["trial"] for each in found["contenders"] if each["trial"] != best)
    assert (test["against"], test["missing"]) == (f"trial {loser}", "") and 0 < test["samples"] < 400
    assert 0 <= test["p_value"] <= 1 and f"{loser} on {test['n01']} (McNemar: p = " in shown(folder)
    tag = json.loads(parent.data.tags["sweeper.mcnemar.runner_up"])
    assert tag == test
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
    text = shown(tmp_path)
    assert "searched" in text and "over 2 seeds\n" in text, text
    assert "flattered it by" in text or "did not flatter it" in text, text
    said = text[text.index("confirmed  ") : text.index("model  ")].splitlines()
    assert len(said) > 2 and max(map(len, said)) <= 80, text
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


OWN = """
def train(params, trial):
    luck = 0.5 if trial.number == 0 else 0.0  # in the search alone: its fresh runs have other numbers
    while trial.step < trial.reports:
        score = params["height"] + luck + trial.seed % 100 / 10_000
        trial.report({"score": score}, checkpoint=lambda folder: (folder / "height").write_text(str(params["height"])))


def evaluate(params, trial):
    trial.save_model(trial.checkpoint)
    return {"test_score": float((trial.checkpoint / "height").read_text())}


def predict(params, trial):
    predicted = trial.data.y_val.copy()
    predicted[: 100 - round(100 * float((trial.checkpoint / "height").read_text()))] += 1
    return predicted


train.evaluate, train.predict = evaluate, predict
"""

OWN_SPACE = """
name: own
trainable: own:train
dataset: {type: digits}
objective: {metric: score}
budget: {trials: 3, epochs: 2, parallel: 1}
sampler: {type: random}
pruner: {type: none}
space: {height: {type: float, low: 0, high: 1}}
enqueue: [{height: 0.2}, {height: 0.6}, {height: 0.4}]
tracking: {experiment: tests, model: own}
"""


def test_winner_whose_model_the_search_deleted_is_represented_by_its_first_fresh_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(OWN_SPACE)
    searched = json.loads(sweeper("run", "own.yaml", "--json", folder=tmp_path).stdout)
    assert searched["best"]["number"] == 0 and searched["champion"]["version"] == 1
    assert not any((tmp_path / "sweeps/own/trials/0001").glob("attempt-*")), "the search keeps its best trial alone"
    done = sweeper("confirm", "own", "--top", "2", "--seeds", "2", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["best"]["number"], document["test"]) == (1, {"test_score": 0.6})
    assert document["champion"]["version"] == 2 and document["champion"]["promoted"]
    assert "beats version 1, trial 0 of the same sweep: 0.6" in document["champion"]["reason"]
    runner_up, champion = document["confirmation"]["mcnemar"]
    assert (runner_up["against"], runner_up["n10"], runner_up["n01"]) == ("trial 0", 40, 0)
    assert champion["against"] == "own version 1" and "not Keras's may run code" in champion["missing"]

    study = read_study("own", f"sqlite:///{tmp_path}/sweeper.db")
    first = next(
        row for row in study.rows(with_fresh=True) if row.confirms and (row.confirms.trial, row.confirms.run) == (1, 1)
    )
    kept = {path.parent.name for path in (tmp_path / "sweeps/own/trials").glob("*/model")}
    assert kept == {f"{first.number:04d}"}
    (model,) = (tmp_path / "sweeps/own/champion/mlflow_model").rglob("height")
    assert model.read_text() == "0.6"
    assert "trial 0 on 0 (McNemar: p = 1.8e-12)" in sweeper("show", "own", folder=tmp_path).stdout
    again = sweeper("promote", "own", folder=tmp_path)
    assert again.returncode == 0 and again.stdout.startswith("own version 2 is the champion (as before"), again.stdout
    plain = json.loads(sweeper("run", "own.yaml", "--json", folder=tmp_path).stdout)
    assert (plain["best"]["number"], plain["champion"]["version"]) == (1, 2)
    assert plain["confirmation"] == document["confirmation"]
