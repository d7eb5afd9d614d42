"""The compiled part of training: many gradient steps in one call, over one flat vector of weights.

A program belongs to a structure: the network's shape, the optimizer and the batch size. All else, from the learning
rate to the weights, is a tensor that goes in and comes out, so that one program serves every trial of its structure.
"""

from __future__ import annotations

import gc
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.training import runtime
from sweeper.training.hparams import RNNParams
from sweeper.training.models import build_network, derive_seed, initial_weights
from sweeper.training.optimizers import OPTIMIZERS

Array = Any
Model = Any
Tensor = Any

_STRUCTURE = frozenset(
    {
        "cell", "bidirectional", "layers", "units", "activation", "layer_norm", "dropout", "recurrent_dropout",
        "optimizer", "batch_size",
    }
)  # fmt: skip
_UNROLLED_STEPS = 64
_EVALUATION_BATCH = 1000


@dataclass(frozen=True, eq=False)
class State:
    """All that changes while a trial trains: weights, optimizer slots, and the states of the dropout generators."""

    weights: Tensor
    slots: tuple[Tensor, ...]
    seeds: tuple[Tensor, ...]


class Program:
    """A compiled training step and evaluation for one structure."""

    def __init__(self, params: RNNParams, shape: tuple[int, int], classes: int) -> None:
        import tensorflow as tf

        # Measured on one core: unrolled, a step of an LSTM takes 10 to 40 % less time than as a while loop, for half a
        # second more of tracing; with recurrent dropout the tracing takes many seconds. XLA is as fast or faster, but
        # takes a second to compile and never frees what it compiled. A GPU finds cuDNN's kernels only when looped.
        length = shape[0] * params.layers * (2 if params.bidirectional else 1)
        unroll = length <= _UNROLLED_STEPS and not params.recurrent_dropout and not runtime.has_gpu()
        self.model = build_network(params, shape, classes, unroll=unroll)
        # Forward only, the loop is as fast; both models take their weights from the vector.
        self._judged = build_network(params, shape, classes, unroll=False) if unroll else self.model
        self._optimizer = OPTIMIZERS[params.optimizer]
        self._shapes = [tuple(variable.shape) for variable in self.model.trainable_variables]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self._decayed = tf.concat(
            [tf.fill([size], float(len(shape) > 1)) for shape, size in zip(self._shapes, self._sizes, strict=True)], 0
        )
        # Without signatures, every other count of steps in a call and every other size of the data is traced anew.
        x, y, vector, number = (
            tf.TensorSpec(dims, kind)
            for dims, kind in (((None, *shape), "uint8"), ((None,), "int32"), ((None,), "float32"), ((), "float32"))
        )
        weights = tf.TensorSpec((sum(self._sizes),), "float32")
        seeds = tuple(tf.TensorSpec((2,), variable.dtype) for variable in self.model.non_trainable_variables)
        state = (weights, (weights,) * self._optimizer.slots, seeds)
        indices = tf.TensorSpec((None, params.batch_size), "int32")
        numbers = {name: number for name in optimizer_numbers(params)}
        signature = (x, y, state, number, indices, vector, numbers)
        self._steps = tf.function(self._train, autograph=False, input_signature=signature)
        self._judge = tf.function(self._measure, autograph=False, input_signature=(weights, x, y))

    def initial_state(self, params: RNNParams, seed: int) -> State:
        """The state in which a trial starts."""
        import tensorflow as tf

        values = initial_weights(self.model, params, seed)
        weights = tf.concat([value.reshape(-1) for value in values], 0)
        seeds = [
            tf.constant([derive_seed(seed, "dropout", position), 0], dtype=variable.dtype)
            for position, variable in enumerate(self.model.non_trainable_variables)
        ]
        return State(weights, tuple(tf.zeros_like(weights) for _ in range(self._optimizer.slots)), tuple(seeds))

    def train(
        self,
        state: State,
        x: Tensor,
        y: Tensor,
        *,
        first: int,
        indices: Array,
        rates: Array,
        numbers: Mapping[str, float],
    ) -> tuple[State, float, int]:
        """Make one gradient step for each row of `indices`: the new state, the sum of the losses, the count of hits.

        Args:
            first: gradient steps that were made before.
            indices: the samples of each batch, `[steps, batch]`.
            rates: the learning rate of each step.
        """
        import tensorflow as tf

        weights, slots, seeds, loss, hits = self._steps(
            x,
            y,
            (state.weights, state.slots, state.seeds),
            tf.constant(first, tf.float32),
            tf.constant(indices, tf.int32),
            tf.constant(rates, tf.float32),
            {name: tf.constant(number, tf.float32) for name, number in numbers.items()},
        )
        return State(weights, slots, seeds), float(loss), int(hits)

    def evaluate(self, weights: Tensor, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Mean loss and accuracy."""
        loss, hits, count = 0.0, 0, len(y)
        for start in range(0, count, _EVALUATION_BATCH):
            part = slice(start, start + _EVALUATION_BATCH)
            batch_loss, batch_hits = self._judge(weights, x[part], y[part])
            loss, hits = loss + float(batch_loss), hits + int(batch_hits)
        return loss / count, hits / count

    def unpack(self, weights: Tensor) -> list[Tensor]:
        """The model's weights, cut from the flat vector."""
        import tensorflow as tf

        # Not by slices: the gradient of a split is one concatenation, that of each slice a vector of full length.
        parts = tf.split(weights, self._sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _forward(
        self, model: Model, weights: Tensor, seeds: tuple[Tensor, ...], x: Tensor, y: Tensor, *, training: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The loss of each sample, the count of hits, and the next states of the generators."""
        import tensorflow as tf

        pixels = tf.cast(x, tf.float32)
        logits, after = model.stateless_call(self.unpack(weights), list(seeds), pixels, training=training)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        hits = tf.math.count_nonzero(tf.argmax(logits, 1, output_type=tf.int32) == y, dtype=tf.int32)
        return losses, hits, tuple(after)

    def _measure(self, weights: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        import tensorflow as tf

        seeds = tuple(tf.convert_to_tensor(variable.value) for variable in self._judged.non_trainable_variables)
        losses, hits, _ = self._forward(self._judged, weights, seeds, x, y, training=False)
        return tf.reduce_sum(losses), hits

    def _train(
        self, x: Tensor, y: Tensor, state: Any, first: Tensor, indices: Tensor, rates: Tensor, numbers: Any
    ) -> tuple[Tensor, ...]:
        import tensorflow as tf

        def body(i: Tensor, weights: Tensor, slots: Any, seeds: Any, loss: Tensor, hits: Tensor) -> tuple[Any, ...]:
            batch_x, batch_y = tf.gather(x, indices[i]), tf.gather(y, indices[i])
            with tf.GradientTape() as tape:
                tape.watch(weights)
                losses, batch_hits, seeds = self._forward(self.model, weights, seeds, batch_x, batch_y, training=True)
                batch_loss = tf.reduce_mean(losses)
            gradient = tape.gradient(batch_loss, weights)
            step = first + tf.cast(i + 1, tf.float32)
            weights, slots = self._update(weights, gradient, slots, step, {**numbers, "learning_rate": rates[i]})
            return i + 1, weights, slots, seeds, loss + batch_loss, hits + batch_hits

        def goes_on(i: Tensor, *rest: Any) -> Tensor:
            return (i < tf.shape(indices)[0]) & tf.math.is_finite(rest[-2])  # a diverged trial need not go on

        start = (tf.constant(0), *state, tf.constant(0.0), tf.constant(0))
        return tuple(tf.while_loop(goes_on, body, start, parallel_iterations=1)[1:])

    def _update(
        self, weights: Tensor, gradient: Tensor, slots: tuple[Tensor, ...], step: Tensor, numbers: Mapping[str, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        import tensorflow as tf

        gradient *= tf.minimum(1.0, numbers["clip_norm"] / tf.norm(gradient))
        change, slots = self._optimizer.rule(gradient, slots, step, numbers)
        decay = numbers["learning_rate"] * numbers["weight_decay"] * self._decayed * weights
        return weights - decay - change, slots


def optimizer_numbers(params: RNNParams) -> dict[str, float]:
    """The numbers of the optimizer, except for the learning rate, which has a course."""
    optimizer = OPTIMIZERS[params.optimizer]
    return {
        "momentum": params.momentum,
        "nesterov": float(params.nesterov),
        "epsilon": optimizer.epsilon if params.epsilon is None else params.epsilon,
        "weight_decay": optimizer.weight_decay if params.weight_decay is None else params.weight_decay,
        "clip_norm": math.inf if params.clip_norm is None else params.clip_norm,
    }


class _Programs:
    """The programs used last. A bound is needed: a search over widths has a program for each of its trials."""

    KEEP = 8

    def __init__(self) -> None:
        self._programs: OrderedDict[object, Program] = OrderedDict()

    def get(self, params: RNNParams, shape: tuple[int, int], classes: int) -> Program:
        key = (params.model_dump_json(include=set(_STRUCTURE)), shape, classes)
        if key not in self._programs:
            while len(self._programs) >= self.KEEP:
                self._programs.popitem(last=False)
                gc.collect()  # graphs are full of cycles, and large
            self._programs[key] = Program(params, shape, classes)
        self._programs.move_to_end(key)
        return self._programs[key]


programs = _Programs()
