"""A Keras model of a sweep in the formats of other programs."""

from __future__ import annotations

import logging
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeper.core.environment import without_chatter
from sweeper.core.errors import InputError, SweeperError
from sweeper.core.text import first_line
from sweeper.tracking.models.saving import MLMODEL

CHECKED_INPUTS = 100
"""Random inputs on which an ONNX model is compared with the Keras model."""

MAX_DIFFERENCE = 1e-4
"""Largest difference between an output of the two, as sums are rounded in another order."""


def export_model(packed: Path, form: str, target: Path) -> str:
    """Write the Keras model in the folder of an MLflow model to a file or folder that does not exist yet.

    Args:
        form: `keras`, `savedmodel` or `onnx`.

    Returns:
        What was checked, in one sentence; "" if nothing was.

    Raises:
        InputError: it is no Keras model, or a package is missing.
        SweeperError: the exported model computes something else.
    """
    file = _keras_file(packed)
    if form == "keras":
        shutil.copyfile(file, target)
        return ""
    if form == "onnx" and (missing := [name for name in ("onnx", "onnxruntime", "tf2onnx") if find_spec(name) is None]):
        raise InputError(f"ONNX needs {', '.join(missing)}; install it with: pip install 'sweeper[onnx]'")
    with without_chatter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages below, which no user can mend
        logging.getLogger("tf2onnx").setLevel(logging.ERROR)
        import keras

        network = keras.saving.load_model(file, compile=False, safe_mode=True)
        given, expected = _tried(network)  # Keras exports to ONNX what was called before
        try:
            network.export(str(target), format="onnx" if form == "onnx" else "tf_saved_model", verbose=False)
        except Exception as error:
            raise SweeperError(f"Keras cannot export this model to {form} ({first_line(error)})") from error
        return _checked(target, given, expected) if form == "onnx" else ""


def _keras_file(packed: Path) -> Path:
    from mlflow.models import Model

    flavours = Model.load(str(packed / MLMODEL)).flavors
    if "keras" not in flavours:
        known = ", ".join(name for name in flavours if name != "python_function") or "other files"
        raise InputError(f"the model is none of Keras, but of {known}; it is in {packed}")
    return packed / str(flavours["keras"]["data"]) / "model.keras"


def _tried(network: Any) -> tuple[list[Any], list[Any]]:
    """Return random inputs of a model, and its outputs for them."""
    import numpy as np

    dice, given = np.random.default_rng(0), []
    for tensor in network.inputs:
        shape = [CHECKED_INPUTS, *(size or 8 for size in tensor.shape[1:])]
        given.append(dice.integers(0, 256, shape).astype(tensor.dtype))
    outputs = network.predict(given if len(given) > 1 else given[0], verbose=0)
    return given, outputs if isinstance(outputs, list) else [outputs]


def _checked(file: Path, given: list[Any], expected: list[Any]) -> str:
    """Compare what an ONNX model makes of inputs with what the Keras model has made of them."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, dict(zip(names, given, strict=True)))
    gap = max(float(np.abs(one - other).max()) for one, other in zip(expected, found, strict=True))
    if not gap <= MAX_DIFFERENCE:
        raise SweeperError(f"the ONNX model differs from the Keras model by {gap:.1e}; nothing was written")
    return f"onnxruntime agrees with Keras to {gap:.1e} on {CHECKED_INPUTS} random inputs"
