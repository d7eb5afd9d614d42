"""Weights of a network: their order, paths, shapes and initial values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.datasets.base import LearningTask
from sweeper.training.engine.initializers import draw
from sweeper.training.engine.recurrence import CELLS

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams

Array = Any

HEAD = "head"
"""Name of the layer of the outputs."""

_OTHER_INITIALIZERS = {"kernel": "glorot_uniform", "gamma": "ones"}
"""Initializers of weights outside the recurrent layers, as in Keras; all others start at zero."""


@dataclass(frozen=True)
class WeightSpec:
    """One weight of the Keras model: its path `layer/.../name` and its shape."""

    path: str
    shape: tuple[int, ...]
    joint_fan_in: int | None = None
    """Width of inputs and state together, of which TensorFlow 1 had one kernel; None for other weights."""

    @property
    def name(self) -> str:
        """Last part of the path, such as `kernel`."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def weight_specs(params: RNNParams, task: LearningTask) -> list[WeightSpec]:
    """List the trainable weights of `build_network`'s model in its order, without the cost of building it."""
    cell, features = CELLS[params.cell], task.features
    specs = []
    for layer in range(params.layers):
        width, joint_fan_in = cell.gates * params.units, features + params.units
        for direction in ("forward", "backward")[: 1 + params.bidirectional]:
            path = f"rnn_{layer}/{direction}"
            specs.append(WeightSpec(f"{path}/kernel", (features, width), joint_fan_in))
            specs.append(WeightSpec(f"{path}/recurrent_kernel", (params.units, width), joint_fan_in))
            specs.append(WeightSpec(f"{path}/bias", (2, width) if cell.has_recurrent_bias else (width,)))
        features = params.units * (1 + params.bidirectional)
        if params.layer_norm:
            specs += [WeightSpec(f"norm_{layer}/{name}", (features,)) for name in ("gamma", "beta")]
    if params.dense:
        specs += [WeightSpec("dense/kernel", (features, params.dense)), WeightSpec("dense/bias", (params.dense,))]
        features = params.dense
    return [*specs, WeightSpec("head/kernel", (features, task.outputs)), WeightSpec("head/bias", (task.outputs,))]


def initial_weights(specs: Sequence[WeightSpec], params: RNNParams, seed: int) -> list[Array]:
    """Draw initial values of the trainable weights. They depend on the hyperparameters and the seed only."""
    names = {"kernel": params.kernel_initializer, "recurrent_kernel": params.recurrent_initializer}
    values: list[Array] = []
    for position, spec in enumerate(specs):
        layer = spec.path.split("/")[0]
        is_recurrent = layer.startswith("rnn")
        name = (names if is_recurrent else _OTHER_INITIALIZERS).get(spec.name, "zeros")
        if layer == HEAD and params.head_initializer != "keras":
            name = params.head_initializer
        fan_in = spec.joint_fan_in if params.joint_fans else None
        values.append(draw(name, spec.shape, derive_seed(seed, "weights", position), fan_in=fan_in))
        if spec.name == "bias" and params.cell == "lstm" and is_recurrent:
            values[-1][params.units : 2 * params.units] = params.forget_bias  # Keras's order of gates: i, f, c, o
    return values


def derive_seed(seed: int, *purpose: object) -> int:
    """Derive a seed of 31 bits for one purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
