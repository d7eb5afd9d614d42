"""What the events of trials that were begun tell about their pace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.core.errors import InputError
from sweeper.run.measure import _Begun, _begun, _timed
from sweeper.worker.task import Task

TASKS = [Task(0, {"units": 8}), Task(1, {"units": 16})]


def begun(number: int, *moments: tuple[float, float], failure: str | None = None) -> _Begun:
    """Return a trial that began and reported at moments: seconds, and the seconds of them that it waited."""
    return _Begun(number, 0, number == 0, (0.0, 0.0), list(moments), failure)


def timed(
    trials: list[_Begun], parts: list[float] | None = None, *, corrected: bool = False
) -> list[tuple[float, float]]:
    found, _ = _timed(trials, TASKS, parts or [1.0, 1.0], seconds=20, is_corrected=corrected)
    return [(one.report_s, one.delay_s) for one in found]


def test_pace_is_the_interval_between_reports_and_the_rest_is_delay() -> None:
    assert timed([begun(0, (7.0, 0.0), (9.0, 0.0), (11.0, 0.0))]) == [(2.0, 5.0)]


def test_report_on_a_part_of_the_data_stands_for_a_whole_one() -> None:
    assert timed([begun(0, (7.0, 0.0), (9.0, 0.0))], [0.1, 1.0]) == [(20.0, 5.0)]


def test_time_in_which_others_held_the_cpu_is_subtracted_and_reported() -> None:
    trials = [begun(0, (10.0, 3.0), (14.0, 5.0))]
    assert timed(trials, corrected=True) == [(2.0, 5.0)] and timed(trials) == [(4.0, 6.0)]
    _, notes = _timed(trials, TASKS, [1.0, 1.0], seconds=20, is_corrected=True)
    assert notes == ["other programs use this machine: trials waited for a CPU 40% of the time, which is subtracted"]


def test_single_report_of_a_whole_trial_is_better_than_nothing() -> None:
    trials = [begun(0, (7.0, 0.0)), begun(1, (9.0, 0.0))]
    assert timed(trials) == [(7.0, 0.0), (9.0, 0.0)]
    with pytest.raises(InputError, match="no trial has shown its pace within 20 s"):
        timed(trials, [0.1, 0.1])


def test_failure_is_noted_and_an_error_if_nothing_else_was_measured() -> None:
    good, bad = begun(0, (7.0, 0.0), (9.0, 0.0)), begun(1, failure="ValueError: no")
    _, notes = _timed([good, bad], TASKS, [1.0, 1.0], seconds=20, is_corrected=False)
    assert notes == ["1 of 2 trials failed when they were measured: ValueError: no"]
    with pytest.raises(InputError, match="no trial could be measured: ValueError: no"):
        timed([bad])


def test_events_are_read_up_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    events = [{"trial": 3, "event": "begin"}, {"trial": 3, "event": "report"}, {"trial": 3, "event": "end", "bytes": 9}]
    lines = [json.dumps({**event, "time": float(at), "waited": 0.5}) for at, event in enumerate(events)]
    (tmp_path / "0.jsonl").write_text("\n".join(lines) + '\n{"trial": 4, "ev')
    assert _begun(0, tmp_path / "0.jsonl") == [_Begun(3, 0, True, (0.0, 0.5), [(1.0, 0.5)], None, 9)]
    assert _begun(0, tmp_path / "1.jsonl") == []
