"""The activations of the recurrent layers, each with its derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Tensor = Any


@dataclass(frozen=True)
class Activation:
    """A function of keras.activations, and its gradient from what went in, what came out and the gradient of that."""

    name: str
    gradient: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        from keras import activations

        return getattr(activations, self.name)(x)


def tanh_gradient(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    fused = _fused("TanhGrad")
    return fused(y=y, dy=dy) if fused else dy * (1.0 - y * y)


def sigmoid_gradient(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    fused = _fused("SigmoidGrad")
    return fused(y=y, dy=dy) if fused else dy * y * (1.0 - y)


def _fused(name: str) -> Any:
    """TensorFlow's one operation for what would be three; other backends fuse by themselves."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return getattr(tf.raw_ops, name)


def _relu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    from keras import ops

    return ops.where(x > 0, dy, ops.zeros_like(dy))


def _elu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    from keras import ops

    return ops.where(x > 0, dy, dy * (y + 1.0))


def _gelu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    from keras import ops

    below = 0.5 * (1.0 + ops.erf(x / math.sqrt(2.0)))
    return dy * (below + x * ops.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))


def _silu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    from keras import ops

    gate = ops.sigmoid(x)
    return dy * (gate + y * (1.0 - gate))


def _softsign(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    from keras import ops

    return dy * ops.square(1.0 - ops.abs(y))


def _linear(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return dy


_GRADIENTS = {
    "tanh": tanh_gradient,
    "relu": _relu,
    "sigmoid": sigmoid_gradient,
    "elu": _elu,
    "gelu": _gelu,
    "silu": _silu,
    "softsign": _softsign,
    "linear": _linear,
}
ACTIVATIONS = {name: Activation(name, gradient) for name, gradient in _GRADIENTS.items()}
