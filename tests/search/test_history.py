from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import TypeAdapter

from sweeper.search.budget import Budget
from sweeper.search.history import (
    FORKED_FROM,
    as_history,
    describe_eras,
    is_history,
    is_tried,
    marks_of,
    point_in,
    with_era,
)
from sweeper.search.pruning.pruners import Pruner
from sweeper.search.space import Domain, Space

SPACE = {
    "cell": "lstm",
    "units": {"type": "int", "low": 8, "high": 64},
    "rate": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 1.0, "when": {"optimizer": "sgd"}},
}
POINT = {"cell": "lstm", "units": 16, "rate": 0.3, "optimizer": "adam"}
RANDOM, TPE = {"type": "random", "seed": None}, {"type": "tpe", "n_startup_trials": 5}


def space_of(**changes: Any) -> Space:
    declared = {name: domain for name, domain in (SPACE | changes).items() if domain is not None}
    return TypeAdapter(dict[str, Domain]).validate_python(declared)


def pruner_of(**options: Any) -> Pruner:
    pruner: Pruner = TypeAdapter(Pruner).validate_python(options)
    return pruner


@pytest.mark.parametrize(
    ("params", "changes", "fits"),
    [
        (POINT, {}, True),
        (POINT | {"rate": 0.30000000000000004}, {}, True),
        (POINT | {"optimizer": "sgd", "momentum": 0.5}, {}, True),
        (POINT | {"optimizer": "sgd"}, {}, False),
        (POINT | {"momentum": 0.5}, {}, False),
        (POINT, {"units": {"type": "int", "low": 32, "high": 64}}, False),
        (POINT, {"units": {"type": "int", "low": 8, "high": 640}}, True),
        (POINT, {"cell": "gru"}, False),
        (POINT, {"cell": {"type": "categorical", "choices": ["lstm", "gru"]}}, True),
        (POINT, {"dropout": {"type": "float", "low": 0.0, "high": 1.0}}, False),
        (POINT, {"rate": None}, False),
    ],
)
def test_trial_is_a_point_only_if_it_has_exactly_its_parameters(
    params: dict[str, Any], changes: dict[str, Any], fits: bool
) -> None:
    assert (point_in(params, space_of(**changes)) is not None) == fits


def ended(state: TrialState = TrialState.COMPLETE, **system_attrs: Any) -> FrozenTrial:
    return create_trial(state=state, value=0.5, system_attrs=system_attrs, intermediate_values={1: 0.4, 2: 0.5})


def test_history_has_the_distributions_of_its_new_space() -> None:
    space = space_of(units={"type": "int", "low": 8, "high": 640})
    point = point_in(POINT, space)
    assert point is not None
    found = as_history(ended(), point, space, source="lstm:7", reports={1: 0.4}, marks={"mark": 0.4})
    assert is_history(found) and found.user_attrs == {FORKED_FROM: "lstm:7"}
    assert found.params == {"units": 16, "rate": 0.3, "optimizer": "adam"}
    assert found.distributions["units"] == optuna.distributions.IntDistribution(8, 640)
    assert (found.value, found.intermediate_values, found.system_attrs) == (0.5, {1: 0.4}, {"mark": 0.4})
    again = as_history(found, point, space, source="wider:0", reports={}, marks={})
    assert again.user_attrs == {FORKED_FROM: "lstm:7"}


def test_start_point_is_tried_if_a_trial_has_it_or_began_with_it() -> None:
    space = space_of()
    point = point_in(POINT, space)
    assert point is not None
    started = ended(fixed_params={"units": 16})
    trials = [as_history(started, point, space, source="lstm:0", reports={}, marks={})]
    searched = {name: value for name, value in point.items() if name != "cell"}
    assert is_tried(searched, trials) and is_tried({"units": 16}, trials)
    assert not is_tried({"units": 17}, trials) and not is_tried(searched | {"units": 17}, trials)
    assert not is_tried({}, trials)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_marks_are_those_that_successive_halving_leaves(direction: str) -> None:
    budget = Budget(trials=30, epochs=12)
    declared = pruner_of(type="successive_halving", min_epochs=2, reduction_factor=2)
    sampler = optuna.samplers.RandomSampler(0)
    study = optuna.create_study(direction=direction, pruner=declared.build(budget), sampler=sampler)
    for _ in range(30):
        trial = study.ask()
        height = trial.suggest_float("height", 0, 1)
        for step in range(1, 12):
            trial.report(height * step, step)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, height)
    assert {len(trial.system_attrs) for trial in study.trials} > {1}
    for frozen in study.trials:
        assert marks_of(declared, budget, frozen.intermediate_values) == frozen.system_attrs


def test_pruner_within_patient_keeps_its_marks_and_others_have_none() -> None:
    budget, reports = Budget(trials=30, epochs=12), {1: 0.1, 2: 0.2, 3: 0.3}
    halving = {"type": "successive_halving", "min_epochs": 2}
    assert marks_of(pruner_of(type="patient", wrapped=halving), budget, reports) == {"completed_rung_0": 0.2}
    for kind in ("median", "hyperband", "none", "patient"):
        assert marks_of(pruner_of(type=kind), budget, reports) == {}


def test_eras_grow_when_the_sampler_or_pruner_changes() -> None:
    median, none = {"type": "median"}, {"type": "none"}
    eras = with_era([], 0, RANDOM, median)
    assert describe_eras(eras, 9) is None
    eras = with_era(eras, 5, TPE, median)
    assert with_era(eras, 9, TPE, median) == eras
    assert with_era(eras, 5, RANDOM, median) == eras[:1]
    eras = with_era(eras, 9, TPE | {"n_startup_trials": 3}, none)
    assert describe_eras(eras, 9) == (
        "Sampler and pruner were random and median for trials 0 to 4, tpe (n_startup_trials 5) and median for trials 5 "
        "to 8, and tpe (n_startup_trials 3) and none from trial 9 on"
    )
    assert describe_eras(eras, 8) == (
        "Sampler and pruner were random and median for trials 0 to 4, and tpe and median from trial 5 on"
    )
