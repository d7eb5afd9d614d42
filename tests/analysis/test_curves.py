"""Curves and costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.analysis.costs import costs_of
from sweeper.analysis.curves import MAX_SINGLE_READS, Curve, curves_of
from sweeper.core.trials import Failure, Report
from sweeper.study.open import open_study, read_study

MakeSweep = Callable[..., Any]

NAN = float("nan")


def test_curves_have_finite_values_in_the_unit_of_the_budget(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(budget={"trials": 4, "epochs": 2, "reports_per_epoch": 2})
    with open_study(sweep) as study:
        for values in ((0.1, 0.2, NAN, 0.4), (0.3,), ()):
            number = study.ask().number
            for step, value in enumerate(values, 1):
                study.report(number, Report(step, float(step), {"score": value, "loss": 1.0}))
    seen = read_study(sweep.name, sweep.storage)
    expected = [
        Curve(1, "INTERRUPTED", (0.5,), (0.3,)),
        Curve(0, "COMPLETE", (0.5, 1.0, 2.0), (0.1, 0.2, 0.4)),
        Curve(2, "INTERRUPTED", (), ()),
    ]
    rows = [seen.row(number) for number in (1, 0, 2)]
    assert curves_of(seen, rows) == expected
    monkeypatch.setattr("sweeper.analysis.curves.MAX_SINGLE_READS", 0)
    assert curves_of(seen, rows) == expected and MAX_SINGLE_READS > 0
    assert curves_of(seen, rows, "loss")[1].values == (1.0, 1.0, 1.0, 1.0)
    assert curves_of(seen, rows, "no")[1].values == ()


def test_costs_are_summed_over_attempts_and_by_state(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 3, "epochs": 4})
    with open_study(sweep) as study:
        for step in range(1, 5):
            study.report(study.ask().number if step == 1 else 0, Report(step, time.time(), {"score": 0.5}))
        study.finish(study.ask().number, is_pruned=True)
        study.report(study.ask().number, Report(1, time.time() + 30, {"score": 0.5}))
        study.fail(2, Failure("crash", "its worker died"))
        running = costs_of(read_study(sweep.name, sweep.storage))
        assert running.by_state.keys() == {"COMPLETE", "PRUNED", "RUNNING"}
    costs = costs_of(read_study(sweep.name, sweep.storage))
    assert costs.by_state.keys() == {"COMPLETE", "PRUNED", "INTERRUPTED"}
    assert 29 < costs.by_state["INTERRUPTED"] < 40  # until its last report, which is the last sign of it
    assert costs.seconds == pytest.approx(sum(costs.by_state.values()))
    assert (costs.reports_run, costs.reports_budgeted) == (5, 9)
