"""The network in Keras's own layers, made to be trained: on GPUs, for which they have cuDNN's kernels, and in lower
precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sweeper.training.models import build_network

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams

Tensor = Any
Tensors = tuple[Tensor, ...]


class KerasNetwork:
    """A Keras model as `network.Network` is one; its sizes and its rates of dropout are fixed."""

    def __init__(self, params: RNNParams, shape: tuple[int, int], classes: int) -> None:
        self.steps = shape[0]
        self._model = build_network(params, shape, classes, precision=params.precision)

    @property
    def generators(self) -> int:
        return len(self._model.non_trainable_variables)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(len(variable.shape) for variable in self._model.trainable_variables)

    def logits(
        self, weights: Tensors, seeds: Tensors, pixels: Tensor, rates: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensors, Callable[[Tensor], list[Tensor]]]:
        import keras

        variables = self._model.non_trainable_variables
        states = [keras.ops.cast(seed, variable.dtype) for seed, variable in zip(seeds, variables, strict=True)]

        def call(*parts: Tensor) -> tuple[Tensor, Tensors]:
            logits, after = self._model.stateless_call(list(parts), states, pixels, training=rates is not None)
            return logits, tuple(keras.ops.cast(state, "int32") for state in after)

        if keras.backend.backend() == "jax":
            import jax

            logits, pull, after = jax.vjp(call, *weights, has_aux=True)
            return logits, after, lambda d: list(pull(d))
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, after = call(*weights)
        return logits, after, lambda d: tape.gradient(logits, list(weights), output_gradients=d)
