"""The networks: a stack of recurrent layers of one cell with a linear head, and the weights they start from."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams

Array = Any
Model = Any

# The names of classes in keras.layers, and of classes and functions in keras.initializers and keras.activations.
CELLS = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}
INITIALIZERS = {
    "glorot_uniform": "GlorotUniform",
    "glorot_normal": "GlorotNormal",
    "he_uniform": "HeUniform",
    "he_normal": "HeNormal",
    "lecun_uniform": "LecunUniform",
    "lecun_normal": "LecunNormal",
    "orthogonal": "Orthogonal",
}
ACTIVATIONS = {name: name for name in ("tanh", "relu", "sigmoid", "elu", "gelu", "silu", "softsign", "linear")}

_HEAD = "head"


def build_network(params: RNNParams, shape: tuple[int, int], classes: int, *, unroll: bool) -> Model:
    """A Keras model from pixels (0 to 255) `[n, steps, features]` to logits; its weights mean nothing yet.

    Layers bear fixed names, so that nothing depends on what was built in the process before.
    """
    import keras

    pixels = keras.Input(shape, name="pixels")
    x = keras.layers.Rescaling(1 / 255, name="rescale")(pixels)
    for number in range(params.layers):
        layer = getattr(keras.layers, CELLS[params.cell])(
            params.units,
            activation=ACTIVATIONS[params.activation],
            dropout=params.dropout,
            recurrent_dropout=params.recurrent_dropout,
            return_sequences=number < params.layers - 1,
            unroll=unroll,
            seed=number,
            name=f"rnn_{number}",
        )
        x = (keras.layers.Bidirectional(layer, name=f"both_{number}") if params.bidirectional else layer)(x)
        if params.layer_norm:
            x = keras.layers.LayerNormalization(name=f"norm_{number}")(x)
    return keras.Model(pixels, keras.layers.Dense(classes, name=_HEAD)(x), name=params.cell)


def initial_weights(model: Model, params: RNNParams, seed: int) -> list[Array]:
    """Fresh values of the model's trainable weights: a function of the hyperparameters and the seed alone."""
    import numpy as np
    from keras import initializers

    recipes = {
        "kernel": INITIALIZERS[params.kernel_initializer],
        "recurrent_kernel": INITIALIZERS[params.recurrent_initializer],
        "gamma": "Ones",
    }
    values = []
    for position, variable in enumerate(model.trainable_variables):
        is_head = variable.path.split("/")[0] == _HEAD
        recipe = "GlorotUniform" if is_head and variable.name == "kernel" else recipes.get(variable.name, "Zeros")
        config = {} if recipe in ("Ones", "Zeros") else {"seed": derive_seed(seed, "weights", position)}
        value = np.array(getattr(initializers, recipe)(**config)(variable.shape, dtype="float32"))
        if variable.name == "bias" and params.cell == "lstm" and not is_head:
            value[params.units : 2 * params.units] = params.forget_bias  # Keras's order of gates: i, f, c, o
        values.append(value)
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
