"""Tensor operations with their gradients: activations, matrix products, dropout masks, layers without recurrence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.training.engine.runtime import is_jax, jax, keras, ops, tensorflow

Tensor = Any

Backward = Callable[[Tensor], tuple[Tensor, list[Tensor]]]
"""From the gradient of an output to those of the input and of the weights."""

_NORM_EPSILON = 1e-3  # that of keras.layers.LayerNormalization


@dataclass(frozen=True)
class Activation:
    """A function of keras.activations with its gradient: `gradient(input, output, output's gradient)`."""

    name: str
    gradient: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return getattr(keras.activations, self.name)(x)


# TensorFlow has one operation for each of these two gradients, in the place of three; XLA fuses the three by itself.


def tanh_gradient(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return dy * (1.0 - y * y) if is_jax() else tensorflow.raw_ops.TanhGrad(y=y, dy=dy)


def sigmoid_gradient(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return dy * y * (1.0 - y) if is_jax() else tensorflow.raw_ops.SigmoidGrad(y=y, dy=dy)


def _relu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return ops.where(x > 0, dy, ops.zeros_like(dy))


def _elu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return ops.where(x > 0, dy, dy * (y + 1.0))


def _gelu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    below = 0.5 * (1.0 + ops.erf(x / math.sqrt(2.0)))
    return dy * (below + x * ops.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))


def _silu(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    gate = ops.sigmoid(x)
    return dy * (gate + y * (1.0 - gate))


def _softsign(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return dy * ops.square(1.0 - ops.abs(y))


def _linear(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return dy


_GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
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
"""Activations that a sweep may name."""


def no_bias() -> Tensor:
    """Return an empty tensor, for cells without a recurrent bias."""
    return ops.zeros((0,))


def matmul(a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """Multiply two matrices. TensorFlow transposes within the product; XLA turns `.T` into the same by itself."""
    if is_jax():
        return ops.matmul(a.T if transpose_a else a, b.T if transpose_b else b)
    return tensorflow.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Add a vector to the last axis; TensorFlow's own operation is several times as fast there as a broadcast sum."""
    return x + bias if is_jax() else tensorflow.nn.bias_add(x, bias)


def product_over_steps(a: Tensor, b: Tensor) -> Tensor:
    """Multiply `[..., p]` and `[..., q]` to `[p, q]`, summed over all steps and samples."""
    a, b = (ops.reshape(part, (-1, ops.shape(part)[-1])) for part in (a, b))
    return matmul(a, b, transpose_a=True)


def project(x: Tensor, kernel: Tensor, *, transpose: bool = False) -> Tensor:
    """Multiply the last axis with a kernel; all time steps and samples go into one product of matrices."""
    *samples, features = ops.shape(x)
    product = matmul(ops.reshape(x, (-1, features)), kernel, transpose_b=transpose)
    return ops.reshape(product, (*samples, ops.shape(kernel)[0 if transpose else 1]))


def dropout_mask(shape: tuple[Any, ...], rate: Tensor, seed: Tensor) -> Tensor:
    """Draw the factors of a dropout, 0 or `1 / (1 - rate)`. In TensorFlow they are those that Keras draws.

    Args:
        seed: state of the generator, `[seed, counter]`; `advance_seed` gives the next.
    """
    if is_jax():
        drawn = jax.random.uniform(jax.random.fold_in(jax.random.PRNGKey(seed[0]), seed[1]), shape)
    else:
        drawn = tensorflow.random.stateless_uniform(shape, seed)
    return ops.where(drawn >= rate, 1 / (1 - rate), 0.0)


def advance_seed(seed: Tensor) -> Tensor:
    """Return the next state of a dropout generator."""
    return seed + ops.convert_to_tensor([0, 1], dtype=seed.dtype)


def chain(backwards: Sequence[Backward]) -> Backward:
    """Return the gradient of layers applied one after the other, from those of each; the weights keep their order."""

    def backward(d: Tensor) -> tuple[Tensor, list[Tensor]]:
        gradients: list[Tensor] = []
        for step_back in reversed(backwards):
            d, found = step_back(d)
            gradients = [*found, *gradients]
        return d, gradients

    return backward


def join(directions: list[tuple[Tensor, Backward]]) -> tuple[Tensor, Backward]:
    """Concatenate the outputs of both directions, or return those of the only one."""
    if len(directions) == 1:
        return directions[0]

    def backward(d: Tensor) -> tuple[Tensor, list[Tensor]]:
        pairs = zip(directions, ops.split(d, 2, axis=-1), strict=True)
        (dx, found), (dx_reversed, found_reversed) = (one_backward(part) for (_, one_backward), part in pairs)
        return dx + dx_reversed, [*found, *found_reversed]

    return ops.concatenate([output for output, _ in directions], axis=-1), backward


def normalise(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Backward]:
    """Apply layer normalisation (Ba, Kiros, Hinton 2016, arXiv:1607.06450)."""
    mean, variance = ops.moments(x, axes=-1, keepdims=True)
    scale = ops.rsqrt(variance + _NORM_EPSILON)
    normal = (x - mean) * scale

    def backward(d: Tensor) -> tuple[Tensor, list[Tensor]]:
        samples = tuple(range(len(x.shape) - 1))
        dnormal = d * gamma
        shared = ops.mean(dnormal, axis=-1, keepdims=True)
        sloped = normal * ops.mean(dnormal * normal, axis=-1, keepdims=True)
        return scale * (dnormal - shared - sloped), [ops.sum(d * normal, axis=samples), ops.sum(d, axis=samples)]

    return normal * gamma + beta, backward


def dense(x: Tensor, kernel: Tensor, bias: Tensor, activation: Activation) -> tuple[Tensor, Backward]:
    """Apply a dense layer to the last output, or to that of each time step."""
    total = add_bias(project(x, kernel), bias)
    output = activation(total)

    def backward(d: Tensor) -> tuple[Tensor, list[Tensor]]:
        d = activation.gradient(total, output, d)
        dkernel = product_over_steps(x, d)
        return project(d, kernel, transpose=True), [dkernel, ops.sum(d, axis=tuple(range(len(d.shape) - 1)))]

    return output, backward
