"""Models and checkpoints that an attacker has put into the folder of a sweep."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.long

SPACE = """
name: small
dataset: {type: digits}
budget: {trials: 2, epochs: 1, parallel: 2}
pruner: {type: none}
space: {cell: gru, units: 4, learning_rate: {type: float, low: 1e-3, high: 1e-2}}
tracking: {experiment: tests, model: small}
"""


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self._mark), "w")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "RAY_"))}
    command = [sys.executable, "-m", "sweeper", "run", "small.yaml", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SPACE)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def bomb_array(mark: Path) -> Any:
    import numpy as np

    array = np.empty(1, dtype=object)
    array[0] = Bomb(mark)
    return array


def save_keras_bomb(path: Path, mark: Path) -> None:
    """Save a model with a layer of Python bytecode that creates the mark when the model is loaded unsafely."""
    import keras

    name = str(mark)
    layer = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(name).touch(), x)[1])
    model = keras.Sequential([keras.Input((2,)), layer])
    assert mark.exists()  # building the model runs the layer, as loading it unsafely would
    model.save(path)
    mark.unlink(missing_ok=True)


def test_packed_model_needs_no_pickle(finished: Path) -> None:
    packed = finished / "sweeps/small/champion/mlflow_model"
    names = {path.name for path in packed.rglob("*") if path.is_file()}
    assert {"MLmodel", "model.keras"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".cloudpickle", ".pt", ".joblib"))]
    assert [name for name in names if name.endswith(".py")] == ["keras_code.py"]


def test_replaced_model_is_evaluated_again_and_never_registered(copy: Path, tmp_path: Path) -> None:
    champion, mark = copy / "sweeps/small/champion", tmp_path / "mark"
    save_keras_bomb(champion / "mlflow_model/data/model.keras", mark)
    (champion / "mlflow_model/code").mkdir()
    (champion / "mlflow_model/code/evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    model = (champion / "mlflow_model/MLmodel").read_text().replace("mlflow.pyfunc.loaders.code_model", "evil")
    (champion / "mlflow_model/MLmodel").write_text(model + "    code: code\n")
    (champion / "evaluation.json").write_text(json.dumps({"trial": 0, "metrics": {"test_accuracy": 1.0}}))
    done = run(copy, "--tracking-uri", f"sqlite:///{tmp_path}/other/mlflow.db")
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    kept = {path.name: path for path in (tmp_path / "other").rglob("*") if path.is_file()}
    assert "evil.py" not in kept
    assert "evil" not in kept["MLmodel"].read_text()
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in champion.rglob("model.keras")}
    assert hashlib.sha256(kept["model.keras"].read_bytes()).hexdigest() in digests


def test_pickled_checkpoint_is_not_loaded_even_if_its_manifest_matches(copy: Path, tmp_path: Path) -> None:
    import numpy as np

    mark = tmp_path / "mark"
    shutil.rmtree(copy / "sweeps/small/champion")
    states = list((copy / "sweeps/small/trials").rglob("state.npz"))
    assert states
    for number, state in enumerate(states):
        if number % 2:
            state.write_bytes(pickle.dumps(Bomb(mark)))
        else:
            np.savez(state, step=bomb_array(mark), weights=bomb_array(mark))
        manifest = state.parents[1] / "manifest"
        about = json.loads(manifest.read_text().partition("\n")[2])
        about["sha256"]["state.npz"] = hashlib.sha256(state.read_bytes()).hexdigest()
        body = json.dumps(about)
        manifest.write_text(f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}")
    done = run(copy)
    assert "could not be evaluated" in done.stderr
    assert not mark.exists()


def test_model_with_code_in_it_runs_none_when_it_is_loaded(tmp_path: Path) -> None:
    from sweeper.tracking.models.keras_code import KerasModel

    mark = tmp_path / "mark"
    save_keras_bomb(tmp_path / "model.keras", mark)
    context = SimpleNamespace(artifacts={"model": str(tmp_path / "model.keras")}, model_config={})
    with pytest.raises(ValueError, match="unsafe|safe_mode|Lambda"):
        KerasModel().load_context(context)
    assert not mark.exists()
