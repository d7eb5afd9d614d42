"""The part of the data on which a trial is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sweeper.core.sweep_folder import SweepFolder
from sweeper.spec import Sweep
from sweeper.worker.probe import part_of
from sweeper.worker.task import WorkerContext


def context(sweep: Sweep) -> WorkerContext:
    empty = WorkerContext(sweep, SweepFolder.of("here", sweep.name))
    return replace(empty, data=empty.load_data())


def test_training_and_validation_shrink_alike(make_sweep: Callable[..., Sweep]) -> None:
    whole = context(make_sweep(dataset={"type": "digits"}))
    part = part_of(whole, 0.25)
    assert whole.data is not None and part.data is not None
    for name in ("x_train", "y_train", "x_val", "y_val"):
        shrunk, before = len(getattr(part.data, name)), len(getattr(whole.data, name))
        assert shrunk == pytest.approx(before / 4, abs=1)
    assert part.sweep.budget == whole.sweep.budget and part_of(whole, 1.0) is whole


def test_budget_of_steps_shrinks_with_as_many_reports(make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(dataset={"type": "digits"}, budget={"trials": 2, "steps": 1000, "report_every": 100})
    whole = context(sweep)
    part = part_of(whole, 0.1)
    assert part.sweep.budget.epoch_of(1) == 10 and part.sweep.budget.reports == sweep.budget.reports
    assert part.data is not None and whole.data is not None and len(part.data.y_train) == len(whole.data.y_train)
