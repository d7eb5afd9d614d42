"""The recurrences of the three cells, with their gradients written out.

Keras projects the inputs anew at every time step and leaves the gradient to the backend, which adds up one weight
gradient per step. Here all inputs are projected before the first step, and the weights get their gradient from one
product after the last. In TensorFlow's graphs no size but the number of time steps is fixed, so widths and batch sizes
share them.
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

Tensor = Any


Tensors = tuple[Tensor, ...]


_UNROLLED_STEPS = 64
"""Up to here TensorFlow gets a copy of the step for each time step: 10 to 40 % faster than its while loop on a CPU."""


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent layer.

    `forward(x, r, states, activation) -> (states, kept)` makes a step from the projections of input and state;
    `backward(kept, gradients, activation) -> (dx, dr, gradients)` takes the gradients of the states one step back, save
    for what comes through the projection. The first state is the output.
    """

    keras_class: str
    """The class of keras.layers that saves it, and that a test compares it with."""
    gates: int
    states: int
    forward: Callable[[Tensor, Tensor, Tensors, Activation], tuple[Tensors, Tensors]]
    backward: Callable[[Tensors, Tensors, Activation], tuple[Tensor, Tensor, Tensors]]
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
    from keras import ops

    before = states[1]
    i, f, candidate, o = ops.split(x + r, 4, axis=1)
    i, f, o = ops.sigmoid(i), ops.sigmoid(f), ops.sigmoid(o)
    g = activation(candidate)
    carry = f * before + i * g
    shown = activation(carry)
    return (o * shown, carry), (i, f, candidate, g, o, before, carry, shown)


def _lstm_backward(kept: Tensors, gradients: Tensors, activation: Activation) -> tuple[Tensor, Tensor, Tensors]:
    from keras import ops

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
    from keras import ops

    xz, xr, xh = ops.split(x, 3, axis=1)
    rz, rr, rh = ops.split(r, 3, axis=1)
    update, reset = ops.sigmoid(xz + rz), ops.sigmoid(xr + rr)
    total = xh + reset * rh
    candidate = activation(total)
    difference = states[0] - candidate
    return (candidate + update * difference,), (update, reset, rh, total, candidate, difference)


def _gru_backward(kept: Tensors, gradients: Tensors, activation: Activation) -> tuple[Tensor, Tensor, Tensors]:
    from keras import ops

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
"""The cells a sweep may name; to add one, add it here."""


@dataclass(frozen=True)
class Recurrence:
    """The time steps of one layer in one direction: `[steps, batch, gates * units]` to `[steps, batch, units]`.

    With `masked`, each gate sees the state through a dropout mask of its own, `[gates, batch, units]`. With `skips`,
    only the time steps count where `valid`, `[steps, batch, 1]`, is 1: at the others (0) the output is zero and the
    states stay. Without `sequences`, only the last output is given.
    """

    cell: str
    activation: str
    steps: int
    masked: bool
    skips: bool
    sequences: bool

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, Any]:
        """The outputs, and what `backward` needs of this way."""
        from keras import ops

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
        """The gradients of the projected inputs, the kernel and the bias from that of the outputs."""
        from keras import ops

        cell, activation = CELLS[self.cell], ACTIVATIONS[self.activation]
        outputs, *rest = kept
        transposed = ops.transpose(kernel)  # once, and not in each product

        def step(gradients: Tensors, xs: Tensors) -> tuple[Tensors, Tensors]:
            kept_here, others = xs[: len(rest)], list(xs[len(rest) :])
            held = gradients
            if self.skips:
                is_valid = others.pop()
                gradients = tuple(is_valid * gradient for gradient in gradients)
                held = tuple(all - here for all, here in zip(held, gradients, strict=True))
            if self.sequences:
                given = others[0] * is_valid if self.skips else others[0]
                gradients = (gradients[0] + given, *gradients[1:])
            dx, dr, direct = cell.backward(kept_here, gradients, activation)
            through = self._pull_back(dr, transposed, masks)
            before = (through if direct[0] is None else through + direct[0], *direct[1:])
            if self.skips:
                before = tuple(here + there for here, there in zip(before, held, strict=True))
            return before, (dx, dr)

        zeros = ops.zeros((ops.shape(d)[-2], ops.shape(kernel)[0]), d.dtype)
        start = (zeros if self.sequences else d,) + (zeros,) * (cell.states - 1)
        xs = (*rest, *[d] * self.sequences, *[valid] * self.skips)
        _, (dxs, drs) = self._scan(step, start, xs, reverse=True)
        # The first step starts from zeros, which add nothing.
        dkernel = self._kernel_gradient(_stack(outputs[:-1]), _stack(drs[1:]), masks)
        return _stack(dxs), dkernel, ops.sum(_stack(drs), axis=(0, 1)) if cell.has_recurrent_bias else no_bias()

    def _project(self, state: Tensor, kernel: Tensor, bias: Tensor, masks: Tensor) -> Tensor:
        from keras import ops

        cell = CELLS[self.cell]
        if self.masked:
            kernels = ops.split(kernel, cell.gates, axis=1)
            r = ops.concatenate([ops.matmul(state * masks[gate], part) for gate, part in enumerate(kernels)], axis=1)
        else:
            r = ops.matmul(state, kernel)
        return add_bias(r, bias) if cell.has_recurrent_bias else r

    def _pull_back(self, change: Tensor, transposed: Tensor, masks: Tensor) -> Tensor:
        """The gradient of the state from that of its projection."""
        from keras import ops

        if not self.masked:
            return ops.matmul(change, transposed)
        gates = CELLS[self.cell].gates
        pairs = zip(ops.split(change, gates, axis=1), ops.split(transposed, gates, axis=0), strict=True)
        return sum(ops.matmul(d, part) * masks[gate] for gate, (d, part) in enumerate(pairs))

    def _kernel_gradient(self, states: Tensor, changes: Tensor, masks: Tensor) -> Tensor:
        """The sum over all steps, `[steps, batch, ...]`, in one product (per gate, if masked)."""
        from keras import ops

        if not self.masked:
            return product_over_steps(states, changes)
        parts = enumerate(ops.split(changes, CELLS[self.cell].gates, axis=2))
        return ops.concatenate([product_over_steps(states * masks[gate], part) for gate, part in parts], axis=1)

    def _scan(self, step: Any, carry: Tensors, xs: tuple[Any, ...], *, reverse: bool = False) -> tuple[Tensors, Any]:
        """`jax.lax.scan`: what is kept of each step is a tensor `[steps, ...]`, or a tuple of steps where unrolled."""
        import keras

        if keras.backend.backend() == "jax":
            import jax

            return jax.lax.scan(step, carry, xs, reverse=reverse)  # type: ignore[no-any-return]
        if self.steps > _UNROLLED_STEPS:
            return _looped(step, carry, xs, reverse=reverse)
        whole = [x if isinstance(x, tuple) else tuple(keras.ops.unstack(x, self.steps)) for x in xs]
        kept: list[Any] = [None] * self.steps
        for t in reversed(range(self.steps)) if reverse else range(self.steps):
            carry, kept[t] = step(carry, tuple(x[t] for x in whole))
        return carry, tuple(zip(*kept, strict=True))


def _looped(step: Any, carry: Tensors, xs: Tensors, *, reverse: bool) -> tuple[Tensors, Tensors]:
    """TensorFlow's while loop over the time steps."""
    import tensorflow as tf

    def of_any_size(x: Tensor) -> Tensor:  # a loop's tensors must not be known better at its start than later
        return tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None] * len(x.shape))

    # tf.scan wants to know at the start what the steps give; a step that is thrown away tells.
    like = tf.nest.map_structure(tf.zeros_like, step(carry, tuple(x[0] for x in xs))[1])
    carry, like = tf.nest.map_structure(of_any_size, (carry, like))
    carries, kept = tf.scan(lambda last, x: step(last[0], x), xs, (carry, like), parallel_iterations=1, reverse=reverse)
    return tuple(state[0 if reverse else -1] for state in carries), kept


def _stack(steps: Any) -> Tensor:
    from keras import ops

    return ops.stack(steps) if isinstance(steps, tuple) else steps


@functools.cache
def compiled_recurrence(recurrence: Recurrence) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`forward` and `backward`, in TensorFlow traced once per process, whatever networks they become part of."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return recurrence.forward, recurrence.backward
    import tensorflow as tf

    steps = recurrence.steps
    dims = ((steps, None, None), (None, None), (None,), (None,) * 3, (steps if recurrence.skips else 0, None, 1))
    specs = [tf.TensorSpec(shape) for shape in dims]
    forward = tf.function(recurrence.forward, autograph=False, input_signature=specs)
    return forward, tf.function(recurrence.backward, autograph=False, reduce_retracing=True)
