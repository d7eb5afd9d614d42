"""What a PostgreSQL server gets at once, and what happens if one of the statements fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psycopg
import pytest
import sqlalchemy as sa

from sweeper.core.errors import LeaseLostError
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.storage import exchange
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def study(make_sweep: MakeSweep, postgres: str, tmp_path: Path) -> Iterator[SweepStudy]:
    pruner = {"type": "median", "n_startup_trials": 1, "min_epochs": 1}
    budget = {"trials": 100, "epochs": 9}
    with open_study(make_sweep(name=tmp_path.name, storage=postgres, pruner=pruner, budget=budget)) as study:
        yield study


def _noted(name: str, wait: Callable[..., object], seen: list[str]) -> Callable[..., object]:
    def noted(*arguments: object) -> object:
        seen.append(name)
        return wait(*arguments)

    return noted


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each wait for an answer of the server."""
    seen: list[str] = []
    for name in ("sync", "__exit__"):
        monkeypatch.setattr(psycopg.Pipeline, name, _noted(name, getattr(psycopg.Pipeline, name), seen))
    return seen


@pytest.fixture
def inserts(study: SweepStudy) -> list[str]:
    """Return a list that grows by the name of the table with each INSERT of the study's owner."""
    seen: list[str] = []

    def note(connection: sa.Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("INSERT"):
            seen.append(statement.split()[2])

    sa.event.listen(study._database.engine, "before_cursor_execute", note)
    return seen


def report(step: int, score: float = 0.5) -> Report:
    return Report(step, float(step), {"score": score})


def execute(url: str, statement: str, **values: object) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(statement), values)
    engine.dispose()


def test_report_with_its_decision_waits_for_one_answer(study: SweepStudy, waits: list[str], postgres: str) -> None:
    for number, score in enumerate([0.9, 0.1]):
        study.ask()
        waits.clear()
        for step in range(1, 10 if number == 0 else 2):
            study.report(number, report(step, score))
        assert waits == ["__exit__"] * (9 if number == 0 else 1)
    assert study.row(1).state == "PRUNED"
    read = read_study(study.name, postgres)
    assert [len(read.reports(number)) for number in (0, 1)] == [9, 1]
    assert read.decisions()[1][-1].is_pruned and read.row(1).state == "PRUNED"


def test_statements_whose_answer_is_read_are_waited_for(study: SweepStudy, waits: list[str]) -> None:
    study.ask_together(exchange.RESERVED_IDS)
    waits.clear()
    study.ask()
    assert waits == ["sync", "__exit__"]  # ids for this trial and the next ones


def test_trials_that_are_asked_for_together_wait_for_one_answer(study: SweepStudy, waits: list[str]) -> None:
    study.ask()
    waits.clear()
    study.ask()
    assert waits == ["__exit__"]
    waits.clear()
    asked = study.ask_together(5)
    assert waits == ["__exit__"]
    assert [row.number for row in asked] == [2, 3, 4, 5, 6]
    assert [row.params for row in read_study(study.name, study.sweep.storage_url()).rows()[2:]] == [
        row.params for row in asked
    ]


def test_rows_of_many_trials_are_one_statement_for_each_table(study: SweepStudy, inserts: list[str]) -> None:
    study.ask()
    inserts.clear()
    study.ask_together(8)
    assert sorted(inserts) == ["trial_params", "trial_user_attributes", "trials"]
    inserts.clear()
    study.report_together([(number, report(1, number / 10), "here") for number in range(9)])
    assert sorted(inserts) == ["sweeper_reports", "trial_intermediate_values", "trial_user_attributes"]
    assert [len(reports) for reports in read_study(study.name, study.sweep.storage_url()).all_reports().values()] == [
        1
    ] * 9


def test_new_trial_is_written_before_what_refers_to_it(study: SweepStudy) -> None:
    study.ask()
    with study._transaction():
        study._trials[0].set_user_attr("note", "first")
        study._study.ask().set_user_attr("note", "second")
    stored = optuna.load_study(study_name=study.name, storage=study._database.optuna).trials
    assert [trial.user_attrs["note"] for trial in stored] == ["first", "second"]


def test_rows_are_there_when_their_transaction_reads_them(study: SweepStudy) -> None:
    study.ask()
    with study._transaction() as connection:
        study._trials[0].set_user_attr("note", "new")
        query = sa.text("SELECT count(*) FROM trial_user_attributes WHERE trial_id = :id AND key = 'note'")
        assert connection.execute(query, {"id": study._trials[0]._trial_id}).scalar() == 1


def test_nothing_is_written_of_a_transaction_that_raises(study: SweepStudy, postgres: str) -> None:
    study.ask()
    with pytest.raises(ZeroDivisionError), study._transaction() as connection:
        study._reports.add(0, report(1), connection)
        raise ZeroDivisionError
    assert read_study(study.name, postgres).reports(0) == []


def test_ids_of_trials_are_unique_among_studies(study: SweepStudy, make_sweep: MakeSweep, postgres: str) -> None:
    study.ask()
    sweep = make_sweep(name=f"{study.name}-2", storage=postgres, budget={"trials": 100, "epochs": 9})
    with open_study(sweep) as other:
        for _ in range(exchange.RESERVED_IDS + 1):
            other.ask()
            study.ask_together(2)
    # Optuna itself, which reserves none, goes on behind them.
    storage = optuna.storages.RDBStorage(postgres)
    assert optuna.load_study(study_name=other.name, storage=storage).ask().number == exchange.RESERVED_IDS + 1
    storage.remove_session()
    storage.engine.dispose()
    assert len(read_study(study.name, postgres).rows()) == 2 * exchange.RESERVED_IDS + 3


def test_nothing_is_written_once_another_process_has_the_lease(study: SweepStudy, postgres: str) -> None:
    study.ask()
    execute(postgres, "UPDATE sweeper_leases SET owner = 'another' WHERE sweep = :sweep", sweep=study.name)
    with pytest.raises(LeaseLostError, match="took over"):
        study.report(0, report(1))
    with pytest.raises(LeaseLostError):
        study.require_lease()
    assert read_study(study.name, postgres).reports(0) == []


def test_statement_that_fails_fails_the_transaction(study: SweepStudy, postgres: str) -> None:
    study.ask()
    values = {"sweep": study.name, "metrics": "{}"}
    execute(postgres, "INSERT INTO sweeper_reports VALUES (:sweep, 0, 1, 0.0, :metrics)", **values)
    with pytest.raises(Exception, match="duplicate key"):
        study.report(0, report(1))
    assert read_study(study.name, postgres).row(0).step == 0


@pytest.mark.parametrize("idle", [False, True])
def test_connection_that_the_server_has_closed_loses_no_report(
    idle: bool, study: SweepStudy, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "IDLE_S", 0.0 if idle else 60.0)
    study.ask()
    study.report(0, report(1))
    execute(postgres, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    time.sleep(0.1)
    study.report(0, report(2))
    assert [made.step for made in read_study(study.name, postgres).reports(0)] == [1, 2]
