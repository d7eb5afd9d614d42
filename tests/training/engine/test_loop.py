from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.datasets.catalog import Digits
from sweeper.search.budget import Budget
from sweeper.training.engine.loop import DataOrder, StepPlan, device_data
from sweeper.training.engine.runtime import tensor_in_place

SIZES = st.integers(1, 40)


@given(samples=SIZES, batch_size=SIZES, seed=st.integers(0, 2**63))
def test_every_epoch_holds_every_sample_once(samples: int, batch_size: int, seed: int) -> None:
    sequence = DataOrder(seed, samples, batch_size).batches(0, 3 * samples).ravel()
    for epoch in range(len(sequence) // samples):
        assert sorted(sequence[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@given(samples=SIZES, batch_size=SIZES, first=st.integers(0, 50), count=st.integers(1, 10))
def test_batches_depend_on_their_position_only(samples: int, batch_size: int, first: int, count: int) -> None:
    order = DataOrder(5, samples, batch_size)
    assert (order.batches(0, first + count)[first:] == order.batches(first, count)).all()


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    epochs = DataOrder(1, 50, 50).batches(0, 2)
    assert (epochs[0] != epochs[1]).any()
    assert (epochs != DataOrder(2, 50, 50).batches(0, 2)).any()


@given(
    epochs=st.integers(1, 20), reports=st.integers(1, 8), samples=st.integers(1, 3000), batch_size=st.integers(1, 600)
)
def test_reports_divide_the_epochs_evenly(epochs: int, reports: int, samples: int, batch_size: int) -> None:
    budget = Budget(trials=1, epochs=epochs, reports_per_epoch=reports)
    plan = StepPlan.of(SimpleNamespace(budget=budget), samples, batch_size)
    widths = [plan.step_at(report + 1) - plan.step_at(report) for report in range(budget.reports)]
    assert min(widths) >= 1 and max(widths) - min(widths) <= 1
    assert plan.step_at(0) == 0
    assert plan.step_at(budget.reports) == plan.total == max(round(epochs * samples / batch_size), budget.reports)


@pytest.mark.parametrize("steps, report_every", [(1, None), (7, None), (50, 50), (50, 7), (10_000, None)])
def test_a_budget_of_steps_is_kept_to_the_step(steps: int, report_every: int | None) -> None:
    budget = Budget(trials=1, steps=steps, report_every=report_every)
    plan = StepPlan.of(SimpleNamespace(budget=budget), samples=1000, batch_size=32)
    stops = [plan.step_at(report) for report in range(budget.reports + 1)]
    assert stops[0] == 0 and stops[-1] == steps
    assert all(stop == budget.epoch_of(report) for report, stop in enumerate(stops) if report)


@pytest.mark.parametrize(("offset", "is_shared"), [(0, True), (8, False)])
def test_a_tensor_takes_the_place_of_an_array_if_tensorflow_can_compute_there(
    tensorflow: Any, offset: int, is_shared: bool
) -> None:
    import numpy as np

    memory = np.zeros(1024, np.uint8)
    offset += -memory.ctypes.data % 64
    array = memory[offset : offset + 600].reshape(20, 30)
    array.flags.writeable = False
    tensor = tensor_in_place(array)
    memory[offset] = 7
    assert (int(tensor[0, 0]) == 7) == is_shared
    assert tensor.shape == (20, 30) and tensor.dtype == tensorflow.uint8


def test_tensors_outlive_the_arrays_they_lie_in(tensorflow: Any) -> None:
    arrays = Digits(train=64).load()
    images = arrays.x_train.copy()
    data = device_data(arrays)
    assert device_data(arrays) is data
    del arrays
    assert (data.x_train.numpy() == images).all()
