from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.cli.progress import Progress, remaining_reports
from sweeper.core.trials import Report, TrialRecord


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def report(step: int) -> Report:
    return Report(step, 0.0, {"score": 0.5})


def test_trials_are_expected_to_run_in_full_before_any_has_ended() -> None:
    assert remaining_reports([], [3], 8) == [8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_one_report_is_expected_if_all_trials_end_at_their_first() -> None:
    assert remaining_reports([1, 1, 1], [], 8)[0] == 1


def test_running_trials_correct_the_bias_of_those_that_ended_early() -> None:
    only_ended = remaining_reports([1, 1], [], 8)[0]
    with_running = remaining_reports([1, 1], [4, 4], 8)[0]
    assert only_ended == 1
    assert with_running == pytest.approx(0.5 * 1 + 0.5 * 8)


def test_early_ends_of_half_the_trials_halve_the_expected_rest() -> None:
    remaining = remaining_reports([1, 1, 8, 8], [], 8)
    assert remaining[0] == pytest.approx((1 + 1 + 8 + 8) / 4)
    assert remaining[1] == 7


@given(st.lists(st.integers(0, 12)), st.lists(st.integers(0, 12)), st.integers(1, 12))
def test_remaining_reports_are_at_least_one_and_at_most_a_full_trial(
    ended: list[int], running: list[int], full: int
) -> None:
    remaining = remaining_reports(ended, running, full)
    assert remaining[full] == 0
    assert all(1 <= remaining[made] <= full - made for made in range(full))


@given(st.lists(st.integers(1, 9), min_size=1))
def test_expectation_is_the_mean_length_once_all_trials_have_ended(ended: list[int]) -> None:
    assert remaining_reports(ended, [], 9)[0] == pytest.approx(sum(ended) / len(ended))


def test_time_left_is_work_left_at_the_rate_since_the_first_report(make_sweep: Callable[..., Any]) -> None:
    clock = Clock()
    progress = Progress(make_sweep(budget={"trials": 4, "epochs": 10}), clock=clock)
    clock.now = 60.0
    row = TrialRecord(0, "RUNNING", {})
    progress.record(row, None)
    for step in range(1, 11):
        row = replace(row, step=step, value=0.5)
        progress.record(row, report(step))
        clock.now += 2.0
    clock.now -= 2.0
    progress.record(replace(row, state="COMPLETE"), None)
    assert progress.seconds_left() == pytest.approx(3 * 10 * 2.0)
    assert progress.share() == pytest.approx(0.25)


def test_last_trial_takes_its_time_even_if_other_workers_are_idle(make_sweep: Callable[..., Any]) -> None:
    clock = Clock()
    progress = Progress(make_sweep(budget={"trials": 2, "epochs": 10}), clock=clock)
    for number in (0, 1):
        progress.record(TrialRecord(number, "RUNNING", {}), None)
    for step in range(1, 6):
        progress.record(TrialRecord(0, "RUNNING", {}, value=0.5, step=step), report(step))
        progress.record(TrialRecord(1, "RUNNING", {}, value=0.5, step=step), report(step))
        clock.now += 2.0
    progress.record(TrialRecord(1, "COMPLETE", {}, value=0.5, step=10), None)
    seconds_each = 10.0 / 9
    assert progress.seconds_left() == pytest.approx(5 * 2 * seconds_each)


def test_time_left_is_unknown_before_there_are_enough_reports(make_sweep: Callable[..., Any]) -> None:
    progress = Progress(make_sweep())
    progress.record(TrialRecord(0, "RUNNING", {}), None)
    progress.record(TrialRecord(0, "RUNNING", {}, step=1, value=0.1), report(1))
    assert progress.seconds_left() is None


def test_time_left_is_at_most_what_the_timeout_leaves(make_sweep: Callable[..., Any]) -> None:
    clock = Clock()
    progress = Progress(make_sweep(budget={"trials": 100, "epochs": 10, "timeout": "1m"}), clock=clock)
    for step in range(1, 6):
        progress.record(TrialRecord(0, "RUNNING", {}, step=step, value=0.1), report(step))
        clock.now += 10.0
    assert progress.seconds_left() == pytest.approx(10.0)


def test_share_of_work_done_never_falls(make_sweep: Callable[..., Any]) -> None:
    progress = Progress(make_sweep(budget={"trials": 3, "epochs": 10}))
    progress.record(TrialRecord(0, "PRUNED", {}, step=1, value=0.1), report(1))
    before = progress.share()
    progress.record(TrialRecord(1, "RUNNING", {}, step=9, value=0.1), report(9))
    progress.record(TrialRecord(2, "RUNNING", {}, step=1, value=0.1), report(1))
    assert progress.share() >= before


def test_trial_of_an_earlier_run_counts_as_work_but_not_as_speed(make_sweep: Callable[..., Any]) -> None:
    progress = Progress(make_sweep(budget={"trials": 4, "epochs": 10}))
    progress.record(TrialRecord(0, "COMPLETE", {}, step=10, value=0.9), None)
    assert progress.share() == pytest.approx(0.25)
    assert progress.seconds_left() is None
    assert progress.best is not None and progress.best.number == 0


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_best_trial_follows_the_direction_and_is_the_first_of_equals(
    make_sweep: Callable[..., Any], direction: str, best: int
) -> None:
    progress = Progress(make_sweep(objective={"metric": "score", "direction": direction}))
    for number, value in enumerate((0.1, 0.9, 0.9)):
        progress.record(TrialRecord(number, "COMPLETE", {}, step=9, value=value), None)
    progress.record(TrialRecord(3, "PRUNED", {}, step=2, value=5.0), None)
    assert progress.best is not None and progress.best.number == best
