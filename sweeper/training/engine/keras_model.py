"""Networks as Keras models: to save them, and to train with Keras's own layers on GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sweeper.training.engine.recurrence import CELLS
from sweeper.training.engine.runtime import is_jax, jax, keras, ops, tensorflow
from sweeper.training.engine.weights import HEAD

if TYPE_CHECKING:
    from sweeper.datasets.base import LearningTask
    from sweeper.training.engine.shards import Dropout
    from sweeper.training.hparams import RNNParams

Model = Any
Tensor = Any
Tensors = tuple[Tensor, ...]


def build_network(params: RNNParams, task: LearningTask, *, precision: str = "float32") -> Model:
    """Build a Keras model from sequences `[n, steps, features]` to logits or forecasts. Its weights are not set yet.

    Layers have fixed names, so that the model does not depend on what the process built before.
    """
    layers = keras.layers
    sequences = keras.Input((task.steps, task.features), name="pixels" if task.scale != 1 else "sequences")
    x = layers.Rescaling(task.scale, name="rescale")(sequences) if task.scale != 1 else sequences
    if params.masking:
        x = layers.Masking(0.0, name="mask")(x)
    for number in range(params.layers):
        gives_all = number < params.layers - 1 or task.forecasts
        layer = getattr(layers, CELLS[params.cell].keras_class)(
            params.units,
            activation=params.activation,
            dropout=params.dropout,
            recurrent_dropout=params.recurrent_dropout,
            return_sequences=gives_all,
            zero_output_for_mask=gives_all,  # else a masked last step would zero the only output
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
    return keras.Model(sequences, layers.Dense(task.outputs, name=HEAD)(x), name=params.cell)


def with_probabilities(model: Model) -> Model:
    """Return a classifier that returns probabilities in the place of its logits."""
    return keras.Model(model.input, keras.layers.Softmax(name="probabilities")(model.output))


class KerasNetwork:
    """A Keras model with the interface of `network.Network`; its sizes and dropout rates are fixed."""

    def __init__(self, params: RNNParams, task: LearningTask) -> None:
        self.task = task
        self._model = build_network(params, task, precision=params.precision)

    @property
    def generators(self) -> int:
        """Number of generators of dropout masks."""
        return len(self._model.non_trainable_variables)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Number of axes of each weight."""
        return tuple(len(variable.shape) for variable in self._model.trainable_variables)

    def outputs(
        self, weights: Tensors, seeds: Tensors, x: Tensor, dropout: Dropout | None
    ) -> tuple[Tensor, Tensors, Callable[[Tensor], list[Tensor]]]:
        """Return what `Network.outputs` does. The backend differentiates; `dropout` only switches it on or off."""
        variables = self._model.non_trainable_variables
        states = [ops.cast(seed, variable.dtype) for seed, variable in zip(seeds, variables, strict=True)]

        def call(*parts: Tensor) -> tuple[Tensor, Tensors]:
            outputs, after = self._model.stateless_call(list(parts), states, x, training=dropout is not None)
            return outputs, tuple(ops.cast(state, "int32") for state in after)

        if is_jax():
            outputs, backward, after = jax.vjp(call, *weights, has_aux=True)
            return outputs, after, lambda d: list(backward(d))
        with tensorflow.GradientTape() as tape:
            tape.watch(weights)
            outputs, after = call(*weights)
        return outputs, after, lambda d: tape.gradient(outputs, list(weights), output_gradients=d)
