"""The verb `report`: where the page is written, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.core.sweep_folder import MARKER
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from tests.analysis.report.studies import DECLARED, make_study

MakeSweep = Callable[..., Sweep]
Captured = pytest.CaptureFixture[str]


def test_report_is_written_into_the_folder_of_the_sweep(
    make_sweep: MakeSweep, tmp_path: Path, capsys: Captured
) -> None:
    study = make_study(make_sweep(**DECLARED), 6)
    (folder := tmp_path / "sweeps/lstm").mkdir(parents=True)
    (folder / MARKER).write_text(json.dumps({"study": study.id}))
    assert main(["report"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("The report on lstm is in sweeps/lstm/report.html (")
    assert "lstm is the newest sweep" in printed.err and "not here" not in printed.err
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>") and (folder / "report.html").stat().st_mode & 0o777 == 0o600
    assert main(["report", "lstm"]) == 0  # again, over itself
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", MARKER]


def test_report_from_the_database_alone_says_what_is_missing(
    make_sweep: MakeSweep, tmp_path: Path, capsys: Captured
) -> None:
    make_study(make_sweep(**DECLARED), 3)
    (tmp_path / "sweeps/lstm").mkdir(parents=True)
    (tmp_path / "sweeps/lstm" / MARKER).write_text('{"study": "of somebody else"}')
    assert main(["report", "lstm", "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["file"] == "lstm.html" and (tmp_path / "lstm.html").stat().st_size == document["bytes"]
    assert (
        len(document["missing"]) == 1
        and "is not here, so the report lacks what the best model predicted" in printed.err
    )
    assert [path.name for path in (tmp_path / "sweeps/lstm").iterdir()] == [MARKER]


def test_running_sweep_has_a_report_and_is_not_disturbed(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with open_study(make_sweep()) as study:
        study.ask()
        assert main(["report", "climbing", "-o", "now.html"]) == 0
        assert "The sweep is running" in (tmp_path / "now.html").read_text()


def test_file_that_is_no_report_is_not_replaced(make_sweep: MakeSweep, tmp_path: Path, capsys: Captured) -> None:
    make_study(make_sweep(**DECLARED), 3)
    (tmp_path / "thesis.html").write_text("<html>mine</html>")
    os.mkfifo(tmp_path / "pipe")
    before = {path.name for path in tmp_path.iterdir()}
    refusals = {
        "thesis.html": "thesis.html exists, and is no report of sweeper. Remove it, or choose another file with -o",
        "pipe": "pipe exists, and is no report of sweeper.",
        "/dev/null": "/dev/null exists, and is no report of sweeper.",
        ".": "cannot write to . (it is a folder); choose another file with -o",
        "none/r.html": "cannot write to none/r.html (there is no folder none); create it, or choose another",
        "/proc/r.html": "cannot write to /proc",
    }
    for file, message in refusals.items():
        assert main(["report", "lstm", "-o", file]) == 2
        printed = capsys.readouterr()
        assert message in printed.err.replace("\n", " ") and printed.out == ""
    assert {path.name for path in tmp_path.iterdir()} == before and (
        tmp_path / "thesis.html"
    ).read_text() == "<html>mine</html>"
    assert main(["report", "lstn"]) == 2
    assert "did you mean 'lstm'?" in capsys.readouterr().err
