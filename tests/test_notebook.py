"""A sweep of a function that is defined in a notebook, in a real Jupyter kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from sweeper.study.open import read_study
from sweeper.tracking.client import connect

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Jupyter and of MLflow

TRAIN = """
from pydantic import BaseModel, Field

class Params(BaseModel):
    alpha: float = Field(1e-4, gt=0)

def scaled(x):
    return x / 16

def train(params: Params, trial):
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier

    x, y = load_digits(return_X_y=True)
    model = SGDClassifier(alpha=params.alpha, random_state=trial.seed)
    while trial.step < trial.reports:
        model.partial_fit(scaled(x[:1400]), y[:1400], classes=range(10))
        trial.report({"accuracy": model.score(scaled(x[1400:]), y[1400:])})
    trial.save_model(model)
"""

RUN = """
from sweeper import Sweep, read_study, run_sweep

sweep = Sweep(
    name="notebook",
    trainable=train,
    objective={"metric": "accuracy"},
    budget={"trials": 3, "epochs": 3},
    pruner={"type": "none"},
    space={"alpha": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True}},
    tracking={"model": "digits"},
)
result = run_sweep(sweep)
result
"""

CHANGED = TRAIN.replace("x / 16", "x / 15")


def execute(*cells: str) -> list[list[Any]]:
    """Run the cells of a notebook in a kernel; return the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.long
def test_function_of_a_notebook_is_swept_registered_and_resumed(own_folder: Path) -> None:
    frames = ["result.trials", "result.curves", "read_study('notebook').trials"]
    _, run, trials, curves, _ = execute(TRAIN, RUN, *frames)
    printed = "".join(output.text for output in run if output.output_type == "stream")
    assert "trial 2 complete at epoch 3/3, accuracy 0." in printed and "3 of 3 ended" in printed
    assert run[-1].data["text/plain"].startswith("<SweepResult notebook: 3 complete; best accuracy 0.")
    assert "<table" in run[-1].data["text/html"]
    assert "COMPLETE" in trials[0].data["text/plain"] and "alpha" in trials[0].data["text/plain"]
    assert "epoch" in curves[0].data["text/plain"]
    study = read_study("notebook")
    assert len(study.curves) == 9 and list(study.trials.state) == ["COMPLETE"] * 3
    version = connect(f"sqlite:///{own_folder}/mlflow.db").get_model_version_by_alias("digits", "champion")
    assert version.tags["sweeper.trial"] == str(study.best().number)

    longer = RUN.replace('"trials": 3', '"trials": 4')
    execute(TRAIN, longer)
    assert len(read_study("notebook").rows()) == 4
    with pytest.raises(CellExecutionError, match="code of __main__:train has changed since sweep 'notebook' began"):
        execute(CHANGED, longer.replace('"trials": 4', '"trials": 5'))
