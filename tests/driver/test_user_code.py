"""Which code the workers of a real sweep run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.study.open import read_study

pytestmark = pytest.mark.usefixtures("no_ray")

ROOT = Path(__file__).parents[2]

EDITED = """
import os
from pathlib import Path

HERE = Path(__file__).parent

def train(params, trial):
    if trial.number == 1 and trial.attempt == 1:
        for name in ("own.py", "parts.py"):
            original = Path(name)
            original.write_text(original.read_text().replace("1.0", "2.0"))
        os.kill(os.getpid(), 9)
    import parts
    while trial.step < trial.reports:
        data = float((HERE / "data.txt").read_text())
        trial.report({"score": 1.0, "part": parts.VALUE, "data": data}, checkpoint=lambda to: (to / "x").touch())

def evaluate(params, trial):
    import parts
    return {"part": parts.VALUE, "score": 1.0}

train.evaluate = evaluate
"""

OWN = """
name: own
trainable: own:train
objective: {metric: score}
budget: {trials: 3, epochs: 1, parallel: 1}
pruner: {type: none}
space: {x: {type: float, low: 0, high: 1}}
"""

BUILT_IN = """
name: digits
dataset: {type: digits}
budget: {trials: 1, epochs: 1}
pruner: {type: none}
space: {units: 4, batch_size: 256, learning_rate: {type: float, low: 0.001, high: 0.002}}
"""


def sweeper(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeper", *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables)


def test_sweep_runs_the_code_that_it_began_with(tmp_path: Path) -> None:
    for name, text in {"own.py": EDITED, "parts.py": "VALUE = 1.0\n", "data.txt": "3", "s.yaml": OWN}.items():
        (tmp_path / name).write_text(text)
    done = sweeper("run", "s.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "VALUE = 2.0" in (tmp_path / "parts.py").read_text()
    study = read_study("own", f"sqlite:///{tmp_path / 'sweeper.db'}")
    assert [row.attempt for row in study.rows()] == [1, 2, 1]
    for row in study.rows():
        assert [report.metrics for report in study.reports(row.number)] == [{"score": 1.0, "part": 1.0, "data": 3.0}]
    assert "part 1.0000" in done.stdout
    again = sweeper("run", "s.yaml", "--trials", "4", folder=tmp_path)
    assert again.returncode == 2 and "own:train has changed since sweep 'own' began (own.py, parts.py)" in again.stderr


@pytest.mark.long
def test_files_beside_a_built_in_sweep_hide_no_library(tmp_path: Path) -> None:
    for name in ("keras", "tensorflow", "pandas", "sqlalchemy", "statistics", "mlflow", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('hidden')\n")
    (tmp_path / "s.yaml").write_text(BUILT_IN)
    done = sweeper("run", "s.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
