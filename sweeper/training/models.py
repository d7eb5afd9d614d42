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
    from sweeper.training.task import Task

Array = Any
Model = Any

# The names of classes in keras.layers.
CELLS = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}
_HEAD = "head"
_OTHERS = {"kernel": "glorot_uniform", "gamma": "ones"}


def build_network(params: RNNParams, task: Task, *, precision: str = "float32") -> Model:
    """A Keras model from sequences `[n, steps, features]` to logits or forecasts; its weights mean nothing yet.

    Layers bear fixed names, so that nothing depends on what was built in the process before.
    """
    import keras

    layers = keras.layers
    sequences = keras.Input((task.steps, task.features), name="pixels" if task.scale != 1 else "sequences")
    x = layers.Rescaling(task.scale, name="rescale")(sequences) if task.scale != 1 else sequences
    if params.masking:
        x = layers.Masking(0.0, name="mask")(x)
    for number in range(params.layers):
        gives_all = number < params.layers - 1 or task.forecasts
        layer = getattr(layers, CELLS[params.cell])(
            params.units,
            activation=params.activation,
            dropout=params.dropout,
            recurrent_dropout=params.recurrent_dropout,
            return_sequences=gives_all,
            zero_output_for_mask=gives_all,  # else the last output would be zero, and not that of the last step
            seed=number,
            dtype=precision,
            name=f"rnn_{number}",
        )
        x = (layers.Bidirectional(layer, name=f"both_{number}") if params.bidirectional else layer)(x)
        if params.layer_norm:
            x = layers.LayerNormalization(dtype=precision, name=f"norm_{number}")(x)
        if params.output_dropout:
            x = layers.Dropout(params.output_dropout, seed=number, name=f"drop_{number}")(x)
    if params.dense:
        x = layers.Dense(params.dense, activation=params.dense_activation, dtype=precision, name="dense")(x)
        if params.output_dropout:
            x = layers.Dropout(params.output_dropout, seed=params.layers, name="drop_dense")(x)
    return keras.Model(sequences, layers.Dense(task.outputs, name=_HEAD)(x), name=params.cell)


def initial_weights(specs: Sequence[WeightSpec], params: RNNParams, seed: int) -> list[Array]:
    """Fresh values of the trainable weights: a function of the hyperparameters and the seed alone."""

    names = {"kernel": params.kernel_initializer, "recurrent_kernel": params.recurrent_initializer}
    values: list[Array] = []
    for position, spec in enumerate(specs):
        layer = spec.path.split("/")[0]
        is_recurrent = layer.startswith("rnn")
        name = (names if is_recurrent else _OTHERS).get(spec.name, "zeros")
        if layer == _HEAD and params.head_initializer != "keras":
            name = params.head_initializer
        fan_in = spec.joint_fan_in if params.joint_fans else None
        values.append(draw(name, spec.shape, derive_seed(seed, "weights", position), fan_in=fan_in))
        if spec.name == "bias" and params.cell == "lstm" and is_recurrent:
            values[-1][params.units : 2 * params.units] = params.forget_bias  # Keras's order of gates: i, f, c, o
    return values


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed of 31 bits for one purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def save_model(model: Model, path: Path, *, classifies: bool) -> None:
    """Write the model, a classifier's logits turned into probabilities, as one `.keras` file in one rename.

    It holds built-in layers only: anyone loads it with `keras.saving.load_model(path, safe_mode=True)`.
    """
    import keras

    if classifies:
        model = keras.Model(model.input, keras.layers.Softmax(name="probabilities")(model.output))
    beside = path.with_name(f".{path.stem}-{uuid4().hex[:8]}.keras")  # Keras insists on the ending
    try:
        with warnings.catch_warnings():  # Keras reads TensorFlow's variables in a way NumPy 2 will no longer know
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept", DeprecationWarning)
            model.save(beside)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
