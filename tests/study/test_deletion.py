from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from sweeper.core.errors import InputError, StorageError, SweepBusyError
from sweeper.core.sweep_folder import SweepFolder, claim_folder
from sweeper.core.trials import Failure, Report
from sweeper.spec import Sweep
from sweeper.study.deletion import open_to_delete
from sweeper.study.open import list_sweeps, lock_study, open_study, read_study

MakeSweep = Callable[..., Sweep]

# The connection of a reader to PostgreSQL warns when it is deleted.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")


def begin(sweep: Sweep, folder: Path | None = None) -> Path:
    """Run a sweep with a report and a failed attempt, and fill its folder; return the folder."""
    place = SweepFolder.of(folder, sweep.name)
    with open_study(sweep) as study, claim_folder(place, study):
        study.record_facts({"folder": str(place.location)})
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
        study.fail(study.ask().number, Failure("error", "no"))
        (place.trial(0) / "attempt-001-step-00000001").mkdir(parents=True)
        place.champion.mkdir()
        (place.path / "sweep.json").write_text("{}")
    return place.path


def counts(url: str) -> dict[str, int]:
    """Return the number of rows of each table of studies."""
    tables, engine = sa.MetaData(), sa.create_engine(url)
    tables.reflect(engine)
    with engine.connect() as connection:
        found = {table.name: len(connection.execute(sa.select(table)).all()) for table in tables.sorted_tables}
    engine.dispose()
    return {name: count for name, count in found.items() if count}


def delete(sweep: Sweep) -> Path | str | None:
    with open_to_delete(sweep.name, sweep.storage_url()) as deletion:
        deletion.begin()
        folder = deletion.delete_folder()
        deletion.finish()
    return folder


def check_deletion(sweep: Sweep) -> None:
    other = sweep.changed({"name": "other"})
    kept = begin(other)
    before = counts(sweep.storage_url())
    folder = begin(sweep)
    assert delete(sweep) == folder and not folder.exists()
    assert counts(sweep.storage_url()) == before
    assert [summary.name for summary in list_sweeps(sweep.storage_url())] == ["other"] and kept.exists()
    begin(sweep)


def test_deletion_leaves_no_row_and_no_folder(make_sweep: MakeSweep) -> None:
    check_deletion(make_sweep())


def test_deletion_leaves_no_row_on_postgresql(make_sweep: MakeSweep, postgres: str) -> None:
    check_deletion(make_sweep(storage=postgres))


def test_sweep_of_an_older_database_is_deleted(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    begin(sweep)
    engine = sa.create_engine(sweep.storage_url())
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE sweeper_decisions"))
    engine.dispose()
    assert read_study("climbing", sweep.storage_url()).decisions() == {}
    delete(sweep)
    assert list_sweeps(sweep.storage_url()) == []


def test_running_sweep_is_not_deleted(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()), pytest.raises(SweepBusyError, match="is running"):
        delete(make_sweep())


def test_folder_of_another_study_stays(make_sweep: MakeSweep) -> None:
    folder = begin(make_sweep())
    optuna.delete_study(study_name="climbing", storage=make_sweep().storage_url())
    with open_study(make_sweep()) as study:
        study.ask()
    assert delete(make_sweep()) is None and (folder / "trials").exists()


def test_folder_that_another_process_works_in_stays(make_sweep: MakeSweep) -> None:
    folder = begin(make_sweep())
    handle = os.open(folder / "study.json", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(SweepBusyError, match="with a copy of the study's database"):
        delete(make_sweep())
    os.close(handle)
    assert delete(make_sweep()) == folder


def test_only_what_sweeps_write_is_deleted_from_a_folder_of_another_name(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.py").write_text("")
    begin(make_sweep(), folder)
    assert delete(make_sweep()) == folder
    assert [path.name for path in folder.iterdir()] == ["train.py"]


def test_links_are_deleted_and_not_followed(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    folder = begin(make_sweep())
    (folder / "code").symlink_to(tmp_path / "precious")
    delete(make_sweep())
    assert (tmp_path / "precious" / "file").exists() and not folder.exists()

    folder = begin(make_sweep())
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert delete(make_sweep()) == folder
    assert not folder.is_symlink() and (tmp_path / "elsewhere" / "trials").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete everything")
def test_folder_that_cannot_be_deleted_keeps_the_study(make_sweep: MakeSweep) -> None:
    folder = begin(make_sweep())
    (folder / "trials").chmod(0o500)
    with pytest.raises(StorageError, match="cannot be deleted"):
        delete(make_sweep())
    (folder / "trials").chmod(0o700)
    assert list_sweeps(make_sweep().storage_url())[0].state == "half deleted"
    assert delete(make_sweep()) == folder


KILLED = """
import os, sys
from sweeper.study.deletion import open_to_delete
with open_to_delete("climbing", "sqlite:///sweeper.db") as deletion:
    deletion.begin()
    if sys.argv[1] == "folder":
        deletion.delete_folder()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("moment", ["mark", "folder"])
def test_killed_deletion_is_seen_by_all_and_ended_by_the_next(
    make_sweep: MakeSweep, tmp_path: Path, moment: str
) -> None:
    sweep, root = make_sweep(), Path(__file__).parents[2]
    folder = begin(sweep)
    command = [sys.executable, "-c", KILLED, moment]
    assert subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}).returncode == -9
    assert folder.exists() == (moment == "mark")
    assert list_sweeps(sweep.storage_url())[0].state == "half deleted"
    assert len(read_study("climbing", sweep.storage_url()).rows()) == 2
    for opening in (open_study(sweep), lock_study("climbing", sweep.storage_url())):
        with pytest.raises(InputError, match="deleted in part.* Finish it: sweeper delete climbing"), opening:
            pass
    delete(sweep)
    assert list_sweeps(sweep.storage_url()) == [] and not folder.exists()


def test_rows_that_another_tool_has_left_do_not_break_a_name(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep()
    begin(sweep)
    command = ["delete-study", "--storage", sweep.storage_url(), "--study-name", "climbing"]
    program = "from optuna.cli import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", program, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert counts(sweep.storage_url())["sweeper_reports"] == 1
    with open_study(sweep) as study:
        assert study.attempts() == {} and study.reports(0) == []
        study.report(study.ask().number, Report(1, 2.0, {"score": 0.7}))
    assert read_study("climbing", sweep.storage_url()).reports(0) == [Report(1, 2.0, {"score": 0.7})]


def test_remote_folder_is_deleted_with_the_copies_of_this_node(make_sweep: MakeSweep, tmp_path: Path) -> None:
    for name, left in (("climbing", None), ("mine", ["notes", "study.json"])):
        far = tmp_path / "far" / name
        place = SweepFolder.of(f"file://{far}", "climbing")
        with open_study(make_sweep()) as study, claim_folder(place, study):
            study.record_facts({"folder": str(place.location)})
            study.ask()
            for folder in (far / "trials" / "0000", far / "champion", far / "notes", place.trial(0)):
                folder.mkdir(parents=True)
        assert delete(make_sweep()) == place.url and not place.path.exists()
        assert (sorted(path.name for path in far.iterdir()) if far.exists() else None) == left


def test_remote_folder_of_another_study_stays(make_sweep: MakeSweep, tmp_path: Path) -> None:
    far = tmp_path / "far" / "climbing"
    place = SweepFolder.of(f"file://{far}", "climbing")
    with open_study(make_sweep(name="other")) as study, claim_folder(place, study):
        (far / "trials").mkdir()
    with open_study(make_sweep()) as study:
        study.record_facts({"folder": str(place.location)})
        study.ask()
    assert delete(make_sweep()) is None and (far / "trials").exists()
