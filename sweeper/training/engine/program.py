"""One trial's view of the compiled part of training: its weights as one flat vector, its numbers, its graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.datasets.base import LearningTask
from sweeper.training.engine import runtime
from sweeper.training.engine.graph import CompiledTraining, graphs, unpack
from sweeper.training.engine.keras_model import KerasNetwork
from sweeper.training.engine.network import Network
from sweeper.training.engine.optimizers import OPTIMIZERS
from sweeper.training.engine.weights import derive_seed, initial_weights, weight_specs
from sweeper.training.hparams import RNNParams

Array = Any


Tensor = Any


STEPS_PER_CALL = 500


_SIZES = frozenset({"cell", "bidirectional", "layers", "units", "activation", "layer_norm", "dropout",
                    "recurrent_dropout", "output_dropout", "masking", "dense", "dense_activation", "precision",
                    "optimizer", "batch_size"})  # fmt: skip
"""The hyperparameters that are fixed in a graph which is for one size alone."""


@dataclass(frozen=True, eq=False)
class State:
    """All that changes while a trial trains: weights, optimizer slots, and the states of the dropout generators."""

    weights: Tensor
    slots: tuple[Tensor, ...]
    seeds: tuple[Tensor, ...]


class Program:
    """Training steps and evaluation of one network; cheap to make where its graph is shared."""

    def __init__(self, params: RNNParams, task: LearningTask) -> None:
        import numpy as np

        self.task = task
        self._params = params
        self._specs = weight_specs(params, task)
        self._shapes = tuple(spec.shape for spec in self._specs)
        self.graph = self._find_graph(task)
        # Shapes are an argument of the graph where they are not part of it.
        self._given = () if self.graph.shapes else tuple(runtime.tensor(dims, "int32") for dims in self._shapes)
        decayed = [np.full(spec.size, float(len(spec.shape) > 1), np.float32) for spec in self._specs]
        self.decayed = runtime.tensor(np.concatenate(decayed))
        self._numbers = {name: runtime.tensor(number) for name, number in numbers_of(params).items()}

    def _find_graph(self, task: LearningTask) -> CompiledTraining:
        params, network = self._params, Network.of(self._params, task)
        sizes = (params.model_dump_json(include=set(_SIZES)), task)
        if params.precision != "float32" or runtime.has_cudnn():
            return graphs.get(
                ("layers", sizes), lambda: CompiledTraining(KerasNetwork(params, task), params.optimizer, self._shapes)
            )
        if runtime.is_jax():
            return graphs.get(sizes, lambda: CompiledTraining(network, params.optimizer, self._shapes))
        return graphs.get((network, params.optimizer), lambda: CompiledTraining(network, params.optimizer))

    def initial_state(self, seed: int) -> State:
        """The state in which a trial starts."""
        import numpy as np

        values = initial_weights(self._specs, self._params, seed)
        weights = runtime.tensor(np.concatenate([value.reshape(-1) for value in values]))
        slots = tuple(runtime.tensor(np.zeros(weights.shape)) for _ in range(OPTIMIZERS[self._params.optimizer].slots))
        generators = range(self.graph.network.generators)
        return State(
            weights, slots, tuple(runtime.tensor([derive_seed(seed, "dropout", n), 0], "int32") for n in generators)
        )

    def train(
        self, state: State, x: Tensor, y: Tensor, *, first: int, indices: Array, rates: Array
    ) -> tuple[State, float, int]:
        """Make one gradient step for each row of `indices`: the new state, the sum of the losses, the count of hits.

        Args:
            first: gradient steps that were made before.
            indices: the samples of each batch, `[steps, batch]`; at most `STEPS_PER_CALL` steps.
            rates: the learning rate of each step.
        """
        import numpy as np

        count = len(rates)
        if runtime.is_jax():  # another number of rows would be compiled anew
            indices = np.pad(indices, ((0, STEPS_PER_CALL - count), (0, 0)))
            rates = np.pad(rates, (0, STEPS_PER_CALL - count))
        weights, slots, seeds, loss, hits = self.graph.steps(
            x,
            y,
            self._given,
            self.decayed,
            (state.weights, state.slots, state.seeds),
            runtime.tensor(first),
            runtime.tensor(count, "int32"),
            runtime.tensor(indices, "int32"),
            runtime.tensor(rates),
            self._numbers,
        )
        return State(weights, slots, seeds), float(loss), int(hits)

    def evaluate(self, weights: Tensor, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Mean loss and accuracy."""
        found = [self.graph.evaluate_batch(x, y, self._given, weights) for x, y in batches]
        count = sum(len(y) for _, y in batches)
        return sum(float(loss) for loss, _ in found) / count, sum(int(hits) for _, hits in found) / count

    def unpack(self, weights: Tensor) -> tuple[Tensor, ...]:
        """The network's weights in the order of the Keras model."""
        return unpack(weights, self._shapes)


def numbers_of(params: RNNParams) -> Mapping[str, float]:
    """The numbers that a graph takes, except for the learning rate, which has a course."""
    optimizer = OPTIMIZERS[params.optimizer]
    return {
        "momentum": params.momentum,
        "nesterov": float(params.nesterov),
        "epsilon": optimizer.epsilon if params.epsilon is None else params.epsilon,
        "weight_decay": optimizer.weight_decay if params.weight_decay is None else params.weight_decay,
        "clip_norm": math.inf if params.clip_norm is None else params.clip_norm,
        "dropout": params.dropout,
        "recurrent_dropout": params.recurrent_dropout,
        "output_dropout": params.output_dropout,
    }
