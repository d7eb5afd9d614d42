"""The verbs that only read change no database and create none; a run that is refused leaves nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.tracking.client import connect

MakeSweep = Callable[..., Sweep]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy

SPACE = """\
name: climbing
trainable: tests.samples:climb
objective: {metric: score}
budget: {trials: 3, epochs: 2}
space: {height: {type: float, low: 0, high: 1}}
"""
READING = [
    (["list"], 0),
    (["show", "climbing", "--all"], 0),
    (["best", "climbing"], 1),  # no trial has completed
    (["status", "climbing", "--json"], 0),
    (["validate", "sweep.yaml"], 0),
    (["ui", "climbing"], 2),  # there is no store yet
    (["ui"], 2),
    (["ui", "--tracking-uri", "sqlite:///sweeper.db"], 2),
    (["sync", "climbing", "--tracking-uri", "sqlite:///sweeper.db"], 2),
    (["sync", "climbing", "--tracking-uri", "sqlite:///text.db"], 2),
    (["sync", "nobody"], 2),
    (["stop", "climbing"], 2),
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_reading_changes_no_database_and_creates_none(
    make_sweep: MakeSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep()) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
    (tmp_path / "sweep.yaml").write_text(SPACE)
    (tmp_path / "text.db").write_text("no database" * 100)
    before = contents(tmp_path)
    for arguments, code in READING:
        assert main(arguments) == code, (arguments, capsys.readouterr().err)
        assert contents(tmp_path) == before, arguments


@pytest.mark.parametrize("verb", ["list", "show climbing", "best climbing", "status climbing", "resume climbing"])
def test_reading_a_database_of_mlflow_is_refused(
    verb: str, empty_mlflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(empty_mlflow.parent)
    assert main([*verb.split(), "--storage", f"sqlite:///{empty_mlflow}"]) == 2
    assert "cannot hold studies: it is MLflow's database" in capsys.readouterr().err
    assert contents(empty_mlflow.parent) == before


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client = connect(f"sqlite:///{path}")
    client.delete_experiment(client.create_experiment("gone"))
    return path


def test_run_that_is_refused_leaves_nothing(
    tmp_path: Path, empty_mlflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text(SPACE)
    (tmp_path / "text.db").write_text("no database" * 100)
    with closing(sqlite3.connect("trials.db")) as connection:
        connection.execute("CREATE TABLE trials (x)")
    refusals = {
        "--tracking-uri sqlite:///sweeper.db": "the study and MLflow cannot use one database",
        "--tracking-uri sqlite:///text.db": "MLflow cannot use",
        "--tracking-uri sqlite:///:memory:": "names no file",
        "--tracking-uri sqlite://m.db": "needs three slashes before the path of the file: sqlite:///m.db",
        "--tracking-uri databricks://none": "needs credentials",
        f"--tracking-uri sqlite:///{empty_mlflow} --set tracking.experiment=gone": "the experiment 'gone' was deleted",
        f"--storage sqlite:///{empty_mlflow}": "it is MLflow's database",
        "--storage sqlite:///trials.db": "its tables trials are another program's",
        "--storage sqlite:///text.db": "it is a file, but no SQLite database",
    }
    before = contents(tmp_path), contents(empty_mlflow.parent)
    for options, reason in refusals.items():
        assert main(["run", "sweep.yaml", *options.split()]) == 2
        assert reason in capsys.readouterr().err
        assert (contents(tmp_path), contents(empty_mlflow.parent)) == before, options
        assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.yaml", "text.db", "trials.db"]


def test_home_folder_is_meant_by_a_tilde_in_every_option(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with open_study(make_sweep(storage="sqlite:///~/studies.db")):
        pass
    assert (tmp_path / "home/studies.db").exists() and not (tmp_path / "~").exists()
    assert main(["list", "--storage", "sqlite:///~/studies.db"]) == 0
    monkeypatch.setenv("SWEEPER_STORAGE", "sqlite:///~/studies.db")
    assert main(["show", "climbing"]) == 0
    assert main(["ui", "climbing", "--tracking-uri", "sqlite:///~/runs.db"]) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/runs.db")
    assert main(["ui"]) == 2
    assert capsys.readouterr().err.count(f"{tmp_path}/home/runs.db: it holds no runs") == 2
