from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.core.errors import InputError
from sweeper.spec import Sweep
from sweeper.study.compatibility import check_resumable
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]
BUDGET = {"trials": 6, "epochs": 9}
WIDER = {"height": {"type": "float", "low": 0.0, "high": 2.0}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"budget": BUDGET | {"trials": 12}}, "budget.trials: 6 -> 12"),
        ({"budget": BUDGET | {"trials": 3}}, "budget.trials: 6 -> 3"),
        ({"budget": BUDGET | {"parallel": 1}}, "budget.parallel: auto -> 1"),
        ({"budget": BUDGET | {"timeout": "1m"}}, "budget.timeout: nothing -> 60.0"),
        ({"budget": BUDGET | {"stall_timeout": "10m"}}, "budget.stall_timeout: 3600.0 -> 600.0"),
        ({"budget": BUDGET | {"max_failures": 9}}, "budget.max_failures: 3 -> 9"),
        ({"sampler": {"type": "random", "seed": 1}}, "sampler.seed: nothing -> 1"),
        ({"sampler": {"type": "tpe"}}, "sampler: random -> tpe"),
        ({"pruner": {"type": "median"}}, "pruner: none -> median"),
        ({"resources": {"cpus": 2}}, "resources.cpus: 1.0 -> 2.0"),
        ({"description": "a hill"}, "description:  -> a hill"),
        ({"tracking": {"experiment": "hills"}}, "tracking.experiment: sweeper -> hills"),
        ({"tracking": {"uri": "http://mlflow:5000"}}, "tracking.uri: another URL"),
        ({"storage": "sqlite:///other.db"}, "storage: another URL"),
    ],
)
def test_change_that_keeps_trials_comparable_is_allowed(
    make_sweep: MakeSweep, change: dict[str, Any], line: str
) -> None:
    assert check_resumable(make_sweep(), make_sweep(**change)) == [line]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 5}, "seed: 0 -> 5"),
        ({"trainable": "tests.samples:descend"}, "trainable: tests.samples:climb -> tests.samples:descend"),
        ({"dataset": {"type": "digits"}}, "dataset: nothing -> {'type': 'digits'"),
        ({"objective": {"metric": "score", "direction": "minimize"}}, "objective.direction: maximize -> minimize"),
        ({"objective": {"metric": "cost"}}, "objective.metric: score -> cost"),
        ({"space": WIDER}, "space.height.high: 1.0 -> 2.0"),
        ({"budget": {"trials": 6, "epochs": 10}}, "budget.epochs: 9.0 -> 10.0"),
        ({"budget": {"trials": 6, "steps": 100}}, "budget.steps: nothing -> 100"),
        ({"budget": BUDGET | {"reports_per_epoch": 2}}, "budget.reports_per_epoch: 1 -> 2"),
        ({"enqueue": [{"height": 0.5}]}, "enqueue: [] -> [{'height': 0.5}]"),
    ],
)
def test_change_that_makes_trials_incomparable_is_refused(
    make_sweep: MakeSweep, change: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError, match="would not compare") as refused:
        check_resumable(make_sweep(), make_sweep(**change))
    assert f"\n  {line}" in str(refused.value)
    assert "--fork NEW" in str(refused.value)


def test_refusal_names_every_change_at_once(make_sweep: MakeSweep) -> None:
    with pytest.raises(InputError) as refused:
        check_resumable(make_sweep(), make_sweep(seed=5, space=WIDER, budget=BUDGET | {"trials": 7}))
    assert "seed: 0 -> 5" in str(refused.value) and "space.height.high" in str(refused.value)
    assert "budget.trials" not in str(refused.value)


def test_same_sweep_has_no_changes(make_sweep: MakeSweep) -> None:
    assert check_resumable(make_sweep(), make_sweep()) == []


def test_refused_change_leaves_the_study_as_it_was(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        study.ask()
    with pytest.raises(InputError, match="space.height.high"), open_study(make_sweep(space=WIDER)):
        pass
    with open_study(make_sweep(budget=BUDGET | {"trials": 7})) as study:
        assert len(study.rows()) == 1


def test_changed_url_is_not_shown_with_its_password(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    now = make_sweep(storage="postgresql+psycopg://me:${env:SECRET}@host/db", seed=1)
    with pytest.raises(InputError) as refused:
        check_resumable(make_sweep(), now)
    assert "postgresql" not in str(refused.value) and "hunter2" not in str(refused.value)
