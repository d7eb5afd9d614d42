from __future__ import annotations

import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import psutil
import pytest
import sqlalchemy as sa

from sweeper.core.errors import DatasetError, InputError, StorageError
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.database import open_database
from sweeper.study.open import list_sweeps, open_study, read_study
from tests.environments import ROOT

MakeSweep = Callable[..., Sweep]

# The connection of a reader, and one that the server cut, warn when they are deleted.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")


def test_sweep_on_postgresql_is_resumed_read_and_listed(make_sweep: MakeSweep, postgres: str) -> None:
    sweep = make_sweep(storage=postgres)
    for attempt in (1, 2):
        with open_study(sweep) as study:
            row = study.ask()
            assert (row.number, row.attempt) == (0, attempt)
            study.report(0, Report(attempt, float(attempt), {"score": 0.5}))
            assert list_sweeps(postgres)[0].running
    read = read_study("climbing", postgres)
    assert [report.step for report in read.reports(0)] == [1, 2]
    assert list_sweeps(postgres)[0].counts == {"RUNNING": 1}


def test_sweep_on_postgresql_has_one_owner_at_a_time(postgres: str) -> None:
    with open_database(postgres) as database, database.lease("owned"):
        with pytest.raises(InputError, match="is running"), database.lease("owned"):
            pass
    with open_database(postgres) as database, database.lease("owned"):
        pass


def test_connection_cut_by_the_server_is_opened_again(make_sweep: MakeSweep, postgres: str) -> None:
    sweep = make_sweep(name="cut", storage=postgres)
    with open_study(sweep) as study:
        number = study.ask().number
        engine = sa.create_engine(postgres)
        with engine.connect() as connection:
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            )
        engine.dispose()
        for step in range(1, 10):
            study.report(number, Report(step, float(step), {"score": 0.1}))
        assert study.row(number).state == "COMPLETE"


def test_sqlite_file_is_in_wal_mode_and_syncs_every_commit(tmp_path: Path) -> None:
    with (
        open_database(f"sqlite:///{tmp_path / 'folder' / 'sweeper.db'}") as database,
        database.engine.connect() as connection,
    ):
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2
    assert stat.S_ISREG((tmp_path / "folder" / "sweeper.db").stat().st_mode)


@pytest.mark.parametrize("url", ["sweeper.db", "sqlite//x", "postgresql:/x", "sqlite://"])
def test_text_that_is_no_database_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(InputError, match="try sqlite:///sweeper.db"), open_database(url):
        pass


def test_unreachable_database_is_one_error_without_the_password() -> None:
    with pytest.raises(StorageError) as failure, open_database("postgresql+psycopg://user:secret@127.0.0.1:1/none"):
        pass
    assert "127.0.0.1:1" in str(failure.value) and "secret" not in str(failure.value)
    assert failure.value.exit_code == 74


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweeper.db").write_text("not a database" * 100)
    with pytest.raises(InputError, match="it is a file, but no SQLite database"), open_database("sqlite:///sweeper.db"):
        pass
    assert (tmp_path / "sweeper.db").read_text() == "not a database" * 100


def test_reading_creates_no_database(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sweep has run"), open_database("sqlite:///none.db", must_exist=True):
        pass
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("error", [InputError, DatasetError])
def test_refused_sweep_leaves_no_database_that_was_made_for_it(
    make_sweep: MakeSweep, tmp_path: Path, error: type[Exception]
) -> None:
    sweep = make_sweep(storage=f"sqlite:///{tmp_path}/new/folder/s.db")
    with pytest.raises(error), open_study(sweep):
        raise error("refused")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_sweep_that_was_not_refused_keeps_its_new_database(make_sweep: MakeSweep, error: type[BaseException]) -> None:
    sweep = make_sweep()
    with pytest.raises(error), open_study(sweep):
        raise error("broken")
    assert [summary.name for summary in list_sweeps(sweep.storage_url())] == [sweep.name]


def test_refused_sweep_leaves_the_database_to_another_sweep_in_it(make_sweep: MakeSweep) -> None:
    other = make_sweep(name="other")
    with pytest.raises(InputError), open_study(make_sweep()):
        with open_study(other):
            pass
        raise InputError("refused")
    assert [summary.name for summary in list_sweeps(other.storage_url())] == ["other"]


OPENS = """
import sys
from sweeper.study.database import open_database
with open_database(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_refused_sweep_leaves_a_database_that_another_process_has_open(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep()
    with pytest.raises(InputError), open_study(sweep):
        command = [sys.executable, "-c", OPENS, sweep.storage_url()]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        raise InputError("refused")
    assert (tmp_path / "sweeper.db").exists() and list_sweeps(sweep.storage_url()) == []
    process.communicate()


def test_refused_sweep_leaves_a_database_that_was_there_before(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path}/sweeper.db"):
        pass
    with pytest.raises(InputError), open_study(make_sweep()):
        raise InputError("refused")
    assert (tmp_path / "sweeper.db").exists()


def test_study_that_sweeper_did_not_create_is_refused(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    with open_database(sweep.storage_url()) as database:
        optuna.create_study(study_name="climbing", storage=database.optuna)
    with pytest.raises(InputError, match="was not made by sweeper"), open_study(sweep):
        pass


def test_several_processes_can_create_a_database_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from sweeper.study.database import open_database\n"
        "print('ready', flush=True)\n"
        "for turn, moment in enumerate(sys.stdin):\n"
        "    time.sleep(max(0, float(moment) - time.monotonic()))\n"
        f"    with open_database(f'sqlite:///{tmp_path}/{{turn}}.db'):\n"
        "        print('open', flush=True)\n"
    )
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    all_three = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) for _ in range(3)]
    for turn in range(5):
        said = [process.stdout.readline() for process in all_three if process.stdout is not None]
        assert said == ["open\n" if turn else "ready\n"] * 3
        moment = time.monotonic() + 0.05
        for process in all_three:
            assert process.stdin is not None
            process.stdin.write(f"{moment}\n")
    for process in all_three:
        process.communicate(timeout=120)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_sqlite_on_a_network_file_system_is_refused_before_anything_is_created(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    with (
        pytest.raises(InputError, match=f"network file system .{kind}.*--storage postgresql"),
        open_study(make_sweep()),
    ):
        pass
    assert not (tmp_path / "sweeper.db").exists()
