"""What trials use of a budget in hours or money, and which of them can still end within it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sweeper.core.trials import TrialRecord
from sweeper.search.budget import Budget
from sweeper.search.spending import Amount, Spending

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock(datetime):
    """A clock that stands still: `minute` minutes after the start."""

    minute = 0.0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return START + timedelta(minutes=cls.minute)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr("sweeper.search.spending.datetime", Clock)
    Clock.minute = 0.0
    return Clock


def spending(**limits: Any) -> Spending:
    def resources_of(params: Mapping[str, Any]) -> tuple[float, float]:
        return params.get("cpus", 1.0), params.get("gpus", 0.0)

    return Spending(Budget.model_validate({"trials": 9, "epochs": 10, **limits}), resources_of, -1.0)


def running(
    number: int, *, step: int = 0, value: float | None = None, begun: float = 0.0, **others: Any
) -> TrialRecord:
    params = others.pop("params", {})
    started = START + timedelta(minutes=begun)
    return TrialRecord(number, "RUNNING", params, value=value, step=step, started=started, **others)


def ended(number: int, minutes: float, **params: float) -> TrialRecord:
    end = START + timedelta(minutes=minutes)
    return TrialRecord(number, "COMPLETE", params, value=0.5, step=10, started=START, ended=end)


def used(spending: Spending) -> list[tuple[str, float]]:
    return [(amount.unit, round(amount.used, 6)) for amount in spending.amounts()]


def test_hours_and_money_are_the_seconds_of_trials_times_their_resources(clock: type[Clock]) -> None:
    found = spending(cpu_hours=10, gpu_hours=5, cost={"cpu_hour": 0.1, "gpu_hour": 2.0, "limit": 8, "currency": "CHF"})
    found.note(ended(0, 60, cpus=2))
    found.note(running(1, params={"cpus": 4, "gpus": 0.5}))
    clock.minute = 30
    assert used(found) == [("CPU-hours", 2 + 2), ("GPU-hours", 0.25), ("CHF", 0.4 + 0.5)]
    assert [amount.limit for amount in found.amounts()] == [10, 5, 8]


def test_nothing_is_limited_without_a_limit(clock: type[Clock]) -> None:
    found = spending()
    found.note(running(0))
    clock.minute = 1e6
    assert found.amounts() == [] and not found.is_closing and found.reject([0]) == []


def test_attempts_are_counted_once_however_often_a_trial_is_resumed(clock: type[Clock]) -> None:
    found = spending(cpu_hours=10)
    found.note(running(0))
    for attempt in range(2, 5):
        clock.minute += 60
        found.settle(
            running(0, spent=0.0 if attempt == 2 else 3600.0 * (attempt - 2), resumed=Clock.now() - timedelta(hours=1))
        )
        assert used(found) == [("CPU-hours", attempt - 1)]
        found.note(running(0, spent=3600.0 * (attempt - 1), resumed=Clock.now(), attempt=attempt))
        assert used(found) == [("CPU-hours", attempt - 1)]
    end = Clock.now() + timedelta(minutes=30)
    found.note(TrialRecord(0, "PRUNED", {}, step=3, started=START, resumed=Clock.now(), spent=3 * 3600.0, ended=end))
    assert used(found) == [("CPU-hours", 3.5)]


def test_time_between_two_attempts_costs_nothing(clock: type[Clock]) -> None:
    found = spending(cpu_hours=10)
    found.note(running(0))
    clock.minute = 60
    found.settle(running(0))
    clock.minute = 6000
    assert used(found) == [("CPU-hours", 1)]


def test_the_best_that_can_end_within_what_is_left_go_on(clock: type[Clock]) -> None:
    """Of 10 CPU-hours 9 are used; each trial needs as long for a report as it did until now."""
    found = spending(cpu_hours=10)
    found.note(ended(0, 6 * 60))
    for row in (
        running(1, step=5, value=0.9),  # the best, needs an hour more
        running(2, step=9, value=0.8),  # needs 0.11 h
        running(3, step=2, value=0.7),  # needs 4 h
    ):
        found.note(row)
    clock.minute = 59
    assert found.is_closing is False and found.reject([1, 2, 3]) == []
    clock.minute = 60
    assert found.is_closing and found.contenders() == {1} and found.reject([1, 2, 3]) == [2, 3]
    assert found.contenders() == {1}, "what was set aside does not come back"


def test_trial_without_a_report_cannot_end_in_time(clock: type[Clock]) -> None:
    found = spending(cpu_hours=1)
    found.note(ended(0, 50))
    found.note(running(1))
    clock.minute = 5
    assert found.is_closing and found.reject([1]) == [1]


def test_paused_trial_goes_on_only_if_it_ends_within_what_the_contenders_leave(clock: type[Clock]) -> None:
    found = spending(cpu_hours=10)
    found.note(ended(0, 8.5 * 60))
    found.note(running(1, step=9, value=0.9))
    paused = TrialRecord(2, "PRUNED", {}, value=0.8, step=8, started=START, ended=START + timedelta(minutes=6))
    found.note(paused)
    assert found.admits(paused)
    clock.minute = 54
    assert found.is_closing and found.admits(paused)  # 0.1 h for trial 1, 0.025 h for trial 2, of 0.5 h
    clock.minute = 84
    assert not found.admits(paused)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Amount("budget", "CPU-hours", 1.98234, 2), "1.98 of 2 CPU-hours"),
        (Amount("budget", "GPU-hours", 123.456, 400), "123 of 400 GPU-hours"),
        (Amount("budget", "EUR", 36.4, 40), "36.4 of 40 EUR"),
        (Amount("budget", "CPU-hours", 0.01612, 0.0167), "0.0161 of 0.0167 CPU-hours"),
    ],
)
def test_amounts_are_given_to_a_hundredth_of_their_limit(amount: Amount, text: str) -> None:
    assert str(amount) == text
