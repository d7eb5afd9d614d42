"""Recurrences of the three cells, with their gradients written out, and the table of cells.

Keras projects the inputs anew at every time step and leaves the gradient to the backend, which adds up one weight
gradient per step. Here all inputs are projected before the first step, and the weights get their gradient from one
product after the last. A TensorFlow graph fixes only the number of time steps, so all widths and batch sizes share it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sweeper.training.engine.ops import (
    ACTIVATIONS,
    Activation,
    add_bias,
    no_bias,
    product_over_steps,
    sigmoid_gradient,
)
from sweeper.training.engine.runtime import is_jax, jax, ops, tensorflow, to_forget

Tensor = Any
Tensors = tuple[Tensor, ...]

_MAX_UNROLLED_STEPS = 64
"""TensorFlow loops over more time steps; so many are unrolled, which is 10 to 40 % faster than its loop on a CPU."""


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent layer: its sizes, and one time step forward and backward."""

    keras_class: str
    """Class of keras.layers that a trained layer is saved as, and that tests compare this cell with."""
    gates: int
    """Number of kernels, and so of projections of width `units`."""
    states: int
    """Number of vectors that a step hands to the next; the first one is the output."""
    forward: Callable[[Tensor, Tensor, Tensors, Activation], tuple[Tensors, Tensors]]
    """`forward(x, r, states, activation) -> (states, kept)`: one step.

    `x` and `r` are the projections of input and state, `[batch, gates * units]`; `kept` is what `backward` needs.
    """
    backward: Callable[[Tensors, Tensors, Activation], tuple[Tensor, Tensor, Tensors]]
    """`backward(kept, gradients, activation) -> (dx, dr, gradients)`: the same step's gradient.

    It takes the gradients of the states after the step and returns those of `x`, of `r`, and of the states before the
    step as far as they do not come through `r` (None: they all do).
    """
    has_recurrent_bias: bool = False


def _simple_forward(x: Tensor, r: Tensor, states: Tensors, activation: Activation) -> tuple[Tensors, Tensors]:
    total = x + r
    output = activation(total)
    return (output,), (total, output)


def _simple_backward(kept: Tensors, gradients: Tensors, activation: Activation) -> tuple[Tensor, Tensor, Tensors]:
    total, output = kept
    change = activation.gradient(total, output, gradients[0])
    return change, change, (None,)


def _lstm_forward(x: Tensor, r: Tensor, states: Tensors, activation: Activation) -> tuple[Tensors, Tensors]:
    before = states[1]
    i, f, candidate, o = ops.split(x + r, 4, axis=1)
    i, f, o = ops.sigmoid(i), ops.sigmoid(f), ops.sigmoid(o)
    g = activation(candidate)
    carry = f * before + i * g
    shown = activation(carry)
    return (o * shown, carry), (i, f, candidate, g, o, before, carry, shown)


def _lstm_backward(kept: Tensors, gradients: Tensors, activation: Activation) -> tuple[Tensor, Tensor, Tensors]:
    i, f, candidate, g, o, before, carry, shown = kept
    dh, dc = gradients
    dc = dc + activation.gradient(carry, shown, dh * o)
    gates = [
        sigmoid_gradient(None, i, dc * g),
        sigmoid_gradient(None, f, dc * before),
        activation.gradient(candidate, g, dc * i),
        sigmoid_gradient(None, o, dh * shown),
    ]
    change = ops.concatenate(gates, axis=1)
    return change, change, (None, dc * f)


def _gru_forward(x: Tensor, r: Tensor, states: Tensors, activation: Activation) -> tuple[Tensors, Tensors]:
    xz, xr, xh = ops.split(x, 3, axis=1)
    rz, rr, rh = ops.split(r, 3, axis=1)
    update, reset = ops.sigmoid(xz + rz), ops.sigmoid(xr + rr)
    total = xh + reset * rh
    candidate = activation(total)
    difference = states[0] - candidate
    return (candidate + update * difference,), (update, reset, rh, total, candidate, difference)


def _gru_backward(kept: Tensors, gradients: Tensors, activation: Activation) -> tuple[Tensor, Tensor, Tensors]:
    update, reset, rh, total, candidate, difference = kept
    (dh,) = gradients
    passed = dh * update
    dtotal = activation.gradient(total, candidate, dh - passed)
    dz = sigmoid_gradient(None, update, dh * difference)
    dr = sigmoid_gradient(None, reset, dtotal * rh)
    dx, dh_projected = ops.concatenate([dz, dr, dtotal], axis=1), ops.concatenate([dz, dr, dtotal * reset], axis=1)
    return dx, dh_projected, (passed,)


CELLS = {
    "simple_rnn": Cell("SimpleRNN", 1, 1, _simple_forward, _simple_backward),
    "lstm": Cell("LSTM", 4, 2, _lstm_forward, _lstm_backward),
    "gru": Cell("GRU", 3, 1, _gru_forward, _gru_backward, has_recurrent_bias=True),
}
"""Cells that a sweep may name. To add one, write its two functions and add it here; the tests run over this table."""


@dataclass(frozen=True)
class Recurrence:
    """All time steps of one layer in one direction, from projected inputs to outputs.

    Frozen, because equal ones share a compiled function.
    """

    cell: str
    activation: str
    steps: int
    masked: bool
    """Each gate sees the state through its own dropout mask; `masks` is `[gates, batch, units]`."""
    skips: bool
    """Where `valid`, `[steps, batch, 1]`, is 0 and not 1, the output is zero and the states stay."""
    sequences: bool
    """Return the outputs of all steps, `[steps, batch, units]`, and not the last alone, `[batch, units]`."""

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, Any]:
        """Return the outputs of projected inputs, `[steps, batch, gates * units]`, and what `backward` needs."""
        cell, activation = CELLS[self.cell], ACTIVATIONS[self.activation]

        def step(states: Tensors, xs: Tensors) -> tuple[Tensors, Tensors]:
            r = self._project(states[0], kernel, bias, masks)
            after, kept = cell.forward(xs[0], r, states, activation)
            if self.skips:
                after = tuple(old + xs[1] * (new - old) for old, new in zip(states, after, strict=True))
            return after, (after[0], *kept)

        start = (ops.zeros((ops.shape(x)[1], ops.shape(kernel)[0]), x.dtype),) * cell.states
        states, kept = self._scan(step, start, (x, valid) if self.skips else (x,))
        if not self.sequences:
            return states[0], kept
        return _stack(kept[0]) * valid if self.skips else _stack(kept[0]), kept

    def backward(
        self, d: Tensor, kept: Any, kernel: Tensor, masks: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the projected inputs, the kernel and the bias; `d` is the gradient of the outputs."""
        cell, activation = CELLS[self.cell], ACTIVATIONS[self.activation]
        outputs, *rest = kept
        transposed = ops.transpose(kernel)  # once, and not in each product

        def step(gradients: Tensors, xs: Tensors) -> tuple[Tensors, Tensors]:
            kept_here, others = xs[: len(rest)], list(xs[len(rest) :])
            skipped = gradients  # where a step is skipped, the gradients of its states pass unchanged
            if self.skips:
                is_valid = others.pop()
                gradients = tuple(is_valid * gradient for gradient in gradients)
                skipped = tuple(total - part for total, part in zip(skipped, gradients, strict=True))
            if self.sequences:
                from_output = others[0] * is_valid if self.skips else others[0]
                gradients = (gradients[0] + from_output, *gradients[1:])
            dx, dr, direct = cell.backward(kept_here, gradients, activation)
            projected = self._state_gradient(dr, transposed, masks)
            before = (projected if direct[0] is None else projected + direct[0], *direct[1:])
            if self.skips:
                before = tuple(part + other for part, other in zip(before, skipped, strict=True))
            return before, (dx, dr)

        zeros = ops.zeros((ops.shape(d)[-2], ops.shape(kernel)[0]), d.dtype)
        start = (zeros if self.sequences else d,) + (zeros,) * (cell.states - 1)
        xs = (*rest, *[d] * self.sequences, *[valid] * self.skips)
        _, (dxs, drs) = self._scan(step, start, xs, reverse=True)
        # The first step starts from a state of zeros, which adds nothing to the kernel's gradient.
        dkernel = self._kernel_gradient(_stack(outputs[:-1]), _stack(drs[1:]), masks)
        return _stack(dxs), dkernel, ops.sum(_stack(drs), axis=(0, 1)) if cell.has_recurrent_bias else no_bias()

    def _project(self, state: Tensor, kernel: Tensor, bias: Tensor, masks: Tensor) -> Tensor:
        """Project a state with the kernel of each gate, `[batch, units]` to `[batch, gates * units]`."""
        cell = CELLS[self.cell]
        if self.masked:
            kernels = ops.split(kernel, cell.gates, axis=1)
            r = ops.concatenate([ops.matmul(state * masks[gate], part) for gate, part in enumerate(kernels)], axis=1)
        else:
            r = ops.matmul(state, kernel)
        return add_bias(r, bias) if cell.has_recurrent_bias else r

    def _state_gradient(self, change: Tensor, transposed: Tensor, masks: Tensor) -> Tensor:
        """Return the gradient of the state; `change` is that of its projection, `transposed` the kernel."""
        if not self.masked:
            return ops.matmul(change, transposed)
        gates = CELLS[self.cell].gates
        pairs = zip(ops.split(change, gates, axis=1), ops.split(transposed, gates, axis=0), strict=True)
        return sum(ops.matmul(d, part) * masks[gate] for gate, (d, part) in enumerate(pairs))

    def _kernel_gradient(self, states: Tensor, changes: Tensor, masks: Tensor) -> Tensor:
        """Return the kernel's gradient, summed over all steps in one product (one for each gate, if masked)."""
        if not self.masked:
            return product_over_steps(states, changes)
        parts = enumerate(ops.split(changes, CELLS[self.cell].gates, axis=2))
        return ops.concatenate([product_over_steps(states * masks[gate], part) for gate, part in parts], axis=1)

    def _scan(self, step: Any, carry: Tensors, xs: tuple[Any, ...], *, reverse: bool = False) -> tuple[Tensors, Any]:
        """Run a step for each time step, as `jax.lax.scan` does.

        What is kept of the steps is a tensor `[steps, ...]`; where TensorFlow unrolls the steps, a tuple of tensors.
        """
        if is_jax():
            return jax.lax.scan(step, carry, xs, reverse=reverse)  # type: ignore[no-any-return]
        if self.steps > _MAX_UNROLLED_STEPS:
            return _looped(step, carry, xs, reverse=reverse)
        whole = [x if isinstance(x, tuple) else tuple(ops.unstack(x, self.steps)) for x in xs]
        kept: list[Any] = [None] * self.steps
        for t in reversed(range(self.steps)) if reverse else range(self.steps):
            carry, kept[t] = step(carry, tuple(x[t] for x in whole))
        return carry, tuple(zip(*kept, strict=True))


def _looped(step: Any, carry: Tensors, xs: Tensors, *, reverse: bool) -> tuple[Tensors, Tensors]:
    """Run the time steps in a while loop of TensorFlow's."""
    tf = tensorflow

    def of_any_size(x: Tensor) -> Tensor:  # a loop's tensors must not have a more precise shape at its start than later
        return tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None] * len(x.shape))

    # tf.scan needs tensors like those that a step returns before its first step; one step is made and dropped for them.
    like = tf.nest.map_structure(tf.zeros_like, step(carry, tuple(x[0] for x in xs))[1])
    carry, like = tf.nest.map_structure(of_any_size, (carry, like))
    carries, kept = tf.scan(lambda last, x: step(last[0], x), xs, (carry, like), parallel_iterations=1, reverse=reverse)
    return tuple(state[0 if reverse else -1] for state in carries), kept


def _stack(steps: Any) -> Tensor:
    return ops.stack(steps) if isinstance(steps, tuple) else steps


@functools.cache
def compiled_recurrence(recurrence: Recurrence) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `forward` and `backward`; TensorFlow traces them once per process, for all networks that contain them."""
    if is_jax():
        return recurrence.forward, recurrence.backward
    steps = recurrence.steps
    dims = ((steps, None, None), (None, None), (None,), (None,) * 3, (steps if recurrence.skips else 0, None, 1))
    specs = [tensorflow.TensorSpec(shape) for shape in dims]
    forward = tensorflow.function(recurrence.forward, autograph=False, input_signature=specs)
    return forward, tensorflow.function(recurrence.backward, autograph=False, reduce_retracing=True)


to_forget.append(compiled_recurrence.cache_clear)
