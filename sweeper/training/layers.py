"""The network in Keras's own layers, made to be trained: on GPUs, for which they have cuDNN's kernels, and in lower
precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sweeper.training.models import build_network

if TYPE_CHECKING:
    from sweeper.datasets.base import Task
    from sweeper.training.hparams import RNNParams

Tensor = Any
Tensors = tuple[Tensor, ...]


class KerasNetwork:
    """A Keras model as `network.Network` is one; its sizes and its rates of dropout are fixed."""

    def __init__(self, params: RNNParams, task: Task) -> None:
        self.task = task
        self._model = build_network(params, task, precision=params.precision)

    @property
    def generators(self) -> int:
        return len(self._model.non_trainable_variables)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(len(variable.shape) for variable in self._model.trainable_variables)

    def outputs(
        self, weights: Tensors, seeds: Tensors, x: Tensor, rates: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensors, Callable[[Tensor], list[Tensor]]]:
        import keras

        variables = self._model.non_trainable_variables
        states = [keras.ops.cast(seed, variable.dtype) for seed, variable in zip(seeds, variables, strict=True)]

        def call(*parts: Tensor) -> tuple[Tensor, Tensors]:
            outputs, after = self._model.stateless_call(list(parts), states, x, training=rates is not None)
            return outputs, tuple(keras.ops.cast(state, "int32") for state in after)

        if keras.backend.backend() == "jax":
            import jax

            outputs, pull, after = jax.vjp(call, *weights, has_aux=True)
            return outputs, after, lambda d: list(pull(d))
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, after = call(*weights)
        return outputs, after, lambda d: tape.gradient(outputs, list(weights), output_gradients=d)
