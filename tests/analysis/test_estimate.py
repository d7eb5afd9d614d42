from __future__ import annotations

import random
import time
from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.analysis.estimate import Effort, seconds_left, shares_that_stay


def mean_length(ended: list[int], running: list[int], full: int) -> float:
    """Return the reports that a new trial is expected to make."""
    return sum(accumulate(shares_that_stay(ended, running, full)[:full], mul))


def test_trials_are_expected_to_run_in_full_before_any_has_ended() -> None:
    assert mean_length([], [3], 8) == 8


def test_one_report_is_expected_if_all_trials_end_at_their_first() -> None:
    assert mean_length([1, 1, 1], [], 8) == 1


def test_running_trials_correct_the_bias_of_those_that_ended_early() -> None:
    assert mean_length([1, 1], [], 8) == 1
    assert mean_length([1, 1], [4, 4], 8) == pytest.approx(0.5 * 1 + 0.5 * 8)


def test_early_ends_of_half_the_trials_halve_the_expected_rest() -> None:
    assert mean_length([1, 1, 8, 8], [], 8) == pytest.approx((1 + 1 + 8 + 8) / 4)


@given(st.lists(st.integers(0, 12)), st.lists(st.integers(0, 12)), st.integers(1, 12))
def test_shares_are_shares(ended: list[int], running: list[int], full: int) -> None:
    stay = shares_that_stay(ended, running, full)
    assert len(stay) == full + 1 and stay[full] == 0 and all(0 <= share <= 1 for share in stay)
    assert 1 <= mean_length(ended, running, full) <= full


@given(st.lists(st.integers(1, 9), min_size=1))
def test_expectation_is_the_mean_length_once_all_trials_have_ended(ended: list[int]) -> None:
    assert mean_length(ended, [], 9) == pytest.approx(sum(ended) / len(ended))


def test_nothing_is_known_without_a_report() -> None:
    assert seconds_left([], [Effort(0, 0.0)], to_come=3, workers=1, full=10) is None


def test_last_trial_takes_its_time_even_if_other_workers_are_idle() -> None:
    found = seconds_left([Effort(10, 20.0)], [Effort(5, 10.0)], to_come=0, workers=2, full=10)
    assert found == pytest.approx((9.0, 11.0))  # the pace may change by a tenth


def test_trials_to_come_are_shared_among_the_workers() -> None:
    alike = [Effort(10, 20.0)] * 5
    assert seconds_left(alike, [], to_come=6, workers=2, full=10) == pytest.approx((54.0, 66.0))


def test_time_since_the_last_report_counts() -> None:
    found = seconds_left([], [Effort(5, 10.0, waited=1.5)], to_come=0, workers=1, full=10)
    assert found == pytest.approx((0.9 * 8.5, 1.1 * 8.5))


def test_trials_that_differ_give_a_wide_range() -> None:
    mixed = [Effort(1, 2.0)] * 5 + [Effort(10, 20.0)] * 5
    found = seconds_left(mixed, [], to_come=10, workers=1, full=10)
    assert found is not None
    low, high = found
    assert low < 110 < high and high - low > 60


def test_pruner_makes_both_an_early_end_and_a_full_trial_possible() -> None:
    pruned = [Effort(2, 4.0)] * 10
    sure = seconds_left(pruned, [Effort(1, 2.0)], to_come=2, workers=1, full=10)
    unsure = seconds_left(pruned, [Effort(1, 2.0)], to_come=2, workers=1, full=10, may_end_early=True)
    assert sure == pytest.approx((9.0, 11.0)) and unsure is not None
    assert unsure[0] <= sure[0] and unsure[1] > 20


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=8),
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100), st.floats(0, 10)), max_size=4),
    st.integers(0, 20),
)
def test_range_is_a_range(
    ended: list[tuple[int, float]], running: list[tuple[int, float, float]], to_come: int
) -> None:
    found = seconds_left(
        [Effort(*trial) for trial in ended], [Effort(*trial) for trial in running], to_come=to_come, workers=4, full=9
    )
    assert found is None or 0 <= found[0] <= found[1]


def test_long_sweeps_are_estimated_in_milliseconds() -> None:
    dice = random.Random(0)
    ended = [Effort(10, dice.expovariate(1)) for _ in range(10_000)]
    began = time.perf_counter()
    found = seconds_left(ended, [Effort(3, 1.0)] * 8, to_come=90_000, workers=8, full=10)
    assert time.perf_counter() - began < 2
    assert found is not None and found[0] < 90_000 / 8 < found[1]
