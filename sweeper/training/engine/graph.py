"""Compiled part of training: many gradient steps in one call, over one flat vector of weights.

A TensorFlow graph depends on the cell, the number of layers and the like, and the optimizer. Everything else, from the
learning rate to the width and the batch size, is an argument or the size of one, so that nearly every trial of a sweep
finds its graph traced. XLA (JAX) and Keras layers need all sizes: there, each width has its own graph.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sweeper.datasets.base import LearningTask
from sweeper.training.engine import runtime
from sweeper.training.engine.optimizers import OPTIMIZERS
from sweeper.training.engine.runtime import ops
from sweeper.training.engine.shards import Dropout, split

Tensor = Any
Tensors = tuple[Tensor, ...]
Shapes = tuple[tuple[int, ...], ...]

NUMBERS = (
    "momentum",
    "nesterov",
    "epsilon",
    "weight_decay",
    "clip_norm",
    "dropout",
    "recurrent_dropout",
    "output_dropout",
)
"""Numbers of a trial that a graph takes as tensors, beside the learning rate of each step."""


class TrainableNetwork(Protocol):
    """What `CompiledTraining` needs of a network; see `network.Network`."""

    @property
    def task(self) -> LearningTask: ...

    @property
    def generators(self) -> int: ...

    @property
    def ranks(self) -> tuple[int, ...]: ...

    def outputs(
        self, weights: Tensors, seeds: Tensors, x: Tensor, dropout: Dropout | None
    ) -> tuple[Tensor, Tensors, Callable[[Tensor], list[Tensor]]]: ...


class CompiledTraining:
    """Training and evaluation of a network with an optimizer, compiled when first called.

    Args:
        shapes: shapes of the weights in the flat vector, if the graph is for them alone; None: each call gives them.
        shards: parts of each batch that are computed side by side.
    """

    def __init__(
        self, network: TrainableNetwork, optimizer: str, shapes: Shapes | None = None, shards: int = 1
    ) -> None:
        self.network = network
        self._optimizer = OPTIMIZERS[optimizer]
        self.shapes, self.shards = shapes, shards
        spec = runtime.spec
        vector, number, seed, count = spec((None,)), spec(()), spec((2,), "int32"), spec((), "int32")
        self.task = task = network.task
        x = spec((None, task.steps, None), task.input_type)
        y = spec((None, *(task.steps, None) * task.forecasts), task.target_type)
        given = () if shapes else tuple(spec((rank,), "int32") for rank in network.ranks)
        state = (vector, (vector,) * self._optimizer.slots, (seed,) * network.generators, number, count)
        numbers = {name: number for name in NUMBERS}
        indices = spec((None, None), "int32")
        # Without signatures, each new number of steps in a call and each new size of the data would be traced again.
        self.steps = runtime.compile_function(
            self._steps, (x, y, given, vector, state, number, count, indices, vector, numbers)
        )
        self.evaluate_batch = runtime.compile_function(self._evaluate_batch, (x, y, given, vector))
        self.outputs_of_batch = runtime.compile_function(self._outputs_of_batch, (x, given, vector))

    def gradient(
        self, weights: Tensors, seeds: Tensors, x: Tensor, y: Tensor, rates: Mapping[str, Any] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensors]:
        """Return the mean loss's gradient as a flat vector, that loss, the number of hits, and the next seeds.

        Args:
            seeds: states of the network's dropout generators.
            rates: dropout rates by name; None: no dropout.
        """
        parts, after = [], seeds
        for rows in split(ops.shape(y)[0], self.shards):
            part, labels = (rows.of(x), rows.of(y)) if rows else (x, y)
            dropout = None if rates is None else Dropout(rates, rows)
            outputs, after, backward = self.network.outputs(weights, seeds, ops.cast(part, "float32"), dropout)
            losses, hits, change = self._compare(outputs, labels, ops.shape(y)[0])
            gradient = ops.concatenate([ops.reshape(each, (-1,)) for each in backward(change)], axis=0)
            parts.append((gradient, losses, hits))
        gradients, all_losses, all_hits = zip(*parts, strict=True)
        loss = ops.mean(all_losses[0] if self.shards == 1 else ops.concatenate(all_losses))
        return sum(gradients[1:], gradients[0]), loss, sum(all_hits[1:], all_hits[0]), after

    def _compare(self, outputs: Tensor, y: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of each sample, the number of hits, and the outputs' gradient of the mean loss.

        Args:
            total: number of samples in the mean, of which these may be a part.
        """
        if self.task.forecasts:
            errors = outputs - y
            count = ops.cast(total * ops.shape(errors)[1] * ops.shape(errors)[2], "float32")
            return ops.mean(ops.square(errors), axis=(1, 2)), ops.zeros((), "int32"), 2.0 * errors / count
        hits = ops.count_nonzero(ops.equal(ops.cast(ops.argmax(outputs, axis=-1), "int32"), y))
        losses = ops.sparse_categorical_crossentropy(y, outputs, from_logits=True)
        # The gradient of softmax and cross-entropy: the probabilities, less one at the label.
        change = ops.softmax(outputs) - ops.one_hot(y, ops.shape(outputs)[-1])
        return losses, ops.cast(hits, "int32"), change / ops.cast(total, "float32")

    def update(
        self,
        weights: Tensor,
        gradient: Tensor,
        slots: Tensors,
        decayed: Tensor,
        step: Tensor,
        numbers: Mapping[str, Any],
    ) -> tuple[Tensor, Tensors]:
        """Return the weights and slots after one step of the optimizer; `decayed` is 1 where weight decay applies."""
        gradient = gradient * ops.minimum(1.0, numbers["clip_norm"] / ops.norm(gradient))
        change, slots = self._optimizer.rule(gradient, slots, step, numbers)
        decay = numbers["learning_rate"] * numbers["weight_decay"] * decayed * weights
        return weights - decay - change, slots

    def unpack(self, weights: Tensor, shapes: Any) -> Tensors:
        """Cut the network's weights from the flat vector; `shapes` count only if the graph has none of its own."""
        return unpack(weights, self.shapes or shapes)

    def _evaluate_batch(self, x: Tensor, y: Tensor, shapes: Tensors, weights: Tensor) -> tuple[Tensor, Tensor]:
        losses, hits, _ = self._compare(self._outputs_of_batch(x, shapes, weights), y, ops.shape(y)[0])
        return ops.sum(losses), hits

    def _outputs_of_batch(self, x: Tensor, shapes: Tensors, weights: Tensor) -> Tensor:
        seeds, parts = (ops.zeros((2,), "int32"),) * self.network.generators, self.unpack(weights, shapes)
        shards = [rows.of(x) if rows else x for rows in split(ops.shape(x)[0], self.shards)]
        outputs = [self.network.outputs(parts, seeds, ops.cast(shard, "float32"), None)[0] for shard in shards]
        return outputs[0] if self.shards == 1 else ops.concatenate(outputs)

    def _steps(
        self,
        x: Tensor,
        y: Tensor,
        shapes: Tensors,
        decayed: Tensor,
        state: Any,
        first: Tensor,
        count: Tensor,
        indices: Tensor,
        rates: Tensor,
        numbers: Any,
    ) -> Tensors:
        def body(i: Tensor, weights: Tensor, slots: Any, seeds: Any, loss: Tensor, hits: Tensor) -> tuple[Any, ...]:
            batch_x, batch_y = ops.take(x, indices[i], axis=0), ops.take(y, indices[i], axis=0)
            parts = self.unpack(weights, shapes)
            gradient, batch_loss, batch_hits, seeds = self.gradient(parts, seeds, batch_x, batch_y, numbers)
            step = first + ops.cast(i + 1, "float32")
            rated = {**numbers, "learning_rate": rates[i]}
            weights, slots = self.update(weights, gradient, slots, decayed, step, rated)
            return i + 1, weights, slots, seeds, loss + batch_loss, hits + batch_hits

        def should_continue(i: Tensor, *rest: Any) -> Tensor:
            return ops.logical_and(i < count, ops.isfinite(rest[-2]))  # stop when it diverged

        return tuple(ops.while_loop(should_continue, body, (ops.zeros((), "int32"), *state))[1:])


def unpack(weights: Tensor, shapes: Any) -> Tensors:
    """Cut a flat vector into parts; the shapes are tuples, or tensors in a TensorFlow graph for all sizes."""
    if isinstance(shapes[0], tuple):
        parts, start = [], 0
        for shape in shapes:
            size = 1
            for side in shape:
                size *= side
            parts.append(ops.reshape(weights[start : start + size], shape))
            start += size
        return tuple(parts)
    tf = runtime.tensorflow
    split = tf.split(weights, tf.stack([tf.reduce_prod(shape) for shape in shapes]), num=len(shapes))
    return tuple(tf.reshape(part, shape) for part, shape in zip(split, shapes, strict=True))


class CompiledCache:
    """The compiled trainings of this process that were used last; few, because graphs are large."""

    MAX_ENTRIES = 16

    def __init__(self) -> None:
        self._entries: OrderedDict[object, CompiledTraining] = OrderedDict()

    def get(self, key: object, make: Callable[[], CompiledTraining]) -> CompiledTraining:
        """Return the entry of `key`; if there is none, make it, and evict the one that was not used for longest."""
        if key not in self._entries:
            while len(self._entries) >= self.MAX_ENTRIES:
                self._entries.popitem(last=False)
                gc.collect()  # graphs are full of reference cycles
            self._entries[key] = make()
        self._entries.move_to_end(key)
        return self._entries[key]

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


compiled_cache = CompiledCache()
runtime.to_forget.append(compiled_cache.clear)
