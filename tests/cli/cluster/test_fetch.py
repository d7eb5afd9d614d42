"""`sweeper fetch` on the record of real studies and a real MLflow store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.cluster.fetch import MARKER
from sweeper.cli.main import main
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.tracking import KeptModel
from tests.cli.decide import test_promote

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy

finish, store, run = test_promote.finish, test_promote.store, test_promote.run
Captured = pytest.CaptureFixture[str]
Finish = Callable[..., Sweep]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_report_parameters_and_champion_are_brought_home(
    finish: Finish, store: str, tmp_path: Path, capsys: Captured
) -> None:
    finish("far", 0.5, 0.9)
    run(capsys, "promote", "far", "--tracking-uri", store)
    shutil.rmtree("sweeps")  # it is in a cluster
    code, out, err = run(capsys, "fetch", "far", "--tracking-uri", store)
    assert code == 0 and "is not here, so the report lacks what the best model predicted" in err
    assert names(tmp_path / "far") == ["best.yaml", MARKER, "model/MLmodel", "report.html"]
    assert (tmp_path / "far/best.yaml").read_text().startswith("# far, trial 1: score 0.9000\n")
    assert "far/model/" in out and "own version 1, the champion: trial 1" in out
    assert run(capsys, "fetch", "far", "--tracking-uri", store, "--json")[0] == 0  # again, over itself
    assert not [name for name in names(tmp_path) if ".fetching" in name or ".writing" in name]


def test_model_of_the_sweep_is_fetched_where_another_is_champion(
    finish: Finish, store: str, tmp_path: Path, capsys: Captured
) -> None:
    finish("far", 0.5)
    finish("other", 0.9)
    for name in ("far", "other"):
        run(capsys, "promote", name, "--tracking-uri", store)
    code, out, _ = run(capsys, "fetch", "far", "-o", "home", "--tracking-uri", store, "--json")
    document = json.loads(out)
    assert (code, document["folder"]) == (0, "home")
    assert "own version 1, trial 0, the best; the champion is version 2" in document["files"]["home/model"]


def test_sweep_without_a_model_brings_the_rest_and_says_why(
    finish: Finish, store: str, tmp_path: Path, capsys: Captured
) -> None:
    finish("far", 0.5)
    run(capsys, "sync", "far", "--tracking-uri", store)
    code, _, err = run(capsys, "fetch", "far", "--tracking-uri", store)
    assert code == 0 and "MLflow has no model of the sweep" in err
    assert names(tmp_path / "far") == ["best.yaml", MARKER, "report.html"]


def test_mlflow_that_is_away_costs_only_the_model(finish: Finish, tmp_path: Path, capsys: Captured) -> None:
    finish("far", 0.5)
    code, out, err = run(capsys, "fetch", "far", "--tracking-uri", "http://127.0.0.1:1")
    assert code == 69 and "the model was not fetched: MLflow at http://127.0.0.1:1 does not answer" in err
    assert "far/report.html" in out and names(tmp_path / "far") == ["best.yaml", MARKER, "report.html"]


def test_running_sweep_without_results_has_a_report(
    make_sweep: Callable[..., Sweep], tmp_path: Path, capsys: Captured
) -> None:
    with open_study(make_sweep()) as study:
        study.ask()
        code, _, err = run(capsys, "fetch", "climbing")
    assert code == 0 and "No trial has completed" in err and "climbing runs" in err
    assert names(tmp_path / "climbing") == [MARKER, "report.html"]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"notes.txt": "mine"}, "home holds something else than a fetched sweep"),
        ({MARKER: '{"study": "another", "name": "far"}'}, "home holds another sweep that was fetched"),
        ({"study.json": "{}"}, "home holds something else than a fetched sweep"),
    ],
)
def test_folder_with_something_else_is_refused(
    make_sweep: Callable[..., Sweep], tmp_path: Path, capsys: Captured, held: dict[str, str], message: str
) -> None:
    with open_study(make_sweep()):
        pass
    (tmp_path / "home").mkdir()
    for name, text in held.items():
        (tmp_path / "home" / name).write_text(text)
    code, _, err = run(capsys, "fetch", "climbing", "-o", "home")
    assert code == 2 and message in err and "choose another folder with -o" in err
    assert {name: (tmp_path / "home" / name).read_text() for name in names(tmp_path / "home")} == held


def test_file_in_the_place_of_the_folder_is_refused(
    make_sweep: Callable[..., Sweep], tmp_path: Path, capsys: Captured
) -> None:
    with open_study(make_sweep()):
        pass
    (tmp_path / "climbing").touch()
    assert main(["fetch", "climbing"]) == 2
    assert "climbing is a file; choose another folder with -o" in capsys.readouterr().err


def test_title_of_a_model_says_which_it_is() -> None:
    assert KeptModel(3, "m-1", None, None, None, "").title == "the model of trial 3, the best"
    assert KeptModel(3, "m-1", "rnn", None, 2, "").title == "the model of trial 3, the best, not registered as rnn"
    assert KeptModel(3, "m-1", "rnn", 4, None, "").title == "rnn version 4, trial 3, the best; there is no champion"
