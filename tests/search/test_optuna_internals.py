"""What sweeper relies on in Optuna and what Optuna does not promise: each test fails when the library moves."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import HyperbandPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from sweeper.search.bounded import BoundedTPESampler
from sweeper.search.optuna_internals import (
    GoalStudy,
    all_trials,
    compute_tails_in_c,
    generators_of,
    is_to_be_pruned,
    name_goals,
    numbers_on_front,
    partial_study,
    report_value,
    start_with,
    storage_of,
    trial_id,
)
from sweeper.search.pruning.optuna_internals import (
    best_value,
    bracket_of,
    is_first_of_interval,
    is_rung_mark,
    rung_marks,
    rungs_passed,
    values_at_rung,
)
from sweeper.search.samplers import Sampler
from sweeper.search.seeding import CountedRandomSampler
from sweeper.search.space import Domain

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def study() -> optuna.Study:
    """Make a study of two trials beside an older study, so that ids and numbers differ."""
    storage = optuna.storages.InMemoryStorage()
    older = optuna.create_study(storage=storage)
    older.tell(older.ask(), 1.0)
    study = optuna.create_study(storage=storage)
    for value in (0.1, 0.2):
        study.tell(study.ask(), value)
    return study


def reporting(*values: float) -> FrozenTrial:
    """Return a trial that reported these values, the first at step 1."""
    return optuna.trial.create_trial(value=0.0, intermediate_values=dict(enumerate(values, 1)))


def test_trial_is_found_again_by_its_id(study: optuna.Study) -> None:
    trial = study.ask()
    again = optuna.Trial(study, trial_id(trial))

    assert again.number == trial.number != trial_id(trial)
    assert trial_id(study.trials[-1]) == trial_id(trial)


def test_storage_writes_system_attributes_of_a_trial(study: optuna.Study) -> None:
    trial = study.ask()
    storage_of(study).set_trial_system_attr(trial_id(trial), "key", 5)

    assert study.trials[-1].system_attrs["key"] == 5
    assert not hasattr(trial, "set_system_attr") and not hasattr(FrozenTrial, "set_system_attr")


def test_all_trials_are_those_of_the_study_by_number_and_not_copied(study: optuna.Study) -> None:
    assert [trial.number for trial in all_trials(study)] == [0, 1]
    assert all(one is other for one, other in zip(all_trials(study), all_trials(study), strict=True))


def test_all_trials_are_those_of_every_bracket(study: optuna.Study) -> None:
    pruner: Any = HyperbandPruner(min_resource=1, max_resource=9)
    pruner._try_initialization(study)
    for _ in range(20):
        study.tell(study.ask(), 0.3)
    bracket = pruner._create_bracket_study(study, 0)

    assert len(bracket.get_trials(deepcopy=False)) < len(all_trials(bracket)) == 22


def test_tpe_sees_the_trials_of_a_partial_study_only() -> None:
    distribution = FloatDistribution(0, 1)
    study, rest = optuna.create_study(), optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=abs(number / 30 - 0.3), params={"x": number / 30}, distributions={"x": distribution}
            )
            for number in range(30)
        ]
    )
    rest.add_trials(all_trials(study)[10:])
    trial = optuna.trial.create_trial(state=TrialState.RUNNING)
    part = partial_study(study, all_trials(study)[10:])
    proposed = [
        TPESampler(seed=3, n_startup_trials=5).sample_independent(seen, trial, "x", distribution)
        for seen in (part, rest, study)
    ]

    assert proposed[0] == proposed[1] != proposed[2]


@pytest.mark.parametrize(("kind", "count"), [("random", 1), ("tpe", 2), ("cmaes", 2)])
def test_generators_include_those_of_inner_samplers(kind: str, count: int) -> None:
    space = TypeAdapter(dict[str, Domain]).validate_python(
        {name: {"type": "float", "low": 0, "high": 1} for name in "xy"}
    )
    sampler = TypeAdapter(Sampler).validate_python({"type": kind}).build(space, seed=0)

    assert len(list(generators_of(sampler))) == count


def test_restored_generators_repeat_the_proposal() -> None:
    sampler = TPESampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    saved = [(generator, generator.get_state()) for generator in generators_of(sampler)]
    first = study.ask().suggest_float("x", 0, 1)
    for generator, state in saved:
        generator.set_state(state)

    assert study.ask().suggest_float("x", 0, 1) == first


def test_best_value_follows_the_direction() -> None:
    assert best_value(reporting(0.2, 0.4, math.nan, 0.3), StudyDirection.MAXIMIZE) == 0.4
    assert best_value(reporting(0.2, 0.4, math.nan, 0.3), StudyDirection.MINIMIZE) == 0.2


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_best_value_of_nothing_but_nan_is_nan() -> None:
    assert math.isnan(best_value(reporting(math.nan), StudyDirection.MAXIMIZE))


def test_first_step_of_each_interval_is_found() -> None:
    steps = [
        step for step in range(4, 12) if is_first_of_interval(reporting(*[0.0] * step), step, warmup=4, interval=3)
    ]

    assert steps == [4, 7, 10]


def test_percentile_pruner_of_optuna_still_has_the_same_options() -> None:
    options = inspect.signature(PercentilePruner).parameters

    assert {name: option.default for name, option in options.items() if name != "percentile"} == {
        "n_startup_trials": 5,
        "n_warmup_steps": 0,
        "interval_steps": 1,
        "n_min_trials": 1,
    }


def test_halving_pruners_of_optuna_still_leave_these_marks() -> None:
    study = optuna.create_study(pruner=SuccessiveHalvingPruner(min_resource=2, reduction_factor=2))
    trial = study.ask()
    for step in range(1, 9):
        trial.report(step / 10, step)
        trial.should_prune()
    marks = study.trials[0].system_attrs

    assert rung_marks(study.trials[0].intermediate_values, first=2, factor=2) == marks
    assert marks == {"completed_rung_0": 0.2, "completed_rung_1": 0.4, "completed_rung_2": 0.8}
    assert all(map(is_rung_mark, marks)) and not is_rung_mark("fixed_params")
    assert rungs_passed(study.trials[0]) == 3
    assert [(trial.number, value) for trial, value in values_at_rung(study.trials, 1)] == [(0, 0.4)]


def test_bracket_is_the_one_in_which_hyperband_compares() -> None:
    study = optuna.create_study(pruner=HyperbandPruner(min_resource=1, max_resource=9), study_name="brackets")
    for _ in range(20):
        trial = study.ask()
        trial.report(0.5, 1)
        trial.should_prune()
    pruner: Any = study.pruner
    for trial in study.trials:
        mates = pruner._create_bracket_study(study, bracket_of(pruner, study, trial)).get_trials(deepcopy=False)
        assert trial.number in [mate.number for mate in mates]
        assert rungs_passed(trial) == (bracket_of(pruner, study, trial) == 0)


def test_tpe_draws_its_first_points_from_the_given_sampler() -> None:
    sampler, counted = TPESampler(seed=0, n_startup_trials=2), CountedRandomSampler(seed=0)
    start_with(sampler, counted)
    study = optuna.create_study(sampler=sampler)
    for _ in range(4):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))

    assert counted.draws == 2


def test_remembered_numbers_change_no_proposal() -> None:
    proposed: list[list[dict[str, Any]]] = []
    for kind in (TPESampler, BoundedTPESampler):
        sampler = kind(n_startup_trials=4, constant_liar=True, seed=3)
        study = optuna.create_study(sampler=sampler)
        running: list[optuna.Trial] = []
        for number in range(40):
            trial = study.ask()
            x, log = trial.suggest_float("x", 0, 1), trial.suggest_float("log", 1e-4, 1e-1, log=True)
            if trial.suggest_categorical("kind", ["a", "b"]) == "a":
                trial.suggest_int("units", 8, 64)
            if number % 3:
                study.tell(trial, (x - 0.3) ** 2 + log)
            else:
                running.append(trial)
            if number % 9 == 8:
                study.tell(running.pop(0), 0.5)
        proposed.append([trial.params for trial in study.trials])
    assert proposed[0] == proposed[1]


def test_tails_in_c_are_those_of_optuna() -> None:
    from optuna.samplers._tpe import _truncnorm

    points = np.concatenate([np.linspace(-40, 10, 5001), [-1e3, -1e-300, 0.0, 1e3]])
    expected = [_truncnorm._log_ndtr_single(point) for point in points]
    compute_tails_in_c()
    assert np.allclose(_truncnorm._log_ndtr(points), expected, rtol=1e-9, atol=1e-15)
    assert np.isfinite(_truncnorm._log_gauss_mass(np.array([-30.0, 0.5]), np.array([-20.0, 3.0]))).all()


@pytest.mark.parametrize(
    "pruner", [SuccessiveHalvingPruner(min_resource=1, reduction_factor=2), PercentilePruner(50.0, 1)]
)
def test_study_of_several_goals_prunes_by_the_first(pruner: optuna.pruners.BasePruner) -> None:
    storage, verdicts = optuna.storages.InMemoryStorage(), []
    optuna.create_study(study_name="goals", storage=storage, directions=["maximize", "minimize"])
    study = GoalStudy("goals", storage, pruner=pruner)
    name_goals(study, ["score", "parameters"])
    for value in (0.5, 0.9, 0.1):
        trial = study.ask()
        report_value(trial, value, 1)
        verdicts.append(is_to_be_pruned(trial))
        study.tell(
            trial, [value, 10.0] if not verdicts[-1] else None, state=TrialState.PRUNED if verdicts[-1] else None
        )
    assert verdicts == [False, False, True]
    assert study.direction == StudyDirection.MAXIMIZE and study.metric_names == ["score", "parameters"]
    assert study.trials[2].values is None, "the reports have one goal only"
    assert numbers_on_front(study.trials, study.directions) == {trial.number for trial in study.best_trials} == {1}


def test_optuna_still_refuses_reports_to_several_goals() -> None:
    trial = optuna.create_study(directions=["maximize"] * 2).ask()
    for call in (lambda: trial.report(0.5, 1), trial.should_prune):
        with pytest.raises(NotImplementedError):
            call()
