from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from sweeper.analysis.details import details_of, parameters_of
from sweeper.core.trials import Failure, Report, TrialRecord
from sweeper.spec.hyperparameters import default_values
from sweeper.study.open import open_study, read_study

MakeSweep = Callable[..., Any]

SPACE = {
    "units": {"type": "int", "low": 1, "high": 1024, "log": True},
    "rate": {"type": "float", "low": 0.0, "high": 1.0},
    "dropout": {"type": "float", "low": 0.0, "high": 1.0},
    "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
    "momentum": {"type": "float", "low": 0.0, "high": 1.0, "when": {"optimizer": "sgd"}},
    "cell": "lstm",
}
BEST = {"units": 1024, "rate": 0.5, "dropout": 0.1, "optimizer": "sgd", "momentum": 0.5, "cell": "lstm"}


def test_parameters_that_differ_most_in_their_range_are_marked(make_sweep: MakeSweep) -> None:
    sweep, best = make_sweep(space=SPACE), TrialRecord(0, "COMPLETE", BEST, 0.9)
    params = {"units": 32, "rate": 0.7, "dropout": 0.4, "optimizer": "adam", "cell": "lstm"}
    found = parameters_of(sweep, TrialRecord(1, "COMPLETE", params, 0.8), best, {"layers": 1, "units": 7})
    distances = {one.name: round(one.distance, 6) for one in found if one.source == "searched"}
    assert distances == {"units": 0.5, "rate": 0.2, "dropout": 0.3, "optimizer": 1.0, "momentum": 1.0}
    assert [one.name for one in found if one.is_marked] == ["units", "optimizer", "momentum"]
    assert [(one.name, one.source) for one in found[-2:]] == [("cell", "fixed"), ("layers", "default")]
    momentum = next(one for one in found if one.name == "momentum")
    assert not momentum.is_used and momentum.is_in_best and momentum.best == 0.5
    assert not any(one.is_marked for one in parameters_of(sweep, best, best, {}))
    outside = replace(best, number=2, params=BEST | {"units": -1})
    assert next(one for one in parameters_of(sweep, outside, best, {}) if one.name == "units").distance == 1.0


def test_defaults_are_those_that_the_trainable_declares(make_sweep: MakeSweep) -> None:
    space = {"units": {"type": "int", "low": 8, "high": 64}}
    declared = {"trainable": "sweeper.training:train_rnn", "dataset": {"type": "digits"}, "space": space}
    with open_study(make_sweep(**declared)) as study:
        study.ask()
        study.record_facts({"files": {}})
    seen = read_study("climbing", "sqlite:///sweeper.db")
    defaults = {one.name: one.value for one in details_of(seen, seen.row(0)).parameters if one.source == "default"}
    assert defaults["optimizer"] == "adam" and defaults["batch_size"] == 128 and "units" not in defaults
    with open_study(make_sweep(**declared)) as study:
        study.record_facts({"files": {"train.py": "another digest"}})
    seen = read_study("climbing", "sqlite:///sweeper.db")
    details = details_of(seen, seen.row(0))
    assert [one.source for one in details.parameters] == ["searched"]
    assert "the code of sweeper.training:train_rnn here may not be the one that the trials ran" in details.missing[0]


class _Model(BaseModel):
    width: int
    depth: int = 2
    rate: float = Field(0.1, alias="lr")


@dataclass
class _Class:
    width: int
    depth: int = 2


@pytest.mark.parametrize(("model", "values"), [(_Model, {"depth": 2, "lr": 0.1}), (_Class, {"depth": 2})])
def test_default_values_are_those_of_fields_that_need_no_value(model: type[Any], values: dict[str, Any]) -> None:
    assert default_values(model) == values


def test_every_attempt_is_listed_with_its_seconds_as_far_as_known(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 1, "epochs": 4})
    with open_study(sweep) as study:
        for attempt in (1, 2, 3):
            row = study.ask()
            study.report(row.number, Report(attempt, 1.0, {"score": 0.5}), node=f"node-{attempt}")
            study.fail(row.number, Failure("node", "its node was lost"), node=f"node-{attempt}")
        study.ask()
    seen = read_study(sweep.name, sweep.storage)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    row = replace(seen.row(0), started=start, resumed=start + timedelta(seconds=90), spent=50.0)
    attempts = details_of(seen, row).attempts
    assert [(one.attempt, one.state, one.node) for one in attempts] == [
        (1, "FAIL", "node-1"),
        (2, "FAIL", "node-2"),
        (3, "FAIL", "node-3"),
        (4, "INTERRUPTED", "node-3"),
    ]
    assert [one.epoch for one in attempts] == [1, 2, 3, 3]
    assert attempts[0].seconds is not None and [one.seconds for one in attempts[1:]] == [None, None, None]
