from __future__ import annotations

from typing import Any

import pytest

from sweeper.training.engine.loop import learning_rate
from sweeper.training.engine.optimizers import SCHEDULES
from sweeper.training.hparams import RNNParams


def course(total: int = 100, **params: Any) -> list[float]:
    chosen = RNNParams(learning_rate=0.5, **params)
    return [learning_rate(chosen, step, total) for step in range(total)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_starts_at_the_learning_rate_and_never_rises_or_ends(schedule: str) -> None:
    rates = course(schedule=schedule)
    assert rates[0] == 0.5
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_rises_evenly_to_the_learning_rate(schedule: str) -> None:
    rates = course(schedule=schedule, warmup=0.2)
    assert rates[:20] == sorted(rates[:20]) and rates[0] == pytest.approx(0.5 / 21)
    assert rates[20] == max(rates) == 0.5


def test_the_step_schedule_drops_as_often_and_as_far_as_it_is_told() -> None:
    assert sorted(set(course(90, schedule="step", decay=0.5, drops=2))) == [0.125, 0.25, 0.5]


def test_a_trial_of_one_step_has_a_learning_rate() -> None:
    assert course(1, schedule="cosine", warmup=0.9) == [pytest.approx(0.25)]
