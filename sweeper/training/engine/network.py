"""The network with its gradient, as operations on tensors of weights: what `build_network` does, made to be trained.

In TensorFlow's graphs widths, batch sizes and dropout rates are tensors: what is fixed is in `Network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.datasets.base import LearningTask
from sweeper.training.engine.ops import (
    ACTIVATIONS,
    Activation,
    add_bias,
    advance_seed,
    dropout_mask,
    no_bias,
    product_over_steps,
    project,
)
from sweeper.training.engine.recurrence import CELLS, Recurrence, compiled_recurrence

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams

Tensor = Any


Tensors = tuple[Tensor, ...]


Rates = Mapping[str, Tensor]


Backward = Callable[[Tensor], tuple[Tensor, list[Tensor]]]
"""From the gradient of an output to those of the input and of the weights."""


_NORM_EPSILON = 1e-3  # that of keras.layers.LayerNormalization


@dataclass(frozen=True)
class Network:
    """A network as far as it is part of a graph; frozen, so that equal ones share what was compiled."""

    task: LearningTask
    cell: str
    activation: str
    layers: int
    bidirectional: bool
    layer_norm: bool
    masking: bool
    has_dense: bool
    dense_activation: str
    has_dropout: bool
    has_recurrent_dropout: bool
    has_output_dropout: bool

    @classmethod
    def of(cls, params: RNNParams, task: LearningTask) -> Network:
        return cls(
            LearningTask(task.steps, 0, 0, task.forecasts),  # widths are not part of the graph
            params.cell,
            params.activation,
            params.layers,
            params.bidirectional,
            params.layer_norm,
            params.masking,
            params.dense > 0,
            params.dense_activation if params.dense else "",
            params.dropout > 0,
            params.recurrent_dropout > 0,
            params.output_dropout > 0,
        )

    @property
    def generators(self) -> int:
        """Generators of dropout masks: one for each layer and direction, and one for what is dropped of outputs."""
        return self.layers * self._directions + 1

    @property
    def ranks(self) -> tuple[int, ...]:
        """How many axes each weight has."""
        bias = 2 if CELLS[self.cell].has_recurrent_bias else 1
        layer = (2, 2, bias) * self._directions + (1, 1) * self.layer_norm
        return (*layer * self.layers, *(2, 1) * self.has_dense, 2, 1)

    def outputs(
        self, weights: Tensors, seeds: Tensors, x: Tensor, rates: Rates | None
    ) -> tuple[Tensor, Tensors, Callable[[Tensor], list[Tensor]]]:
        """What the network says of `[n, steps, features]`, the next states of the generators, and the way back.

        The way back takes the gradient of the outputs and gives those of the weights. Without rates, no dropout.
        """
        from keras import ops

        parts, states, pulls = iter(weights), list(seeds), []
        x = ops.transpose(x, (1, 0, 2))
        valid = self._step_mask(x)
        x = x * self.task.scale
        for layer in range(self.layers):
            sequences = layer < self.layers - 1 or self.task.forecasts
            directions: list[tuple[Tensor, Backward]] = []
            for backwards in (False, True)[: self._directions]:
                kernels, generator = (next(parts), next(parts), next(parts)), len(directions) + layer * self._directions
                masks, states[generator] = self._masks(x, kernels[1], states[generator], rates)
                directions.append(self._layer(x, kernels, masks, valid, sequences=sequences, backwards=backwards))
            x, pull = _join(directions)
            pulls.append(pull)
            if self.layer_norm:
                x, pull = _normalise(x, next(parts), next(parts))
                pulls.append(pull)
            x, pull, states[-1] = self._drop(x, states[-1], rates)
            pulls.append(pull)
        if self.has_dense:
            x, pull = _dense(x, next(parts), next(parts), ACTIVATIONS[self.dense_activation])
            pulls.append(pull)
            x, pull, states[-1] = self._drop(x, states[-1], rates)
            pulls.append(pull)
        x, pull = _dense(x, next(parts), next(parts), ACTIVATIONS["linear"])
        pulls.append(pull)

        def backward(d: Tensor) -> list[Tensor]:
            gradients: list[Tensor] = []
            d = ops.transpose(d, (1, 0, 2)) if self.task.forecasts else d
            for pull in reversed(pulls):
                d, found = pull(d)
                gradients = [*found, *gradients]
            return gradients

        return (ops.transpose(x, (1, 0, 2)) if self.task.forecasts else x), tuple(states), backward

    @property
    def _directions(self) -> int:
        return 1 + self.bidirectional

    def _step_mask(self, x: Tensor) -> Tensor:
        """1 for the time steps that count, `[steps, n, 1]`: as with keras.layers.Masking, those that are not all 0."""
        from keras import ops

        if not self.masking:
            return ops.zeros((0, 1, 1))
        return ops.cast(ops.any(ops.not_equal(x, 0.0), axis=-1, keepdims=True), "float32")

    def _drop(self, x: Tensor, seed: Tensor, rates: Rates | None) -> tuple[Tensor, Backward, Tensor]:
        """Drop a share of what a layer says, at each time step another."""
        from keras import ops

        if rates is None or not self.has_output_dropout:
            return x, lambda d: (d, []), seed
        mask = dropout_mask(ops.shape(x), rates["output_dropout"], seed)
        return x * mask, lambda d: (d * mask, []), advance_seed(seed)

    def _masks(
        self, x: Tensor, recurrent_kernel: Tensor, seed: Tensor, rates: Rates | None
    ) -> tuple[tuple[list[Tensor], Tensor | None], Tensor]:
        """The masks of inputs and of states that hold for a batch, drawn in Keras's order, and the generator's state.

        Keras gives each gate masks of its own only with recurrent dropout.
        """
        from keras import ops

        inputs: list[Tensor] = []
        states = None
        _, n, features = ops.shape(x)
        gates = CELLS[self.cell].gates if self.has_recurrent_dropout else 1
        if rates is not None and self.has_dropout:
            for _ in range(gates):
                inputs.append(dropout_mask((n, features), rates["dropout"], seed))
                seed = advance_seed(seed)
        if rates is not None and self.has_recurrent_dropout:
            drawn = []
            for _ in range(gates):
                drawn.append(dropout_mask((n, ops.shape(recurrent_kernel)[0]), rates["recurrent_dropout"], seed))
                seed = advance_seed(seed)
            states = ops.stack(drawn)
        return (inputs, states), seed

    def _layer(
        self,
        x: Tensor,
        kernels: tuple[Tensor, Tensor, Tensor],
        masks: tuple[list[Tensor], Tensor | None],
        valid: Tensor,
        *,
        sequences: bool,
        backwards: bool,
    ) -> tuple[Tensor, Backward]:
        """One direction of one layer, `[steps, n, features]` to `[steps, n, units]`, or to the last output alone."""
        from keras import ops

        (kernel, recurrent_kernel, bias), (input_masks, state_masks) = kernels, masks
        cell, recurrent_bias = CELLS[self.cell], no_bias()
        if cell.has_recurrent_bias:
            bias, recurrent_bias = bias[0], bias[1]
        turned, valid = (ops.flip(x, axis=0), ops.flip(valid, axis=0)) if backwards else (x, valid)
        kernel_of = ops.split(kernel, len(input_masks), axis=1) if len(input_masks) > 1 else [kernel]
        inputs = [turned * mask for mask in input_masks] or [turned]
        projected = [project(x, part) for x, part in zip(inputs, kernel_of, strict=True)]
        projected = add_bias(ops.concatenate(projected, axis=2) if len(projected) > 1 else projected[0], bias)
        masked = state_masks is not None
        state_masks = ops.zeros((0, 0, 0)) if state_masks is None else state_masks
        forward, backward = compiled_recurrence(
            Recurrence(self.cell, self.activation, self.task.steps, masked, self.masking, sequences)
        )
        output, kept = forward(projected, recurrent_kernel, recurrent_bias, state_masks, valid)

        def pull(d: Tensor) -> tuple[Tensor, list[Tensor]]:
            d = ops.flip(d, axis=0) if backwards and sequences else d
            dprojected, drecurrent, drecurrent_bias = backward(d, kept, recurrent_kernel, state_masks, valid)
            dbias = ops.sum(dprojected, axis=(0, 1))
            if cell.has_recurrent_bias:
                dbias = ops.stack([dbias, drecurrent_bias])
            changes = ops.split(dprojected, len(inputs), axis=2) if len(inputs) > 1 else [dprojected]
            dkernels = [product_over_steps(x, change) for x, change in zip(inputs, changes, strict=True)]
            dxs = [project(change, part, transpose=True) for change, part in zip(changes, kernel_of, strict=True)]
            dx = sum(dx * mask for dx, mask in zip(dxs, input_masks, strict=True)) if input_masks else dxs[0]
            dkernel = ops.concatenate(dkernels, axis=1) if len(dkernels) > 1 else dkernels[0]
            return (ops.flip(dx, axis=0) if backwards else dx), [dkernel, drecurrent, dbias]

        return (ops.flip(output, axis=0) if backwards and sequences else output), pull


def _join(directions: list[tuple[Tensor, Backward]]) -> tuple[Tensor, Backward]:
    """The outputs of both directions side by side, or that of the only one."""
    from keras import ops

    if len(directions) == 1:
        return directions[0]

    def pull(d: Tensor) -> tuple[Tensor, list[Tensor]]:
        pairs = zip(directions, ops.split(d, 2, axis=-1), strict=True)
        (dx, found), (dx_backwards, found_backwards) = (back(part) for (_, back), part in pairs)
        return dx + dx_backwards, [*found, *found_backwards]

    return ops.concatenate([output for output, _ in directions], axis=-1), pull


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Backward]:
    """Layer normalisation (Ba, Kiros, Hinton 2016, arXiv:1607.06450)."""
    from keras import ops

    mean, variance = ops.moments(x, axes=-1, keepdims=True)
    scale = ops.rsqrt(variance + _NORM_EPSILON)
    normal = (x - mean) * scale

    def pull(d: Tensor) -> tuple[Tensor, list[Tensor]]:
        samples = tuple(range(len(x.shape) - 1))
        through = d * gamma
        shared = ops.mean(through, axis=-1, keepdims=True)
        sloped = normal * ops.mean(through * normal, axis=-1, keepdims=True)
        return scale * (through - shared - sloped), [ops.sum(d * normal, axis=samples), ops.sum(d, axis=samples)]

    return normal * gamma + beta, pull


def _dense(x: Tensor, kernel: Tensor, bias: Tensor, activation: Activation) -> tuple[Tensor, Backward]:
    """A layer on the last output, or on each."""
    from keras import ops

    total = add_bias(project(x, kernel), bias)
    output = activation(total)

    def pull(d: Tensor) -> tuple[Tensor, list[Tensor]]:
        d = activation.gradient(total, output, d)
        dkernel = product_over_steps(x, d)
        return project(d, kernel, transpose=True), [dkernel, ops.sum(d, axis=tuple(range(len(d.shape) - 1)))]

    return output, pull
