from __future__ import annotations

import random
import warnings
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner, PercentilePruner
from optuna.trial import TrialState

from sweeper.search.pruning.percentile import IncrementalPercentilePruner

optuna.logging.set_verbosity(optuna.logging.WARNING)


def verdicts(pruner: BasePruner, direction: str, seed: int) -> list[bool]:
    """Return the verdicts on trials that run three at a time, end in every way, skip steps and report NaN."""
    study = optuna.create_study(direction=direction, pruner=pruner)
    chance, running, said = random.Random(seed), [], []
    for _ in range(60):
        running.append(study.ask())
        for trial in running:
            for step in chance.sample(range(1, 9), 3):
                trial.report(chance.choice([chance.random(), chance.random(), float("nan")]), step)
                said.append(trial.should_prune())
        if len(running) == 3:
            state = chance.choice([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            study.tell(running.pop(chance.randrange(3)), 1.0 if state == TrialState.COMPLETE else None, state=state)
    return said


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(
    "options",
    [
        {"n_startup_trials": 0},
        {"n_startup_trials": 4, "n_warmup_steps": 3},
        {"n_startup_trials": 1, "interval_steps": 3, "n_min_trials": 5},
    ],
)
@pytest.mark.parametrize("percentile", [25.0, 50.0])
def test_verdicts_are_those_of_optuna(direction: str, options: dict[str, Any], percentile: float) -> None:
    for seed in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a step at which all values are NaN, and one reported twice
            theirs = MedianPruner(**options) if percentile == 50 else PercentilePruner(percentile, **options)
            expected = verdicts(theirs, direction, seed)
            assert verdicts(IncrementalPercentilePruner(percentile, **options), direction, seed) == expected
        assert {True, False} == set(expected)


def test_resumed_study_judges_by_all_its_trials() -> None:
    study = optuna.create_study(direction="maximize", pruner=IncrementalPercentilePruner(50.0, n_startup_trials=1))
    for value in (0.2, 0.4, 0.6):
        trial = study.ask()
        trial.report(value, 1)
        study.tell(trial, value)
    study.pruner = IncrementalPercentilePruner(50.0, n_startup_trials=1)
    said = []
    for value in (0.39, 0.41):
        trial = study.ask()
        trial.report(value, 1)
        said.append(trial.should_prune())
    assert said == [True, False]
