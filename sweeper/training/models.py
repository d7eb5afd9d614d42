"""The networks: a stack of recurrent layers of one cell with a linear head, and the weights they start from."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sweeper.training.initializers import draw

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams
    from sweeper.training.network import WeightSpec

Array = Any
Model = Any

# The names of classes in keras.layers.
CELLS = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}
_HEAD = "head"


def build_network(params: RNNParams, shape: tuple[int, int], classes: int, *, precision: str = "float32") -> Model:
    """A Keras model from pixels (0 to 255) `[n, steps, features]` to logits; its weights mean nothing yet.

    Layers bear fixed names, so that nothing depends on what was built in the process before.
    """
    import keras

    pixels = keras.Input(shape, name="pixels")
    x = keras.layers.Rescaling(1 / 255, name="rescale")(pixels)
    for number in range(params.layers):
        layer = getattr(keras.layers, CELLS[params.cell])(
            params.units,
            activation=params.activation,
            dropout=params.dropout,
            recurrent_dropout=params.recurrent_dropout,
            return_sequences=number < params.layers - 1,
            seed=number,
            dtype=precision,
            name=f"rnn_{number}",
        )
        x = (keras.layers.Bidirectional(layer, name=f"both_{number}") if params.bidirectional else layer)(x)
        if params.layer_norm:
            x = keras.layers.LayerNormalization(dtype=precision, name=f"norm_{number}")(x)
    return keras.Model(pixels, keras.layers.Dense(classes, name=_HEAD)(x), name=params.cell)


def initial_weights(specs: Sequence[WeightSpec], params: RNNParams, seed: int) -> list[Array]:
    """Fresh values of the trainable weights: a function of the hyperparameters and the seed alone."""
    import numpy as np

    recipes = {"kernel": params.kernel_initializer, "recurrent_kernel": params.recurrent_initializer}
    values: list[Array] = []
    for position, spec in enumerate(specs):
        is_head = spec.path.startswith(_HEAD)
        if recipe := "glorot_uniform" if is_head and spec.name == "kernel" else recipes.get(spec.name):
            values.append(draw(recipe, spec.shape, derive_seed(seed, "weights", position)))  # type: ignore[arg-type]
        else:
            values.append(np.full(spec.shape, float(spec.name == "gamma"), np.float32))
        if spec.name == "bias" and params.cell == "lstm" and not is_head:
            values[-1][params.units : 2 * params.units] = params.forget_bias  # Keras's order of gates: i, f, c, o
    return values


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed of 31 bits for one purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def save_classifier(model: Model, path: Path) -> None:
    """Write the model, with its logits turned into probabilities, as one `.keras` file in one rename.

    It holds built-in layers only: anyone loads it with `keras.saving.load_model(path, safe_mode=True)`.
    """
    import keras

    classifier = keras.Model(model.input, keras.layers.Softmax(name="probabilities")(model.output))
    beside = path.with_name(f".{path.stem}-{uuid4().hex[:8]}.keras")  # Keras insists on the ending
    try:
        with warnings.catch_warnings():  # Keras reads TensorFlow's variables in a way NumPy 2 will no longer know
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept", DeprecationWarning)
            classifier.save(beside)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
