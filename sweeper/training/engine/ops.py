"""Tensor operations with their gradients: activations, products, dropout masks."""

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


def no_bias() -> Tensor:
    """In the place of the recurrent bias that a cell does not have."""
    from keras import ops

    return ops.zeros((0,))


def matmul(a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """The product of two matrices; TensorFlow transposes within it, other backends see it for themselves."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    return keras.ops.matmul(a.T if transpose_a else a, b.T if transpose_b else b)


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """In TensorFlow several times as fast as a sum of tensors of different shapes."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(x, bias)
    return x + bias


def product_over_steps(a: Tensor, b: Tensor) -> Tensor:
    """`[..., p]` and `[..., q]` to `[p, q]`."""
    from keras import ops

    a, b = (ops.reshape(part, (-1, ops.shape(part)[-1])) for part in (a, b))
    return matmul(a, b, transpose_a=True)


def project(x: Tensor, kernel: Tensor, *, transpose: bool = False) -> Tensor:
    """All time steps, if there are any, in one product of matrices."""
    from keras import ops

    *samples, features = ops.shape(x)
    product = matmul(ops.reshape(x, (-1, features)), kernel, transpose_b=transpose)
    return ops.reshape(product, (*samples, ops.shape(kernel)[0 if transpose else 1]))


def dropout_mask(shape: tuple[Any, ...], rate: Tensor, seed: Tensor) -> Tensor:
    """What a dropout multiplies with at this state of its generator; in TensorFlow, what Keras's does."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        drawn = jax.random.uniform(jax.random.fold_in(jax.random.PRNGKey(seed[0]), seed[1]), shape)
    else:
        import tensorflow as tf

        drawn = tf.random.stateless_uniform(shape, seed)
    return keras.ops.where(drawn >= rate, 1 / (1 - rate), 0.0)


def advance_seed(seed: Tensor) -> Tensor:
    from keras import ops

    return seed + ops.convert_to_tensor([0, 1], dtype=seed.dtype)
