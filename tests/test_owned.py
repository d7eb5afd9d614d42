from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from sweeper.spec import Sweep
from sweeper.storage import Store, open_store
from sweeper.studies import open_study
from sweeper.study import SweepStudy
from sweeper.trial import Report

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def study(make_sweep: MakeSweep) -> Iterator[SweepStudy]:
    with open_study(make_sweep(enqueue=[{"height": 0.5}, {"height": 0.25}], sampler={"type": "tpe"})) as study:
        yield study


def facts_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """All that a trial is, but for its times: the database's and the owner's are some microseconds apart."""
    names = (
        "number",
        "state",
        "params",
        "distributions",
        "values",
        "intermediate_values",
        "user_attrs",
        "system_attrs",
    )
    return {name: getattr(trial, name) for name in names}


def commits_of(store: Store) -> list[str]:
    seen: list[str] = []
    sa.event.listen(store.engine, "commit", lambda connection: seen.append("commit"))
    return seen


def test_what_the_owner_remembers_is_what_the_database_holds(study: SweepStudy) -> None:
    for number in range(12):
        study.ask()
        for step in range(1, 4 + 3 * (number % 3)):
            study.report(number, Report(step, 0.0, {"score": step / 10 + number}), node="here")
    study.retry(3, "its worker died")
    study.fail(7, "it was too high")
    with open_store(study.sweep.storage_url()) as store:
        stored = optuna.load_study(study_name=study.name, storage=store.optuna).trials
    assert [facts_of(trial) for trial in study._study.trials] == [facts_of(trial) for trial in stored]
    assert {trial.state.name for trial in stored} == {"RUNNING", "COMPLETE", "FAIL"}


def test_a_trial_that_was_handed_out_does_not_change(study: SweepStudy) -> None:
    study.ask()
    before = study._study.get_trials(deepcopy=False)[0]
    study.report(0, Report(1, 0.0, {"score": 0.5}))
    assert before.intermediate_values == {}
    assert study._study.get_trials(deepcopy=False)[0].intermediate_values == {1: 0.5}


def test_a_proposal_a_report_and_an_end_are_one_commit_each(study: SweepStudy) -> None:
    commits = commits_of(study._store)
    number = study.ask().number
    assert len(commits) == 1
    study.report(number, Report(1, 0.0, {"score": 0.5}), node="here")
    assert len(commits) == 2
    study.fail(number, "it was too high")
    assert len(commits) == 3


def test_a_report_that_fails_halfway_leaves_nothing(study: SweepStudy) -> None:
    number = study.ask().number
    with pytest.raises(TypeError):
        study.report(number, Report(1, 0.0, {"score": "high"}))  # type: ignore[dict-item]
    assert study.reports(number) == []
