"""The network and its gradient, written out as operations on tensors of weights.

It computes what the model of `keras_model.build_network` does. In TensorFlow's graphs widths, batch sizes and dropout
rates are tensors; the fields of `Network` are all that a graph fixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.datasets.base import LearningTask
from sweeper.training.engine.ops import (
    ACTIVATIONS,
    Backward,
    add_bias,
    advance_seed,
    chain,
    dense,
    join,
    no_bias,
    normalise,
    product_over_steps,
    project,
)
from sweeper.training.engine.recurrence import CELLS, Recurrence, compiled_recurrence
from sweeper.training.engine.runtime import ops
from sweeper.training.engine.shards import Dropout

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams

Tensor = Any
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Network:
    """Structure of a network, as far as a graph depends on it; frozen, because equal ones share a compiled graph."""

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
        """Return the structure that these hyperparameters declare."""
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
        """Number of generators of dropout masks: one for each layer and direction, and one for all outputs."""
        return self.layers * self._directions + 1

    @property
    def ranks(self) -> tuple[int, ...]:
        """Number of axes of each weight."""
        bias = 2 if CELLS[self.cell].has_recurrent_bias else 1
        layer = (2, 2, bias) * self._directions + (1, 1) * self.layer_norm
        return (*layer * self.layers, *(2, 1) * self.has_dense, 2, 1)

    def outputs(
        self, weights: Tensors, seeds: Tensors, x: Tensor, dropout: Dropout | None
    ) -> tuple[Tensor, Tensors, Callable[[Tensor], list[Tensor]]]:
        """Return the outputs for `x`, the next states of the generators, and a function for the gradient.

        That function takes the gradient of the outputs and returns those of the weights.

        Args:
            seeds: states of the dropout generators, `[2]` each.
            x: sequences `[n, steps, features]`.
            dropout: draws the masks; None: no dropout, as in an evaluation.
        """
        parts, forecasts = iter(weights), self.task.forecasts
        x, states, stack = self._recurrent_stack(ops.transpose(x, (1, 0, 2)), parts, seeds, dropout)
        x, states[-1], head = self._head(x, parts, states[-1], dropout)
        whole = chain([*stack, *head])

        def backward(d: Tensor) -> list[Tensor]:
            return whole(ops.transpose(d, (1, 0, 2)) if forecasts else d)[1]

        return (ops.transpose(x, (1, 0, 2)) if forecasts else x), tuple(states), backward

    @property
    def _directions(self) -> int:
        return 1 + self.bidirectional

    def _recurrent_stack(
        self, x: Tensor, parts: Iterator[Tensor], seeds: Tensors, dropout: Dropout | None
    ) -> tuple[Tensor, list[Tensor], list[Backward]]:
        """Apply the recurrent layers with their normalisation and dropout to `[steps, n, features]`."""
        states, backwards = list(seeds), []
        valid = self._step_mask(x)
        x = x * self.task.scale
        for layer in range(self.layers):
            sequences = layer < self.layers - 1 or self.task.forecasts
            directions: list[tuple[Tensor, Backward]] = []
            for is_reversed in (False, True)[: self._directions]:
                weights, generator = (next(parts), next(parts), next(parts)), len(directions) + layer * self._directions
                masks, states[generator] = self._masks(x, weights[1], states[generator], dropout)
                directions.append(self._layer(x, weights, masks, valid, sequences=sequences, is_reversed=is_reversed))
            x, backward = join(directions)
            backwards.append(backward)
            if self.layer_norm:
                x, backward = normalise(x, next(parts), next(parts))
                backwards.append(backward)
            x, backward, states[-1] = self._drop(x, states[-1], dropout)
            backwards.append(backward)
        return x, states, backwards

    def _head(
        self, x: Tensor, parts: Iterator[Tensor], seed: Tensor, dropout: Dropout | None
    ) -> tuple[Tensor, Tensor, list[Backward]]:
        """Apply the dense layer with its dropout, if there is one, and the layer of the outputs."""
        backwards: list[Backward] = []
        if self.has_dense:
            x, backward = dense(x, next(parts), next(parts), ACTIVATIONS[self.dense_activation])
            x, drop_backward, seed = self._drop(x, seed, dropout)
            backwards += [backward, drop_backward]
        x, backward = dense(x, next(parts), next(parts), ACTIVATIONS["linear"])
        return x, seed, [*backwards, backward]

    def _step_mask(self, x: Tensor) -> Tensor:
        """Return `[steps, n, 1]`, 1 for the time steps that are not all 0, as keras.layers.Masking does."""
        if not self.masking:
            return ops.zeros((0, 1, 1))
        return ops.cast(ops.any(ops.not_equal(x, 0.0), axis=-1, keepdims=True), "float32")

    def _drop(self, x: Tensor, seed: Tensor, dropout: Dropout | None) -> tuple[Tensor, Backward, Tensor]:
        """Apply dropout to a layer's output, with a new mask at each time step."""
        if dropout is None or not self.has_output_dropout:
            return x, lambda d: (d, []), seed
        mask = dropout.mask(ops.shape(x), "output_dropout", seed)
        return x * mask, lambda d: (d * mask, []), advance_seed(seed)

    def _masks(
        self, x: Tensor, recurrent_kernel: Tensor, seed: Tensor, dropout: Dropout | None
    ) -> tuple[tuple[list[Tensor], Tensor | None], Tensor]:
        """Draw a batch's dropout masks of inputs and of states in Keras's order; return the generator's next state too.

        Keras gives each gate its own masks only with recurrent dropout.
        """
        inputs: list[Tensor] = []
        states = None
        _, n, features = ops.shape(x)
        gates = CELLS[self.cell].gates if self.has_recurrent_dropout else 1
        if dropout is not None and self.has_dropout:
            for _ in range(gates):
                inputs.append(dropout.mask((n, features), "dropout", seed))
                seed = advance_seed(seed)
        if dropout is not None and self.has_recurrent_dropout:
            drawn = []
            for _ in range(gates):
                drawn.append(dropout.mask((n, ops.shape(recurrent_kernel)[0]), "recurrent_dropout", seed))
                seed = advance_seed(seed)
            states = ops.stack(drawn)
        return (inputs, states), seed

    def _layer(
        self,
        x: Tensor,
        weights: tuple[Tensor, Tensor, Tensor],
        masks: tuple[list[Tensor], Tensor | None],
        valid: Tensor,
        *,
        sequences: bool,
        is_reversed: bool,
    ) -> tuple[Tensor, Backward]:
        """Apply one direction of one layer: `[steps, n, features]` to `[steps, n, units]`, or to the last output."""
        (kernel, recurrent_kernel, bias), (input_masks, state_masks) = weights, masks
        has_recurrent_bias = CELLS[self.cell].has_recurrent_bias
        bias, recurrent_bias = (bias[0], bias[1]) if has_recurrent_bias else (bias, no_bias())
        if is_reversed:
            x, valid = ops.flip(x, axis=0), ops.flip(valid, axis=0)
        projected, inputs, kernels = _project_inputs(x, kernel, bias, input_masks)
        output, recur_backward = self._recur(
            projected, recurrent_kernel, recurrent_bias, state_masks, valid, sequences=sequences
        )
        flips_output = is_reversed and sequences
        tape = LayerTape(inputs, kernels, input_masks, recur_backward, has_recurrent_bias, is_reversed, flips_output)
        return (ops.flip(output, axis=0) if flips_output else output), tape.backward

    def _recur(
        self, projected: Tensor, kernel: Tensor, bias: Tensor, masks: Tensor | None, valid: Tensor, *, sequences: bool
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        """Run the time steps; return the outputs, and a function for the gradients of `projected`, kernel and bias."""
        forward, backward = compiled_recurrence(
            Recurrence(self.cell, self.activation, self.task.steps, masks is not None, self.masking, sequences)
        )
        masks = ops.zeros((0, 0, 0)) if masks is None else masks
        output, kept = forward(projected, kernel, bias, masks, valid)
        return output, lambda d: backward(d, kept, kernel, masks, valid)


@dataclass(frozen=True, eq=False)
class LayerTape:
    """What one direction of a layer keeps of its forward pass, to compute its gradients from."""

    inputs: list[Tensor]
    """Inputs in the order of the time steps taken; one for each gate if each has its own dropout mask."""
    kernels: list[Tensor]
    """The kernel, cut into as many parts as there are inputs."""
    input_masks: list[Tensor]
    recur_backward: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    has_recurrent_bias: bool
    flips_input: bool
    flips_output: bool

    def backward(self, d: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients of the input and of the kernel, the recurrent kernel and the bias."""
        d = ops.flip(d, axis=0) if self.flips_output else d
        dprojected, drecurrent, drecurrent_bias = self.recur_backward(d)
        dbias = ops.sum(dprojected, axis=(0, 1))
        if self.has_recurrent_bias:
            dbias = ops.stack([dbias, drecurrent_bias])
        changes = ops.split(dprojected, len(self.inputs), axis=2) if len(self.inputs) > 1 else [dprojected]
        dkernels = [product_over_steps(x, change) for x, change in zip(self.inputs, changes, strict=True)]
        dxs = [project(change, part, transpose=True) for change, part in zip(changes, self.kernels, strict=True)]
        dx = sum(dx * mask for dx, mask in zip(dxs, self.input_masks, strict=True)) if self.input_masks else dxs[0]
        dkernel = ops.concatenate(dkernels, axis=1) if len(dkernels) > 1 else dkernels[0]
        return (ops.flip(dx, axis=0) if self.flips_input else dx), [dkernel, drecurrent, dbias]


def _project_inputs(
    x: Tensor, kernel: Tensor, bias: Tensor, masks: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Project all time steps at once, to `[steps, n, gates * units]`; return also what was multiplied.

    These are the masked inputs and the parts of the kernel: one for each gate with several masks, else one.
    """
    kernels = ops.split(kernel, len(masks), axis=1) if len(masks) > 1 else [kernel]
    inputs = [x * mask for mask in masks] or [x]
    products = [project(part, part_kernel) for part, part_kernel in zip(inputs, kernels, strict=True)]
    return add_bias(ops.concatenate(products, axis=2) if len(products) > 1 else products[0], bias), inputs, kernels
