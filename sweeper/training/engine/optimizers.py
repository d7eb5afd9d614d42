"""Optimizers as update rules of one flat vector of weights, and learning-rate schedules.

Each rule does what the Keras optimizer of its name does, with Keras's defaults (test_optimizers.py compares them).
Keras's own objects keep momentum, epsilon and the like as Python constants of the graph, so that every sampled value
would cost a new trace; here they are tensors. And Keras updates a network of ten variables in ten small operations,
where one vector takes one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.training.engine.runtime import ops

Tensor = Any
Slots = tuple[Tensor, ...]


@dataclass(frozen=True)
class Optimizer:
    """One optimizer: its update rule, and the defaults that Keras has for it."""

    rule: Callable[[Tensor, Slots, Tensor, Mapping[str, Tensor]], tuple[Tensor, Slots]]
    """`rule(gradient, slots, step, numbers) -> (change, slots)`; the new weights are `weights - change`.

    `step` is a float that counts from 1. `numbers` has the tensors learning_rate, momentum, nesterov (0 or 1) and
    epsilon.
    """
    slots: int
    """Number of vectors that the rule keeps, each of the length of the weights; they start at zero."""
    epsilon: float = 1e-7
    weight_decay: float = 0.0


def sgd(gradient: Tensor, slots: Slots, step: Tensor, numbers: Mapping[str, Tensor]) -> tuple[Tensor, Slots]:
    move = numbers["learning_rate"] * gradient
    velocity = numbers["momentum"] * slots[0] + move
    ahead = numbers["momentum"] * velocity + move
    return velocity + numbers["nesterov"] * (ahead - velocity), (velocity,)


def rmsprop(gradient: Tensor, slots: Slots, step: Tensor, numbers: Mapping[str, Tensor]) -> tuple[Tensor, Slots]:
    square = 0.9 * slots[0] + 0.1 * gradient * gradient
    move = numbers["learning_rate"] * gradient / ops.sqrt(square + numbers["epsilon"])
    velocity = numbers["momentum"] * slots[1] + move
    return velocity, (square, velocity)


def adam(gradient: Tensor, slots: Slots, step: Tensor, numbers: Mapping[str, Tensor]) -> tuple[Tensor, Slots]:
    mean = slots[0] + (gradient - slots[0]) * 0.1
    square = slots[1] + (gradient * gradient - slots[1]) * 0.001
    rate = numbers["learning_rate"] * ops.sqrt(1.0 - ops.power(0.999, step)) / (1.0 - ops.power(0.9, step))
    return rate * mean / (ops.sqrt(square) + numbers["epsilon"]), (mean, square)


def nadam(gradient: Tensor, slots: Slots, step: Tensor, numbers: Mapping[str, Tensor]) -> tuple[Tensor, Slots]:
    now = 0.9 * (1.0 - 0.5 * ops.power(0.96, step))
    ahead = 0.9 * (1.0 - 0.5 * ops.power(0.96, step + 1.0))
    product = (1.0 - slots[2]) * now  # kept as 1 - product, so that every slot starts at zero
    mean = slots[0] + (gradient - slots[0]) * 0.1
    square = slots[1] + (gradient * gradient - slots[1]) * 0.001
    estimate = ahead * mean / (1.0 - product * ahead) + (1.0 - now) * gradient / (1.0 - product)
    corrected = ops.sqrt(square / (1.0 - ops.power(0.999, step)))
    return numbers["learning_rate"] * estimate / (corrected + numbers["epsilon"]), (mean, square, 1.0 - product)


def lion(gradient: Tensor, slots: Slots, step: Tensor, numbers: Mapping[str, Tensor]) -> tuple[Tensor, Slots]:
    direction = ops.sign(0.9 * slots[0] + 0.1 * gradient)
    return numbers["learning_rate"] * direction, (0.99 * slots[0] + 0.01 * gradient,)


OPTIMIZERS = {
    "sgd": Optimizer(sgd, slots=1),
    "rmsprop": Optimizer(rmsprop, slots=2),
    "adam": Optimizer(adam, slots=2),
    "adamw": Optimizer(adam, slots=2, weight_decay=0.004),
    "nadam": Optimizer(nadam, slots=3),
    "lion": Optimizer(lion, slots=1),
}
"""Optimizers that a sweep may name. To add one, write its rule and add it here and to the test's table."""

SCHEDULES: dict[str, Callable[[float, float, int], float]] = {
    "constant": lambda progress, decay, drops: 1.0,
    "linear": lambda progress, decay, drops: 1.0 - progress,
    "cosine": lambda progress, decay, drops: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "step": lambda progress, decay, drops: decay ** int(progress * (drops + 1)),
}
"""Schedules: `(progress, decay, drops)` to the factor of the learning rate; progress runs from 0 to 1.

`step` drops it by the factor `decay`, `drops` times.
"""
