from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sweeper.analysis.filters import select
from sweeper.core.errors import InputError
from sweeper.core.trials import TrialRecord
from sweeper.spec import Sweep

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def sweep(make_sweep: Callable[..., Any]) -> Sweep:
    space = {
        "units": {"type": "int", "low": 16, "high": 512},
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
        "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
        "bias": {"type": "categorical", "choices": [True, False]},
    }
    return make_sweep(space=space)  # type: ignore[no-any-return]


def row(number: int, state: str, value: float | None, units: int, **params: Any) -> TrialRecord:
    ended = START + timedelta(seconds=10 - number)
    known = {"units": units, "optimizer": "sgd" if "momentum" in params else "adam", "bias": number % 2 == 0} | params
    return TrialRecord(number, state, known, value, step=number, node="one", started=START, ended=ended)


ROWS = [
    row(3, "COMPLETE", 0.9, 64),
    row(0, "COMPLETE", 0.8, 256, momentum=0.5),
    row(1, "PRUNED", 0.95, 128, momentum=0.1),
    row(2, "FAIL", None, 32),
]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({}, [3, 0, 1, 2]),
        ({"sort": "units"}, [2, 3, 1, 0]),
        ({"sort": "-units"}, [0, 1, 3, 2]),
        ({"sort": "value"}, [1, 3, 0, 2]),
        ({"sort": "score"}, [1, 3, 0, 2]),
        ({"sort": "-value"}, [0, 3, 1, 2]),
        ({"sort": "momentum"}, [1, 0, 3, 2]),
        ({"sort": "-momentum"}, [0, 1, 3, 2]),
        ({"sort": "number"}, [0, 1, 2, 3]),
        ({"sort": "time"}, [3, 2, 1, 0]),
        ({"sort": "optimizer"}, [3, 2, 0, 1]),
        ({"states": ["pruned", "FAIL"]}, [1, 2]),
        ({"states": ["complete,fail"]}, [3, 0, 2]),
        ({"where": ["units > 64"]}, [0, 1]),
        ({"where": ["units > 64", "value > 0.9"]}, [1]),
        ({"where": ["units > 64 and not momentum > 0.3"]}, [1]),
        ({"where": ["momentum > 0.3 or optimizer == 'adam'"]}, [3, 0, 2]),
        ({"where": ["momentum != 0.5"]}, [1]),
        ({"where": ["momentum * 2 > 0.5"]}, [0]),
        ({"where": ["score >= 0.9"]}, [3, 1]),
        ({"where": ["bias"]}, [0, 2]),
        ({"where": ["bias == true"]}, [0, 2]),
        ({"where": ["state == 'COMPLETE' and epochs > 1"]}, [3]),
        ({"where": ["units >= 128"], "states": ["COMPLETE"], "sort": "number"}, [0]),
        ({"where": ["units > 1000"]}, []),
    ],
)
def test_trials_are_chosen_and_sorted_as_asked(sweep: Sweep, asked: dict[str, Any], numbers: list[int]) -> None:
    assert [row.number for row in select(sweep, ROWS, **asked)] == numbers


def test_value_is_sorted_from_the_best_where_less_is_better(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(objective={"metric": "score", "direction": "minimize"})
    assert [row.number for row in select(sweep, ROWS, sort="value")] == [0, 3, 1, 2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"where": ["unit > 64"]},
            "--where 'unit > 64', column 1: there is no parameter or column 'unit'. Did you mean",
        ),
        ({"where": ["units > 64 and valu > 1"]}, "column 16: there is no parameter or column 'valu'"),
        ({"where": ["optimizer > 3"]}, "column 1: optimizer (text) and 3 (a number) cannot be compared"),
        ({"where": ["units == '64'"]}, "column 1: units (a number) and '64' (text) cannot be compared"),
        ({"where": ["1 < optimizer * 2"]}, "column 5: optimizer (text) is not a number"),
        ({"where": ["units = 64"]}, "column 7: 'units = 64' is neither a number nor an expression"),
        ({"where": ["units >"]}, "column 8: 'units >' is neither a number nor an expression"),
        ({"where": ["  open('x')"]}, "column 3: \"open('x')\" is not allowed in an expression"),
        ({"where": ["1 / (units - 64) > 0"]}, "it cannot be computed for trial 3: division by zero"),
        ({"sort": "unit"}, "--sort 'unit': there is no such column. Did you mean 'units'?"),
        ({"states": ["failed"]}, "--state 'failed': there is no such state. Did you mean 'FAIL'?"),
    ],
)
def test_wrong_question_is_refused_with_the_column_of_the_fault(
    sweep: Sweep, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        select(sweep, ROWS, **asked)
    assert message in str(caught.value)


def test_parameter_hides_a_fact_of_the_same_name(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(space={"time": {"type": "int", "low": 1, "high": 9}})
    rows = [TrialRecord(0, "COMPLETE", {"time": 2}, 0.5), TrialRecord(1, "COMPLETE", {"time": 1}, 0.9)]
    assert [row.number for row in select(sweep, rows, sort="time", where=["time < 3"])] == [1, 0]
