from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.analysis.trials import as_seen, counts_as_seen, cut_reason, ending, is_done, remark_on_pruned
from sweeper.core.trials import Report, TrialRecord
from sweeper.study.open import open_study, read_study

MakeSweep = Callable[..., Any]


def row(number: int, state: str, value: float | None, step: int = 9) -> TrialRecord:
    return TrialRecord(number, state, {"height": 0.5}, value=value, step=step)


def test_trial_that_no_process_runs_is_interrupted() -> None:
    rows = [row(0, "COMPLETE", 0.5), row(1, "RUNNING", 0.5)]
    assert [seen.state for seen in as_seen(rows, is_running=True)] == ["COMPLETE", "RUNNING"]
    assert [seen.state for seen in as_seen(rows, is_running=False)] == ["COMPLETE", "INTERRUPTED"]
    counts = {"COMPLETE": 1, "RUNNING": 2}
    assert counts_as_seen(counts, is_running=True) == counts
    assert counts_as_seen(counts, is_running=False) == {"COMPLETE": 1, "INTERRUPTED": 2}


def test_study_knows_whether_a_process_runs_it(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 1, "epochs": 1})
    with open_study(sweep) as study:
        number = study.ask().number
        seen = read_study(sweep.name, sweep.storage)
        assert seen.is_running and not is_done(seen)
    seen = read_study(sweep.name, sweep.storage)
    assert not seen.is_running and not is_done(seen) and seen.row(number).state == "RUNNING"
    with open_study(sweep) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
    assert is_done(read_study(sweep.name, sweep.storage))


@pytest.mark.parametrize(("direction", "pruned"), [("maximize", 0.8791), ("minimize", 0.8691)])
def test_better_value_of_a_pruned_trial_is_explained(make_sweep: MakeSweep, direction: str, pruned: float) -> None:
    sweep = make_sweep(objective={"metric": "score", "direction": direction})
    rows = [row(0, "COMPLETE", 0.8741), row(9, "PRUNED", pruned, 3), row(3, "PRUNED", 0.8741, 2)]
    assert remark_on_pruned(rows, sweep) == (
        f"trial 9 reached {pruned} before it was pruned; the best complete one has 0.8741"
    )
    assert remark_on_pruned([rows[0], rows[2]], sweep) is None
    assert remark_on_pruned(rows[1:], sweep) is None


def test_trial_that_returned_early_is_said_to_have(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    assert ending(row(3, "COMPLETE", 0.5, 1), sweep) == "trial 3 complete at epoch 1/9 (returned early), score 0.5000"
    assert ending(row(3, "COMPLETE", 0.5, 9), sweep) == "trial 3 complete at epoch 9/9, score 0.5000"


def test_long_reason_keeps_the_place_in_the_code() -> None:
    reason = f"ValueError: too high: {'x' * 300} (train.py:4)"
    assert cut_reason(reason, 60).endswith("x… (train.py:4)") and len(cut_reason(reason, 60)) == 60
    assert cut_reason("no (really)\n") == r"no (really)\n"
    assert cut_reason("x" * 70, 60) == "x" * 59 + "…"
