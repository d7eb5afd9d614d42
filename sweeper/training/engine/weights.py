"""The weights of a network: where each is, its shape, and what it starts from."""

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


_OTHERS = {"kernel": "glorot_uniform", "gamma": "ones"}


@dataclass(frozen=True)
class WeightSpec:
    """One weight of the Keras model: where it is, and its shape.

    TensorFlow 1 had one kernel for inputs and state together: `joint_fan_in` is the width of both.
    """

    path: str
    shape: tuple[int, ...]
    joint_fan_in: int | None = None

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def weight_specs(params: RNNParams, task: LearningTask) -> list[WeightSpec]:
    """The trainable weights of `build_network`'s model, in its order, without the cost of building it."""
    cell, features = CELLS[params.cell], task.features
    specs = []
    for layer in range(params.layers):
        width, both = cell.gates * params.units, features + params.units
        for direction in ("forward", "backward")[: 1 + params.bidirectional]:
            path = f"rnn_{layer}/{direction}"
            specs.append(WeightSpec(f"{path}/kernel", (features, width), both))
            specs.append(WeightSpec(f"{path}/recurrent_kernel", (params.units, width), both))
            specs.append(WeightSpec(f"{path}/bias", (2, width) if cell.has_recurrent_bias else (width,)))
        features = params.units * (1 + params.bidirectional)
        if params.layer_norm:
            specs += [WeightSpec(f"norm_{layer}/{name}", (features,)) for name in ("gamma", "beta")]
    if params.dense:
        specs += [WeightSpec("dense/kernel", (features, params.dense)), WeightSpec("dense/bias", (params.dense,))]
        features = params.dense
    return [*specs, WeightSpec("head/kernel", (features, task.outputs)), WeightSpec("head/bias", (task.outputs,))]


def initial_weights(specs: Sequence[WeightSpec], params: RNNParams, seed: int) -> list[Array]:
    """Fresh values of the trainable weights: a function of the hyperparameters and the seed alone."""

    names = {"kernel": params.kernel_initializer, "recurrent_kernel": params.recurrent_initializer}
    values: list[Array] = []
    for position, spec in enumerate(specs):
        layer = spec.path.split("/")[0]
        is_recurrent = layer.startswith("rnn")
        name = (names if is_recurrent else _OTHERS).get(spec.name, "zeros")
        if layer == HEAD and params.head_initializer != "keras":
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
