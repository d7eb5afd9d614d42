"""Models as a trial saves them, and as whoever has only MLflow and the library loads them."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sweeper.tracking import save_model
from sweeper.tracking.models.keras_code import fit_input
from sweeper.tracking.models.saving import FLAVOURS, _flavour_of

X = np.linspace(0, 255, 3 * 8 * 6).reshape(3, 8, 6)
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


@pytest.fixture(scope="module")
def keras_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    folder = tmp_path_factory.mktemp("keras") / "model"
    folder.mkdir()
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 6)), keras.layers.Rescaling(1 / 255), keras.layers.GRU(4), keras.layers.Dense(10)]
    save_model(keras.Sequential(layers), folder, X[:2].astype("uint8"))
    return folder


@pytest.fixture(scope="module")
def loaded(keras_model: Path) -> Any:
    return mlflow.pyfunc.load_model(str(keras_model))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_keras_model_takes_every_type_of_number(loaded: Any, dtype: str) -> None:
    given = X.astype(dtype)
    expected = loaded.predict(given.astype("float32"))
    np.testing.assert_allclose(loaded.predict(given), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        X[:1],
        X[0],
        X[0].ravel(),
        X[:1].reshape(1, 48),
        X[:1, :, :, None],
        X[0, :, :, None],
        X[0].tolist(),
        X[:1].tolist(),
        pd.DataFrame(X[:1].reshape(1, 48)),
    ],
    ids=lambda given: f"{type(given).__name__}{np.shape(given)}",
)
def test_keras_model_takes_every_layout_that_fits(loaded: Any, given: Any) -> None:
    np.testing.assert_allclose(loaded.predict(given), loaded.predict(X)[:1], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((3, 7, 6), 77.0), "an input of the shape (3, 7, 6) does not fit; the model takes (8, 6)"),
        (np.full((2, 47), 77.0), "an input of the shape (2, 47) does not fit; the model takes (8, 6)"),
        ([[77.0], [77.0, 77.0]], "the model takes an array of numbers of the shape (8, 6), or several of these"),
        (["77"], "the model takes an array of numbers of the shape (8, 6), or several of these"),
    ],
)
def test_input_that_does_not_fit_is_a_short_error_without_the_data(loaded: Any, given: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        loaded.predict(given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("shape", "sample", "result"),
    [
        ((40, 1), (40, 1), (1, 40, 1)),
        ((5, 40), (40, 1), (5, 40, 1)),
        ((40,), (40, 1), (1, 40, 1)),
        ((5, 40, 1), (40, 1), (5, 40, 1)),
        ((7, 3), (None, 3), (1, 7, 3)),
        ((2, 7, 3), (None, 3), (2, 7, 3)),
        ((4,), (4,), (1, 4)),
        ((9, 4), (4,), (9, 4)),
        ((5,), (1,), (5, 1)),
        ((0, 28, 28), (28, 28), (0, 28, 28)),
        ((28, 28), (28, 28, 1), (1, 28, 28, 1)),
        ((2, 784), (28, 28, 1), (2, 28, 28, 1)),
    ],
)
def test_input_gets_the_layout_of_the_model(
    shape: tuple[int, ...], sample: tuple[int | None, ...], result: tuple[int, ...]
) -> None:
    assert fit_input(np.zeros(shape), sample, np.dtype("float32")).shape == result


def test_fractions_for_a_model_of_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes whole numbers \(int32\), not float64"):
        fit_input([[0.5, 1.0]], (2,), np.dtype("int32"))


def test_keras_model_of_two_inputs_takes_both(tmp_path: Path) -> None:
    import keras

    one, two = keras.Input((2,), name="one"), keras.Input((3,), name="two")
    model = keras.Model([one, two], keras.layers.Dense(1)(keras.layers.Concatenate()([one, two])))
    save_model(model, tmp_path)
    given = {"one": np.ones((4, 2), "float32"), "two": np.ones((4, 3), "float32")}
    assert mlflow.pyfunc.load_model(str(tmp_path)).predict(given).shape == (4, 1)


def test_keras_model_needs_no_sweeper_and_no_pickle_and_is_quiet(keras_model: Path, tmp_path: Path) -> None:
    code = """
import sys
sys.modules["sweeper"] = None
import keras, mlflow, numpy as np
folder = sys.argv[1]
model = mlflow.pyfunc.load_model(folder)
assert model.input_example.shape == (2, 8, 6)
assert model.metadata.signature.inputs is None
assert str(model.metadata.signature.outputs) == "[Tensor('float32', (-1, 10))]"
x = np.zeros((2, 8, 6), "uint8")
expected = model.predict(x)
for alone in (keras.saving.load_model(f"{folder}/data/model.keras"), mlflow.keras.load_model(folder)):
    np.testing.assert_allclose(alone(x.astype("float32")).numpy(), expected, rtol=1e-5)
"""
    env = {**os.environ, **QUIET, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    env.pop("PYTHONPATH", None)
    command = [sys.executable, "-P", "-c", code, str(keras_model)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "type hints" not in done.stderr, done.stderr


def test_keras_model_holds_one_file_of_code_and_pins_what_it_needs(keras_model: Path) -> None:
    needs = (keras_model / "requirements.txt").read_text().split()
    assert [need.split("==")[0] for need in needs] == ["mlflow", "keras", "numpy", "tensorflow"]
    assert all("==" in need for need in needs)
    assert [path.name for path in keras_model.rglob("*.py")] == ["keras_code.py"]


def test_model_of_scikit_learn_is_saved_without_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    save_model(model, tmp_path, np.array([[0.0], [1.0]]))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"MLmodel", "model.skops", "input_example.json"} <= names
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    found = mlflow.pyfunc.load_model(str(tmp_path))
    for dtype in ("uint8", "int64", "float32", "float64"):
        assert found.predict(np.array([[0], [1]], dtype)).tolist() == [0, 1]


def halve(x: Any) -> Any:
    return np.asarray(x) / 2


def test_model_with_own_functions_takes_them_along(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(halve), LogisticRegression()).fit([[0.0], [9.0]], [0, 1])
    save_model(model, tmp_path / "")
    assert (tmp_path / "model.pkl").exists() and not (tmp_path / "model.skops").exists()
    code = "import sys, mlflow; print(mlflow.pyfunc.load_model(sys.argv[1]).predict([[0.0], [9.0]]).tolist())"
    env = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}
    env.pop("PYTHONPATH", None)
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[0, 1]\n", done.stderr


def test_folder_of_plain_files_can_be_registered_but_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "own/inner").mkdir(parents=True)
    (tmp_path / "own/inner/weights").write_text("weights")
    (tmp_path / "own/link").symlink_to("inner/weights")
    (tmp_path / "saved").mkdir()
    save_model(tmp_path / "own", tmp_path / "saved")
    assert (tmp_path / "saved/files/link").read_text() == "weights" and not (tmp_path / "saved/files/link").is_symlink()
    assert list(mlflow.models.Model.load(str(tmp_path / "saved")).flavors) == ["files"]


def test_folder_with_an_mlflow_model_is_saved_as_it_is(keras_model: Path, tmp_path: Path) -> None:
    save_model(str(keras_model), tmp_path)
    assert (tmp_path / "MLmodel").read_text() == (keras_model / "MLmodel").read_text()
    assert (tmp_path / "data/model.keras").exists()


def test_folder_that_is_not_there_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder .*/none"):
        save_model(tmp_path / "none", tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/MLmodel").write_text("{")
    (tmp_path / "saved").mkdir()
    with pytest.raises(ValueError, match="MLflow cannot read .*/bad/MLmodel"):
        save_model(tmp_path / "bad", tmp_path / "saved")


def _class(module: str, name: str, *bases: type) -> type:
    return types.new_class(name, bases, exec_body=lambda body: body.update(__module__=module))


MODULE = _class("torch.nn.modules.module", "Module")
LAYER = _class("keras.src.layers.layer", "Layer", MODULE)
ESTIMATOR = _class("sklearn.base", "BaseEstimator")


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (_class("own", "Network", MODULE), "PyTorch"),
        (_class("own", "Network", _class("keras.src.models.model", "Model", LAYER)), "Keras"),
        (_class("xgboost.sklearn", "XGBClassifier", _class("xgboost.sklearn", "XGBModel", ESTIMATOR)), "XGBoost"),
        (_class("lightgbm.basic", "Booster"), "LightGBM"),
        (_class("torch._tensor", "Tensor"), None),
        (dict, None),
    ],
)
def test_flavour_follows_the_first_library_in_the_class(kind: type, label: str | None) -> None:
    found = _flavour_of(kind())
    assert (found and found.label) == label


def test_what_no_flavour_fits_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(TypeError) as caught:
        save_model({"weights": 1}, tmp_path)
    assert str(caught.value) == (
        "trial.save_model cannot save a dict; it takes a model of Keras, scikit-learn, PyTorch, XGBoost, LightGBM, "
        "or a folder with the files of any other"
    )
    assert list(FLAVOURS) == ["keras", "sklearn", "torch", "xgboost", "lightgbm"]
