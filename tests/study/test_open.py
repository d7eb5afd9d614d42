from __future__ import annotations

import doctest
import inspect
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from sweeper.core.errors import InputError, LeaseLostError, SweepBusyError
from sweeper.core.trials import Failure, Report
from sweeper.spec import Sweep
from sweeper.study import database
from sweeper.study.database import Database
from sweeper.study.lease import Lease, find_holder
from sweeper.study.open import list_sweeps, lock_study, open_study, read_study
from sweeper.study.queue import TrialQueue
from sweeper.study.study import SweepStudy
from sweeper.study.view import StudyView

MakeSweep = Callable[..., Sweep]
WRITTEN = Path(__file__).parents[1] / "assets" / "study-1.sql"
URL = "sqlite:///sweeper.db"


def public_names(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def contents(url: str) -> dict[str, list[Any]]:
    """Return all rows of a database, except the leases: an owner renews its own every few seconds."""
    tables, engine = sa.MetaData(), sa.create_engine(url)
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = {table.name: list(connection.execute(sa.select(table))) for table in tables.sorted_tables}
    engine.dispose()
    return {name: found for name, found in rows.items() if name != "sweeper_leases"}


@pytest.fixture
def restored(tmp_path: Path) -> Path:
    """Restore a study from its dump; the file is not in WAL mode, as after any restore."""
    file = tmp_path / "sweeper.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(WRITTEN.read_text())
    return file


def test_study_view_has_no_method_that_writes() -> None:
    reading = {
        "id",
        "facts",
        "confirmation",
        "folder",
        "rows",
        "row",
        "reports",
        "all_reports",
        "decisions",
        "attempts",
        "best",
        "leaderboard",
        "curves",
        "is_running",
        "remarks",
        "trials",
        "trial_limit",
    }
    waiting = {"ask", "ask_together", "record_facts", "put_back", "refresh"}
    writing = {"report", "report_together", "finish", "fail", "blame_node"}
    assert public_names(StudyView) == reading
    assert waiting <= public_names(TrialQueue) and writing <= public_names(SweepStudy)


def test_transaction_demands_a_lease(tmp_path: Path) -> None:
    assert inspect.signature(Database.transaction).parameters["lease"].default is inspect.Parameter.empty


def test_reader_gets_a_view_even_while_an_owner_is_at_work(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        assert type(read_study("climbing", study.sweep.storage_url())) is StudyView


def test_reading_changes_nothing_while_an_owner_is_at_work(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
        study.fail(study.ask().number, Failure("crash", "its worker died"))
        url = study.sweep.storage_url()
        before = contents(url)
        view = read_study("climbing", url)
        assert (view.reports(0), view.attempts()) == (study.reports(0), study.attempts())
        assert (view.leaderboard(), view.best(), view.facts) == (study.leaderboard(), study.best(), study.facts)
        assert [summary.name for summary in list_sweeps(url)] == ["climbing"]
        assert contents(url) == before
        study.report(0, Report(2, 2.0, {"score": 0.6}))
        assert [report.step for report in view.reports(0)] == [1, 2]


def test_reading_keeps_every_byte_of_the_database(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with open_study(make_sweep()) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
    with closing(sqlite3.connect(tmp_path / "sweeper.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (tmp_path / "sweeper.db").read_bytes()
    read_study("climbing", URL).reports(0)
    list_sweeps(URL)
    assert (tmp_path / "sweeper.db").read_bytes() == before


def test_reading_keeps_every_byte_of_a_restored_database(restored: Path) -> None:
    before = restored.read_bytes(), restored.stat().st_mtime_ns
    read_study("climbing", URL).reports(0)
    list_sweeps(URL)
    assert (restored.read_bytes(), restored.stat().st_mtime_ns) == before


def test_reading_adds_no_tables_to_a_database_of_optuna(tmp_path: Path) -> None:
    optuna.create_study(study_name="theirs", storage=URL)
    before = contents(URL)
    assert list_sweeps(URL) == []
    with pytest.raises(InputError, match="no sweep 'climbing'"):
        read_study("climbing", URL)
    assert contents(URL) == before


def test_reading_never_waits_for_the_write_lock(restored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(database, "OPEN_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(restored, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(read_study("climbing", URL).rows()) == 4
        assert [summary.name for summary in list_sweeps(URL)] == ["climbing"]


def test_locked_study_cannot_be_run(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()):
        pass
    with lock_study("climbing", URL) as view:
        assert type(view) is StudyView and view.name == "climbing"
        with pytest.raises(SweepBusyError, match="is running"), open_study(make_sweep()):
            pass
    with open_study(make_sweep()) as study:
        assert study.rows() == []


def test_running_study_cannot_be_locked(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()):
        with pytest.raises(SweepBusyError, match="is running"), lock_study("climbing", URL):
            pass


def test_unknown_study_cannot_be_locked(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()):
        pass
    with pytest.raises(InputError, match="did you mean 'climbing'"), lock_study("climbin", URL):
        pass


def test_locking_gives_an_id_to_a_study_of_the_first_version(restored: Path) -> None:
    assert read_study("climbing", URL).id is None
    with lock_study("climbing", URL) as view:
        assert view.id is not None
    assert read_study("climbing", URL).id == view.id


def test_study_gets_its_id_in_the_commit_that_creates_it(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(TrialQueue, "record_facts")
    with open_study(make_sweep()) as study:
        assert len(study.id) == 32 and read_study("climbing", URL).id == study.id
    with open_study(make_sweep()) as resumed:
        assert resumed.id == study.id


def test_refused_study_without_trials_is_deleted(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(name="other")):
        pass
    with pytest.raises(InputError, match="no disk"), open_study(make_sweep()):
        raise InputError("no disk")
    assert [summary.name for summary in list_sweeps(URL)] == ["other"]


def test_owner_that_lost_its_lease_cannot_delete_the_study(make_sweep: MakeSweep) -> None:
    with pytest.raises(LeaseLostError), open_study(make_sweep()) as study:
        engine = study._database.engine
        Lease(engine, "climbing")._take(find_holder(engine, "climbing"))
        raise InputError("no disk")
    assert [summary.name for summary in list_sweeps(URL)] == ["climbing"]


@pytest.fixture
def lstm(make_sweep: MakeSweep) -> Iterator[str]:
    """Run two trials of a sweep named lstm, and yield the URL of its database."""
    changes = {"metric": "val_accuracy", "direction": "maximize"}, {"units": {"type": "int", "low": 1, "high": 512}}
    points = [{"units": 32}, {"units": 128}]
    budget = {"trials": 2, "epochs": 2}
    sweep = make_sweep(name="lstm", objective=changes[0], space=changes[1], enqueue=points, budget=budget)
    with open_study(sweep) as study:
        for accuracies in ((0.25, 0.5), (0.625, 0.75)):
            number = study.ask().number
            for step, accuracy in enumerate(accuracies, 1):
                study.report(number, Report(step, float(step), {"val_accuracy": accuracy}))
    yield sweep.storage_url()


def test_example_of_read_study_gives_what_it_shows(lstm: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(read_study, "read_study", globs={})
    outcome = doctest.DocTestRunner().run(example)
    assert (outcome.failed, outcome.attempted) == (0, 5)
