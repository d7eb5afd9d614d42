"""Scripts as users bring them, by the real command in an empty folder: one with a line of output, one from W&B."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.study.open import read_study

ROOT = Path(__file__).parents[1]

SCRIPT = """\
import argparse
import numpy as np
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--hidden", type=int, default=32)
parser.add_argument("--momentum", type=float, default=0.0)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--out", default=".")
args = parser.parse_args()

rng = np.random.default_rng(0)
x, y = load_digits(return_X_y=True)
x, y = x / 16, np.eye(10)[y]
w1, w2 = rng.normal(0, 0.1, (64, args.hidden)), rng.normal(0, 0.1, (args.hidden, 10))
v1, v2 = np.zeros_like(w1), np.zeros_like(w2)
for epoch in range(args.epochs):
    for batch in np.split(rng.permutation(1500), 30):
        hidden = np.maximum(0, x[batch] @ w1)
        scores = np.exp(hidden @ w2)
        error = (scores / scores.sum(1, keepdims=True) - y[batch]) / len(batch)
        g2, g1 = hidden.T @ error, x[batch].T @ ((error @ w2.T) * (hidden > 0))
        v1, v2 = args.momentum * v1 - args.lr * g1, args.momentum * v2 - args.lr * g2
        w1, w2 = w1 + v1, w2 + v2
    accuracy = ((np.maximum(0, x[1500:] @ w1) @ w2).argmax(1) == y[1500:].argmax(1)).mean()
    print(f"epoch {epoch}: {accuracy:.3f}")
    print(f"val_accuracy={accuracy}")
np.savez(f"{args.out}/weights.npz", w1=w1, w2=w2)
"""

SWEEP = """\
name: digits
trainable:
  command: python train.py --lr {lr} --hidden {hidden} --momentum {momentum} --epochs {epochs} --out {model}
budget: {trials: 5, epochs: 4}
pruner: {type: median, n_startup_trials: 2}
space:
  lr: {type: float, low: 1e-2, high: 1.0, log: true}
  hidden: {type: int, low: 8, high: 64}
  momentum: {type: categorical, choices: [null, 0.9]}
"""

WANDB = """\
program: train.py
method: random
metric: {name: val_accuracy, goal: maximize}
run_cap: 3
parameters:
  lr: {distribution: log_uniform_values, min: 0.01, max: 1.0}
  hidden: {values: [16, 32]}
  epochs: {value: 3}
early_terminate: {type: hyperband, min_iter: 1, eta: 2}
"""


def sweeper(*arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.long
def test_script_with_one_line_of_output_is_swept_and_shown(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    done = sweeper("run", "sweep.yaml")
    assert done.returncode == 0, done.stderr
    study = read_study("digits", "sqlite:///sweeper.db")
    best = study.best()
    assert best is not None and best.value is not None and best.value > 0.5
    assert {row.state for row in study.rows()} <= {"COMPLETE", "PRUNED"} and len(study.rows()) == 5
    logs = sweeper("logs", "digits", str(best.number))
    assert logs.stdout.splitlines()[0].startswith("epoch 0: ") and "val_accuracy=" in logs.stdout, logs.stderr
    assert sweeper("logs", "digits", "17").returncode == 2
    (tmp_path / "train.py").write_text(SCRIPT.replace("0.1, (64", "0.2, (64"))
    changed = sweeper("run", "sweep.yaml", "--trials", "6")
    assert changed.returncode == 2 and "has changed since sweep 'digits' began (train.py)" in changed.stderr
    (tmp_path / "train.py").write_text(SCRIPT.replace("for epoch in", "raise ValueError('a bug')\nfor epoch in"))
    failed = sweeper("run", "sweep.yaml", "--trials", "6", "--allow-code-change")
    assert failed.returncode == 3 and "exited with 1: ValueError: a bug" in failed.stderr, failed.stderr
    logs = sweeper("logs", "digits")
    assert "== trial 5, FAIL: exited with 1: ValueError: a bug" in logs.stdout and "Traceback" in logs.stdout


@pytest.mark.long
def test_sweep_of_wandb_is_converted_and_run_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "wandb.yaml").write_text(WANDB)
    assert sweeper("convert", "wandb.yaml", "-o", "sweep.yaml").returncode == 0
    done = sweeper("run", "sweep.yaml")
    assert done.returncode == 0, done.stderr
    rows = read_study("train", "sqlite:///sweeper.db").rows()
    assert len(rows) == 3 and all(row.params.keys() == {"lr", "hidden", "epochs"} for row in rows)
