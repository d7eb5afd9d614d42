from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from sweeper.core.trials import Failure, Report
from sweeper.spec import Sweep
from sweeper.study.database import Database, open_database
from sweeper.study.open import open_study
from sweeper.study.storage.cache import OwnerCachedStorage
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def study(make_sweep: MakeSweep) -> Iterator[SweepStudy]:
    with open_study(make_sweep(enqueue=[{"height": 0.5}, {"height": 0.25}], sampler={"type": "tpe"})) as study:
        yield study


def facts_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Return the fields of a trial, except its times: those of the cache and the database differ by microseconds."""
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


def commits_of(database: Database) -> list[str]:
    seen: list[str] = []
    sa.event.listen(database.engine, "commit", lambda connection: seen.append("commit"))
    return seen


def test_cache_of_the_owner_equals_the_database(study: SweepStudy) -> None:
    for number in range(12):
        study.ask()
        for step in range(1, 4 + 3 * (number % 3)):
            study.report(number, Report(step, 0.0, {"score": step / 10 + number}), node="here")
    study.fail(3, Failure("crash", "its worker died"))
    study.fail(7, Failure("error", "it was too high"))
    with open_database(study.sweep.storage_url()) as database:
        stored = optuna.load_study(study_name=study.name, storage=database.optuna).trials
    assert [facts_of(trial) for trial in study._study.trials] == [facts_of(trial) for trial in stored]
    assert {trial.state.name for trial in stored} == {"RUNNING", "COMPLETE", "FAIL"}


def test_trial_that_a_caller_holds_does_not_change(study: SweepStudy) -> None:
    study.ask()
    before = study._study.get_trials(deepcopy=False)[0]
    study.report(0, Report(1, 0.0, {"score": 0.5}))
    assert before.intermediate_values == {}
    assert study._study.get_trials(deepcopy=False)[0].intermediate_values == {1: 0.5}


def test_proposal_report_and_end_are_one_commit_each(study: SweepStudy) -> None:
    commits = commits_of(study._database)
    number = study.ask().number
    assert len(commits) == 1
    study.report(number, Report(1, 0.0, {"score": 0.5}), node="here")
    assert len(commits) == 2
    study.fail(number, Failure("error", "it was too high"))
    assert len(commits) == 3


def test_last_report_and_end_of_a_trial_are_one_commit(study: SweepStudy) -> None:
    number = study.ask().number
    commits = commits_of(study._database)
    study.report(number, Report(study.sweep.budget.reports, 0.0, {"score": 0.5}))
    assert (study.row(number).state, len(commits)) == ("COMPLETE", 1)


def rows_after_a_story(study: optuna.Study) -> dict[str, list[Any]]:
    """Return all rows without times, after trials that end in every way."""
    for number, state in enumerate(("COMPLETE", "PRUNED", "FAIL", "RUNNING", "COMPLETE", "COMPLETE")):
        trial = study.ask()
        trial.suggest_float("height", 0.0, 1.0)
        trial.suggest_int("width", 1, 8, log=True)
        if number % 2:
            trial.suggest_categorical("shape", ["round", "square", None])
        for step, value in enumerate((0.5, -1.0, float("nan"), float("inf"), float("-inf")), 1):
            trial.report(value, step)
        for value in (1, {"of": ["many"]}):
            trial.set_user_attr("note", value)
            study._storage.set_trial_system_attr(trial._trial_id, "note", value)
        if state != "RUNNING":
            value = (0.25, float("inf"))[number % 2] if state == "COMPLETE" else None
            study.tell(trial, value, state=optuna.trial.TrialState[state])
    storage = study._storage._backend  # type: ignore[attr-defined]
    tables = sa.MetaData()
    tables.reflect(storage.engine)
    with storage.engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(sa.select(*untimed(table)))]
            for table in tables.sorted_tables
        }


def untimed(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.columns if not column.name.startswith("datetime")]


def test_owner_writes_the_rows_that_optuna_would_write(tmp_path: Path) -> None:
    sampler = optuna.samplers.TPESampler(n_startup_trials=2, seed=1)
    theirs = optuna.create_study(study_name="it", storage=f"sqlite:///{tmp_path}/theirs.db", sampler=sampler)
    made = optuna.create_study(study_name="it", storage=f"sqlite:///{tmp_path}/ours.db")
    owned = OwnerCachedStorage(made._storage._backend, made._study_id)  # type: ignore[attr-defined]
    sampler = optuna.samplers.TPESampler(n_startup_trials=2, seed=1)
    ours = optuna.load_study(study_name="it", storage=owned, sampler=sampler)
    assert rows_after_a_story(ours) == rows_after_a_story(theirs)


def test_ended_trial_cannot_be_written_to(study: SweepStudy) -> None:
    number = study.ask().number
    trial = study._trials[number]
    study.fail(number, Failure("error", "it was too high"))
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("late", 1)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.report(1.0, 1)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [1.0])


def test_report_that_fails_halfway_is_rolled_back(study: SweepStudy) -> None:
    number = study.ask().number
    with pytest.raises(TypeError):
        study.report(number, Report(1, 0.0, {"score": "high"}))  # type: ignore[dict-item]
    assert study.reports(number) == []
