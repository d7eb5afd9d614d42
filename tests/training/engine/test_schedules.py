from __future__ import annotations

from typing import Any

import pytest

from sweeper.training.engine.loop import learning_rate
from sweeper.training.engine.optimizers import SCHEDULES
from sweeper.training.hparams import RNNParams


def rates_of(total: int = 100, **params: Any) -> list[float]:
    chosen = RNNParams(learning_rate=0.5, **params)
    return [learning_rate(chosen, step, total) for step in range(total)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_starts_at_the_learning_rate_and_never_rises(schedule: str) -> None:
    rates = rates_of(schedule=schedule)
    assert rates[0] == 0.5
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_to_the_learning_rate(schedule: str) -> None:
    rates = rates_of(schedule=schedule, warmup=0.2)
    assert rates[:20] == sorted(rates[:20]) and rates[0] == pytest.approx(0.5 / 21)
    assert rates[20] == max(rates) == 0.5


def test_step_schedule_drops_by_its_factor() -> None:
    assert sorted(set(rates_of(90, schedule="step", decay=0.5, drops=2))) == [0.125, 0.25, 0.5]


def test_trial_of_one_step_has_a_learning_rate() -> None:
    assert rates_of(1, schedule="cosine", warmup=0.9) == [pytest.approx(0.25)]
