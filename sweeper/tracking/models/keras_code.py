"""Predictions of the Keras model beside this file. They take numbers of any type, in any layout that fits the model.

sweeper copies this file into each Keras model that it saves. It needs mlflow, keras and numpy, but not sweeper.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class KerasModel(PythonModel):  # type: ignore[misc]
    """The Keras model as MLflow's pyfunc: quiet, and not particular about types and layouts."""

    def load_context(self, context: Any) -> None:
        """Load the Keras model, with the backend that it was saved with where no other is chosen or installed."""
        saved_with = (context.model_config or {}).get("keras_backend")
        if "keras" not in sys.modules and saved_with and find_spec("tensorflow") is None:
            os.environ.setdefault("KERAS_BACKEND", saved_with)
        import keras

        self._model = keras.saving.load_model(context.artifacts["model"], compile=False, safe_mode=True)

    # Without the annotation, MLflow asks for one in a warning at each load; with it, MLflow passes any input on.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """Return the outputs for one sample or several.

        Raises:
            ValueError: the input does not fit; the message has its shape, and none of its values.
        """
        inputs: Any = getattr(self._model, "inputs", None) or ()
        if len(inputs) == 1:  # of several inputs, Keras itself checks each
            model_input = fit_input(model_input, tuple(inputs[0].shape)[1:], np.dtype(str(inputs[0].dtype)))
        return self._model.predict(model_input, verbose=0)


def fit_input(given: Any, sample: tuple[int | None, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array of samples of the shape `sample`, where None is any size, for a model that takes `dtype`.

    One sample may come without the axis of samples, a sample may be flat, and axes of length 1 may be missing or too
    many.
    """
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the model takes an array of numbers of the shape {_show(sample)}, or several of these")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"the model takes whole numbers ({dtype}), not {array.dtype}")
    candidates = [(1, array.shape)] if array.shape == sample else []
    candidates += [(len(array), array.shape[1:])] if array.ndim else []
    for count, shape in (*candidates, (1, array.shape)):
        if (target := _layout(shape, sample)) is not None:
            return array.reshape(count, *target).astype(dtype, copy=False)
    raise ValueError(f"an input of the shape {_show(array.shape)} does not fit; the model takes {_show(sample)}")


def _layout(shape: Sequence[int], sample: Sequence[int | None]) -> list[int] | None:
    """Return the layout of the model for a sample that has `shape`; None if it does not fit."""
    if len(shape) == len(sample) and all(size in (None, own) for own, size in zip(shape, sample, strict=True)):
        return list(shape)
    if None not in sample and list(shape) == [math.prod(size or 1 for size in sample)]:
        return [size or 1 for size in sample]
    longer = [size for size in shape if size != 1]
    needed = [size for size in sample if size != 1]
    if len(longer) == len(needed) and all(size in (None, own) for own, size in zip(longer, needed, strict=True)):
        sizes = iter(longer)
        return [1 if size == 1 else next(sizes) for size in sample]
    return None


def _show(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


set_model(KerasModel())
