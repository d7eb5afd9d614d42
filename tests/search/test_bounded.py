from __future__ import annotations

import random
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.bounded import BoundedTPESampler
from sweeper.search.optuna_internals import storage_of

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study_of(sampler: TPESampler, direction: str = "minimize", pruner: Any = None) -> optuna.Study:
    return optuna.create_study(sampler=sampler, direction=direction, pruner=pruner)


def ask(study: optuna.Study) -> optuna.Trial:
    """Ask for a trial of a space with a condition, so that parameters are drawn jointly and one by one."""
    trial = study.ask()
    trial.suggest_float("rate", 1e-4, 1.0, log=True)
    trial.suggest_int("units", 1, 300)
    if trial.suggest_categorical("optimizer", ["sgd", "adam"]) == "sgd":
        trial.suggest_float("momentum", 0.0, 1.0)
    return trial


def run(study: optuna.Study, count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Run trials that end in every state, three at a time and not in the order they began; return their points."""
    chance, running, points = random.Random(seed), [], []
    for _ in range(count):
        running.append(ask(study))
        points.append(running[-1].params)
        if len(running) == 3:
            trial = running.pop(chance.randrange(3))
            for step in range(1, chance.choice([1, 2, 4])):
                trial.report(chance.choice([chance.random(), float("nan")]), step)
            state = chance.choice([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            value = round(trial.params["rate"] + trial.params["units"] / 300, 1)  # some are equal
            study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)
    return points


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("pruner", [None, optuna.pruners.HyperbandPruner(1, 9)])
def test_proposals_are_those_of_optuna_up_to_the_bound(direction: str, pruner: Any) -> None:
    theirs = study_of(TPESampler(n_startup_trials=5, seed=3), direction, pruner)
    ours = study_of(BoundedTPESampler(n_startup_trials=5, seed=3, modelled=150), direction, pruner)
    assert run(ours, 120) == run(theirs, 120)


def modelled_by(sampler: BoundedTPESampler, study: optuna.Study) -> list[int]:
    sampler._trials.update(study)
    _, good, others = sampler._trials.split(-1)
    return sorted(good + others)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_best_newest_and_running_trials_are_modelled_beyond_the_bound(direction: str) -> None:
    sampler = BoundedTPESampler(n_startup_trials=5, seed=3, modelled=60)
    study = study_of(sampler, direction)
    run(study, 200)
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    sign = 1 if direction == "minimize" else -1
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: sign * trial.values[0])[:25]
    others = [trial for trial in ended if trial not in best][-60:]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    assert modelled_by(sampler, study) == sorted(trial.number for trial in best + others + running)
    assert len(ended) > 85


def test_newest_running_trials_are_modelled_without_the_proposed_one() -> None:
    sampler = BoundedTPESampler(n_startup_trials=5, seed=3, modelled=10)
    study = study_of(sampler)
    run(study, 30)
    running = [ask(study).number for _ in range(40)]
    sampler._trials.update(study)
    trials, good, others = sampler._trials.split(running[-1])
    open_numbers = [number for number in others if trials[number].state == TrialState.RUNNING]
    assert open_numbers == running[-11:-1] and not {*good} & {*running}


def test_resumed_study_models_the_same_trials() -> None:
    sampler = BoundedTPESampler(n_startup_trials=5, seed=3, modelled=60)
    study = study_of(sampler)
    run(study, 200)
    afresh = BoundedTPESampler(n_startup_trials=5, seed=4, modelled=60)
    assert modelled_by(afresh, study) == modelled_by(sampler, study)


def test_longest_pruned_trials_count_as_best_when_few_complete() -> None:
    sampler = BoundedTPESampler(n_startup_trials=5, seed=3, modelled=40)
    study = study_of(sampler)
    for number in range(100):
        trial = ask(study)
        for step in range(1, 4 if number < 20 else 2):
            trial.report(0.5, step)
        study.tell(trial, state=TrialState.PRUNED)
    assert modelled_by(sampler, study) == [*range(25), *range(60, 100)]


def test_all_random_trials_are_counted() -> None:
    sampler = BoundedTPESampler(n_startup_trials=80, seed=3, modelled=10)
    study = study_of(sampler)
    run(study, 200)
    assert len(modelled_by(sampler, study)) > 80


def test_ended_trials_are_read_only_once() -> None:
    class Watched(FrozenTrial):
        reads = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "state":
                Watched.reads += 1
            return super().__getattribute__(name)

    sampler = BoundedTPESampler(n_startup_trials=5, seed=3, modelled=20)
    study = study_of(sampler)
    run(study, 200)
    sampler._trials.update(study)
    for trial in storage_of(study)._studies[study._study_id].trials:  # type: ignore[attr-defined]
        trial.__class__ = Watched
    sampler._trials.update(study)
    assert Watched.reads < 20
