"""The test of two models on the same data, run as a script in a process of its own. It does not import sweeper.

Usage: python rematch.py FOLDER, which holds the MLflow models `champion` and `challenger`, and `test.npz`; the result
is written to `result.json`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Predict = Callable[[Any], Any]


def main(folder: Path) -> None:
    try:
        result = _test(folder)
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        result = {"error": text[0] if isinstance(error, _RefusedError) else f"{type(error).__name__}: {text[0]}"}
    (folder / "result.json").write_text(json.dumps(result))


class _RefusedError(Exception):
    """The reason why the models are not compared."""


def _test(folder: Path) -> dict[str, Any]:
    with np.load(folder / "test.npz", allow_pickle=False) as data:
        x, y = data["x"], data["y"]
    champion, challenger = _load(folder / "champion"), _load(folder / "challenger")
    if champion[1] != challenger[1]:
        raise _RefusedError(f"the champion takes and returns {champion[1]}, and this sweep's model {challenger[1]}")
    classifies = y.dtype.kind in "iu" and y.ndim == 1
    outputs = [np.asarray(predict(x)) for predict, _ in (champion, challenger)]
    if not classifies:
        old, new = (_mean_squared_error(each, y) for each in outputs)
        return {"metric": "mean squared error", "champion": old, "challenger": new}
    one, other = (_right(each, y) for each in outputs)
    return {
        "metric": "accuracy",
        "champion": float(one.mean()),
        "challenger": float(other.mean()),
        "samples": len(y),
        "only_champion": int((one & ~other).sum()),
        "only_challenger": int((other & ~one).sum()),
    }


def _load(folder: Path) -> tuple[Predict, str]:
    """Return the prediction of a model, and the shapes of its inputs and outputs, as far as it states them.

    A Keras model is loaded without running any code that lies beside it. Others may hold pickles.
    """
    from mlflow.models import Model

    flavors = Model.load(str(folder)).flavors
    if "keras" in flavors:
        file = (folder / str(flavors["keras"].get("data", "data")) / "model.keras").resolve()
        if not file.is_relative_to(folder.resolve()):
            raise _RefusedError("the file of a Keras model lies outside of it")
        return _load_keras(file)
    if os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "").lower() not in ("true", "1"):
        raise _RefusedError(
            "loading a model that is not Keras's may run code in it; MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true allows it"
        )
    import mlflow

    return mlflow.pyfunc.load_model(str(folder)).predict, ""


def _load_keras(file: Path) -> tuple[Predict, str]:
    spec = importlib.util.spec_from_file_location("keras_code", Path(__file__).with_name("keras_code.py"))
    assert spec is not None and spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code
    spec.loader.exec_module(code)
    model, context = code.KerasModel(), SimpleNamespace(artifacts={"model": str(file)}, model_config={})
    model.load_context(context)
    keras_model = model._model
    shapes = [[tuple(tensor.shape)[1:] for tensor in side or ()] for side in (keras_model.inputs, keras_model.outputs)]
    return lambda x: model.predict(context, x), f"{shapes[0]} -> {shapes[1]}"


def _right(predicted: Any, y: Any) -> Any:
    """Return which samples a model classifies right."""
    if predicted.ndim == 2 and predicted.shape[1] > 1:
        predicted = predicted.argmax(axis=1)
    if predicted.shape != y.shape:
        raise _RefusedError(f"predictions of the shape {predicted.shape} are no classes for {len(y)} samples")
    return predicted == y


def _mean_squared_error(predicted: Any, y: Any) -> float:
    if predicted.size != y.size:
        raise _RefusedError(f"predictions of the shape {predicted.shape} are no forecasts for targets of {y.shape}")
    return float(np.square(predicted.reshape(y.shape).astype("float64") - y).mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
