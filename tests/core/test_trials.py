from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sweeper.core.trials import Direction, GoalValue, TrialRecord, best_trial, leaderboard, pareto_front

DIRECTIONS: tuple[Direction, ...] = ("maximize", "minimize")
FEW = st.integers(0, 4).map(float)  # so few values that trials are often equal


def trial(
    number: int, *values: float, state: str = "COMPLETE", directions: Any = DIRECTIONS, **more: Any
) -> TrialRecord:
    others = tuple(GoalValue(f"goal-{place}", value, directions[place]) for place, value in enumerate(values[1:], 1))
    return TrialRecord(number, state, {}, value=values[0], step=1, others=others, **more)


def betters(one: TrialRecord, other: TrialRecord, direction: Direction) -> bool:
    """Return whether a trial equals another one in every goal, and is better in one."""
    sign = -1 if direction == "maximize" else 1
    pairs = [(sign * (one.value or 0), sign * (other.value or 0))]
    pairs += [(mine.loss, its.loss) for mine, its in zip(one.others, other.others, strict=True)]
    return all(mine <= its for mine, its in pairs) and any(mine < its for mine, its in pairs)


@given(st.data(), st.integers(1, 3))
def test_front_holds_exactly_the_trials_that_no_other_betters(data: st.DataObject, goals: int) -> None:
    directions = data.draw(st.tuples(*[st.sampled_from(DIRECTIONS)] * goals))
    values = data.draw(st.lists(st.tuples(*[FEW] * goals), max_size=12))
    rows = [trial(number, *each, directions=directions) for number, each in enumerate(values)]
    front = pareto_front(rows, directions[0])

    expected = {row.number for row in rows if not any(betters(other, row, directions[0]) for other in rows)}
    assert {row.number for row in front} == expected
    assert front == leaderboard(front, directions[0])
    assert front[:1] == ([best_trial(rows, directions[0])] if rows else [])


def test_front_has_no_trial_that_was_stopped_or_added_by_hand() -> None:
    rows = [
        trial(0, 0.5, 10),
        trial(1, 0.9, 1, state="PRUNED"),
        trial(2, 0.9, 1, state="FAIL"),
        trial(3, 0.9, 1, is_added=True),
        trial(4, 0.8, 20, is_added=True, reused="other:7"),
    ]

    assert [row.number for row in pareto_front(rows, "maximize")] == [4, 0]
    assert pareto_front(rows[1:4], "maximize") == []


def test_of_equal_trials_the_best_is_the_one_with_the_better_other_goal() -> None:
    rows = [trial(0, 0.9, 30), trial(1, 0.9, 10), trial(2, 0.9, 10), trial(3, 0.8, 5)]

    assert [row.number for row in leaderboard(rows, "maximize")] == [1, 2, 0, 3]
    assert [row.number for row in pareto_front(rows, "maximize")] == [1, 2, 3]
