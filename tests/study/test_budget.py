"""A budget in hours or money: who begins, who goes on, who is left to a later run, and what is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sweeper.analysis.costs import used_of
from sweeper.analysis.progress import Progress
from sweeper.core.trials import Failure, Report, TrialRecord, Verdict
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]


class Clock(datetime):
    """A clock that the test moves on: minutes after now."""

    minutes = 0.0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(minutes=cls.minutes)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Clock]]:
    for module in ("search.spending", "study.queue", "study.storage.records", "study.view"):
        monkeypatch.setattr(f"sweeper.{module}.datetime", Clock)
    Clock.minutes = 0.0
    yield Clock


@pytest.fixture
def sweep(make_sweep: MakeSweep) -> Sweep:
    """An hour of CPU time for at most eight trials of ten reports."""
    return make_sweep(budget={"trials": 8, "epochs": 10, "cpu_hours": 1}, pruner={"type": "none"})


def report(study: SweepStudy, number: int, step: int, score: float = 0.5) -> Verdict:
    return study.report(number, Report(step, Clock.now(UTC).timestamp(), {"score": score}))


def train(study: SweepStudy, numbers: list[int], until: int, minutes: float, scores: dict[int, float]) -> None:
    """Let trials report side by side until a step, each report after some minutes."""
    for step in range(1 + max(study.row(number).step for number in numbers), until + 1):
        Clock.minutes += minutes
        for number in numbers:
            report(study, number, step, scores[number])


def used(sweep: Sweep) -> float:
    with open_study(sweep) as study:
        return study.spending.amounts()[0].used


def test_from_nine_tenths_on_no_trial_begins_and_the_best_end(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        first = study.ask().number
        train(study, [first], 10, 2.1, {first: 0.1})  # 21 minutes
        second, third = study.ask().number, study.ask().number
        train(study, [third, second], 8, 2, {second: 0.7, third: 0.9})  # 53 minutes
        assert study.has_next()
        train(study, [third, second], 9, 2, {second: 0.7, third: 0.9})  # 57; each needs 2 more
        assert study.row(second).state == "RUNNING" and [row.number for row in study.running()] == [third]
        assert not study.has_next()
        Clock.minutes += 2
        assert report(study, third, 10, 0.9) is Verdict.STOP
        assert study.is_exhausted() and not study.is_done()
        states = [(row.state, row.step) for row in study.rows()]
        assert states == [("COMPLETE", 10), ("RUNNING", 9), ("COMPLETE", 10)]


def test_larger_budget_continues_what_was_set_aside(sweep: Sweep) -> None:
    test_from_nine_tenths_on_no_trial_begins_and_the_best_end(sweep)
    with open_study(sweep) as study:
        assert study.is_exhausted() and study.running() == [] and not study.is_done()
    larger = sweep.changed({"budget.cpu_hours": "2"})
    with open_study(larger) as study:
        row = study.ask()
        assert (row.number, row.attempt, row.step) == (1, 2, 9)
        assert report(study, 1, 10) is Verdict.STOP and study.row(1).state == "COMPLETE"
        assert study.ask().number == 3


def test_spending_is_counted_once_over_drivers_that_were_killed(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        study.ask()
        train(study, [0], 3, 2, {0: 0.5})
    assert used(sweep) == pytest.approx(6 / 60, abs=0.01)
    for step in (4, 5):
        Clock.minutes += 600  # nothing runs meanwhile
        with open_study(sweep) as study:
            assert study.ask().attempt == step - 2
            assert report(study, 0, step - 1) is Verdict.CONTINUE  # from its checkpoint, again
            Clock.minutes += 2
            report(study, 0, step)
        assert used(sweep) == pytest.approx(2 * step / 60, abs=0.01)
    view = read_study(sweep.name, sweep.storage_url())
    assert view.row(0).spent == pytest.approx(8 * 60, abs=30)


def test_trial_without_a_report_stops_when_the_budget_is_exceeded_and_its_time_counts(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        first, silent = study.ask().number, study.ask().number
        Clock.minutes += 20
        report(study, first, 5)
        assert study.stop_over_budget() == [], "40 of 60 minutes"
        Clock.minutes += 11
        assert study.stop_over_budget() == [first, silent] and study.running() == [] and study.is_exhausted()
        assert report(study, silent, 1) is Verdict.STOP and study.row(silent).step == 0
        assert study.spending.amounts()[0].used == pytest.approx(62 / 60, abs=0.01)
    for _ in range(2):
        Clock.minutes += 600
        assert used(sweep) == pytest.approx(62 / 60, abs=0.01)
    view = read_study(sweep.name, sweep.storage_url())
    assert [amount.used for amount in used_of(view)] == [pytest.approx(62 / 60, abs=0.01)]
    with open_study(sweep.changed({"budget.cpu_hours": "2"})) as study:
        begun = [study.ask() for _ in range(2)]
        assert [(row.number, row.attempt, row.step) for row in begun] == [(first, 2, 5), (silent, 2, 0)]
        assert [row.spent for row in begun] == [pytest.approx(31 * 60, abs=30)] * 2
        assert report(study, silent, 1) is Verdict.CONTINUE


def test_time_of_failed_attempts_counts_and_that_between_them_does_not(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        study.ask()
        train(study, [0], 2, 3, {0: 0.5})
        study.fail(0, Failure("node", "its node was lost"))
        Clock.minutes += 600
        assert study.spending.amounts()[0].used == pytest.approx(6 / 60, abs=0.01)
        study.ask()
        Clock.minutes += 3
        report(study, 0, 3)
        assert study.spending.amounts()[0].used == pytest.approx(9 / 60, abs=0.01)
    assert used(sweep) == pytest.approx(9 / 60, abs=0.01)


def test_paused_trials_go_on_as_in_the_last_round_if_they_can_end(make_sweep: MakeSweep) -> None:
    pruner = {"type": "promotion", "min_epochs": 1, "reduction_factor": 3}
    sweep = make_sweep(budget={"trials": 99, "epochs": 3, "cpu_hours": 1}, pruner=pruner)
    with open_study(sweep) as study:
        for number, minutes, score in ((0, 1, 0.9), (1, 53.5, 0.1)):
            assert study.ask().number == number
            Clock.minutes += minutes
            report(study, number, 1, score)
        assert study.spending.is_closing and all(row.is_paused for row in study.rows())
        while study.has_next():
            row = study.ask()
            assert row.number == 0, "no new trial, but the best of the paused: it needs two of the five minutes left"
            Clock.minutes += 1
            report(study, 0, row.step + 1, 0.9)
        assert study.row(0).state == "COMPLETE"


def test_sweep_without_a_limit_is_not_slowed(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget={"trials": 2, "epochs": 10}, pruner={"type": "none"})) as study:
        study.ask()
        Clock.minutes += 1e5
        assert report(study, 0, 1) is Verdict.CONTINUE and study.has_next()
        began = time.perf_counter()
        for _ in range(1000):
            study.spending.is_closing  # noqa: B018
        assert time.perf_counter() - began < 0.5


def test_rejected_trial_is_announced(make_sweep: MakeSweep) -> None:
    class Heard:
        phases: list[str] = []
        rows: list[TrialRecord] = []

        def on_trial(self, row: TrialRecord, report: Report | None) -> None:
            self.rows.append(row)

        def on_phase(self, message: str) -> None:
            self.phases.append(message)

    heard = Heard()
    sweep = make_sweep(budget={"trials": 2, "epochs": 10, "cost": {"cpu_hour": 2, "limit": 1}}, pruner={"type": "none"})
    with open_study(sweep, listeners=[heard]) as study:
        study.ask()
        Clock.minutes += 28
        assert report(study, 0, 1) is Verdict.STOP
    assert heard.phases[-1] == "trial 0 stops: it cannot end within the budget. A larger one continues it"
    assert (heard.rows[-1].state, heard.rows[-1].reason) == ("RUNNING", "stopped: it cannot end within the budget")
    progress = Progress(sweep)
    for row in heard.rows:
        progress.record(row, None)
    used = progress.used()
    Clock.minutes += 600
    assert progress.used() == used and used.endswith("of 1 EUR used"), "nothing runs any more"
