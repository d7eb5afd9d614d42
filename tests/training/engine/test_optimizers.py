from __future__ import annotations

from typing import Any

import pytest

from sweeper.training.engine.optimizers import OPTIMIZERS
from sweeper.training.engine.program import numbers_of
from sweeper.training.hparams import RNNParams

IN_KERAS = {
    "sgd": ("SGD", {"momentum": 0.0}),
    "sgd momentum": ("SGD", {"momentum": 0.9}),
    "sgd nesterov": ("SGD", {"momentum": 0.8, "nesterov": True}),
    "rmsprop": ("RMSprop", {"momentum": 0.0}),
    "rmsprop momentum": ("RMSprop", {"momentum": 0.7}),
    "adam": ("Adam", {}),
    "adam epsilon": ("Adam", {"epsilon": 1e-3}),
    "adamw": ("AdamW", {}),
    "nadam": ("Nadam", {}),
    "lion": ("Lion", {}),
}


def test_every_optimizer_is_compared_with_keras() -> None:
    assert {name.split()[0] for name in IN_KERAS} == set(OPTIMIZERS)


@pytest.mark.parametrize("case", IN_KERAS)
def test_optimizer_takes_the_steps_of_its_keras_namesake(case: str, tensorflow: Any) -> None:
    import keras
    import numpy as np

    name, (class_name, options) = case.split()[0], IN_KERAS[case]
    rng = np.random.default_rng(0)
    start = rng.normal(size=50).astype("float32")
    variable, theirs = keras.Variable(start), getattr(keras.optimizers, class_name)(**options)
    theirs.build([variable])
    ours, optimizer = tensorflow.constant(start), OPTIMIZERS[name]
    slots = tuple(tensorflow.zeros(50) for _ in range(optimizer.slots))
    numbers = numbers_of(RNNParams(optimizer=name, **options))
    for step, rate in enumerate((0.1, 0.1, 0.05, 0.02, 0.01), start=1):
        gradient = tensorflow.constant(rng.normal(size=50).astype("float32"))
        theirs.learning_rate = rate
        theirs.apply([gradient], [variable])
        change, slots = optimizer.rule(gradient, slots, float(step), {**numbers, "learning_rate": rate})
        ours = ours - rate * numbers["weight_decay"] * ours - change
        np.testing.assert_allclose(ours, variable.numpy(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_has_the_declared_number_of_slots(name: str, tensorflow: Any) -> None:
    optimizer = OPTIMIZERS[name]
    slots = tuple(tensorflow.zeros(3) for _ in range(optimizer.slots))
    numbers = {**numbers_of(RNNParams(optimizer=name)), "learning_rate": 0.1}
    change, after = optimizer.rule(tensorflow.ones(3), slots, 1.0, numbers)
    assert [slot.shape for slot in after] == [slot.shape for slot in slots]
    assert change.shape == (3,)
