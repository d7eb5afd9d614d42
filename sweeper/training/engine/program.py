"""Program of one trial: it trains and evaluates a network. The engine is used through this class alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.datasets.base import LearningTask
from sweeper.training.engine import runtime
from sweeper.training.engine.graph import CompiledTraining, compiled_cache, unpack
from sweeper.training.engine.keras_model import KerasNetwork
from sweeper.training.engine.network import Network
from sweeper.training.engine.optimizers import OPTIMIZERS
from sweeper.training.engine.shards import shards_for
from sweeper.training.engine.weights import derive_seed, initial_weights, weight_specs
from sweeper.training.hparams import RNNParams

Array = Any
Tensor = Any

STEPS_PER_CALL = 500
"""Largest number of gradient steps in one call of `Program.train`."""

_SIZES = frozenset({"cell", "bidirectional", "layers", "units", "activation", "layer_norm", "dropout",
                    "recurrent_dropout", "output_dropout", "masking", "dense", "dense_activation", "precision",
                    "optimizer", "batch_size"})  # fmt: skip
"""Hyperparameters that are fixed in a graph for one size alone."""


@dataclass(frozen=True, eq=False)
class State:
    """Everything that changes while a trial trains: weights, optimizer slots, and states of the dropout generators."""

    weights: Tensor
    slots: tuple[Tensor, ...]
    seeds: tuple[Tensor, ...]


class Program:
    """Training and evaluation of one network with its hyperparameters; cheap to make if its graph is compiled.

    Args:
        cpus: threads that compute it, as many as the backend has.
    """

    def __init__(self, params: RNNParams, task: LearningTask, cpus: int = 1) -> None:
        self.task = task
        self._params, self._cpus = params, cpus
        self._specs = weight_specs(params, task)
        self._shapes = tuple(spec.shape for spec in self._specs)
        self.compiled = self._find_compiled(task)
        # Shapes are an argument of the graph if they are not part of it.
        self._given = () if self.compiled.shapes else tuple(runtime.tensor(dims, "int32") for dims in self._shapes)
        decayed = [np.full(spec.size, float(len(spec.shape) > 1), np.float32) for spec in self._specs]
        self.decayed = runtime.tensor(np.concatenate(decayed))
        self._numbers = {name: runtime.tensor(number) for name, number in numbers_of(params).items()}

    def _find_compiled(self, task: LearningTask) -> CompiledTraining:
        params, network = self._params, Network.of(self._params, task)
        sizes = (params.model_dump_json(include=set(_SIZES)), task)
        if params.precision != "float32" or runtime.has_cudnn():
            return compiled_cache.get(
                ("layers", sizes), lambda: CompiledTraining(KerasNetwork(params, task), params.optimizer, self._shapes)
            )
        if runtime.is_jax():
            return compiled_cache.get(sizes, lambda: CompiledTraining(network, params.optimizer, self._shapes))
        shards = shards_for(params, self._cpus)
        return compiled_cache.get(
            (network, params.optimizer, shards), lambda: CompiledTraining(network, params.optimizer, shards=shards)
        )

    def initial_state(self, seed: int) -> State:
        """Return the state in which a trial starts."""
        values = initial_weights(self._specs, self._params, seed)
        weights = runtime.tensor(np.concatenate([value.reshape(-1) for value in values]))
        slots = tuple(runtime.tensor(np.zeros(weights.shape)) for _ in range(OPTIMIZERS[self._params.optimizer].slots))
        generators = range(self.compiled.network.generators)
        return State(
            weights, slots, tuple(runtime.tensor([derive_seed(seed, "dropout", n), 0], "int32") for n in generators)
        )

    def train(
        self,
        state: State,
        x: Tensor,
        y: Tensor,
        *,
        first: int,
        indices: Array,
        rates: Array,
        loss: float = 0.0,
        hits: int = 0,
    ) -> tuple[State, float, int]:
        """Make one gradient step for each row of `indices`; return the new state, the sum of the losses, and the hits.

        Args:
            first: number of gradient steps that were made before.
            indices: samples of each batch, `[steps, batch]`; at most `STEPS_PER_CALL` steps.
            rates: learning rate of each step.
            loss, hits: the sums so far, to which these steps add. In this way, some calls give the bits of one.
        """
        count = len(rates)
        if runtime.is_jax():  # XLA would compile again for another number of rows
            indices = np.pad(indices, ((0, STEPS_PER_CALL - count), (0, 0)))
            rates = np.pad(rates, (0, STEPS_PER_CALL - count))
        weights, slots, seeds, losses, all_hits = self.compiled.steps(
            x,
            y,
            self._given,
            self.decayed,
            (state.weights, state.slots, state.seeds, runtime.tensor(loss), runtime.tensor(hits, "int32")),
            runtime.tensor(first),
            runtime.tensor(count, "int32"),
            runtime.tensor(indices, "int32"),
            runtime.tensor(rates),
            self._numbers,
        )
        return State(weights, slots, seeds), float(losses), int(all_hits)

    def evaluate(self, weights: Tensor, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Return the mean loss and the accuracy."""
        results = [self.compiled.evaluate_batch(x, y, self._given, weights) for x, y in batches]
        count = sum(len(y) for _, y in batches)
        return sum(float(loss) for loss, _ in results) / count, sum(int(hits) for _, hits in results) / count

    def outputs(self, weights: Tensor, batches: Sequence[tuple[Tensor, Tensor]]) -> Array:
        """Return the network's outputs for all samples: `[n, classes]` logits, or `[n, steps, 1]` forecasts."""
        return np.concatenate([np.asarray(self.compiled.outputs_of_batch(x, self._given, weights)) for x, _ in batches])

    def unpack(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Cut the flat vector into the network's weights, in the order of the Keras model."""
        return unpack(weights, self._shapes)


def numbers_of(params: RNNParams) -> Mapping[str, float]:
    """Return the numbers that a graph takes as tensors, except the learning rate, which changes with each step."""
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
