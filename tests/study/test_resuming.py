from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from sweeper.cli.main import main
from sweeper.core.errors import InputError, StorageError
from sweeper.core.trials import Failure, Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.compatibility import check_environment
from sweeper.study.database import open_database
from sweeper.study.open import open_study, read_study

MakeSweep = Callable[..., Sweep]
WRITTEN = Path(__file__).parents[1] / "assets" / "study-1.sql"
TRAINABLE = "def train(params, trial):\n    while trial.step < trial.reports:\n        trial.report({'score': 0.5})\n"


class Phases:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        """Do nothing: only messages count here."""

    def on_phase(self, message: str) -> None:
        self.messages.append(message)


def begin(sweep: Sweep, *, reports: int = 9) -> None:
    with open_study(sweep) as study:
        study.record_facts(check_environment(study, allow_code_change=False))
        row = study.ask()
        for step in range(1, reports + 1):
            study.report(row.number, Report(step, 1.0, {"score": 0.5}))


@pytest.fixture
def own(make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Return a sweep of a trainable in a file that a test may change."""
    (tmp_path / "own.py").write_text(TRAINABLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return make_sweep(trainable="own:train")


def test_changed_code_is_refused_without_allow_code_change(own: Sweep, tmp_path: Path) -> None:
    begin(own)
    (tmp_path / "own.py").write_text(TRAINABLE.replace("0.5", "0.6"))
    with (
        pytest.raises(InputError, match="the code of own:train has changed .* --allow-code-change"),
        open_study(own) as study,
    ):
        check_environment(study, allow_code_change=False)
    phases = Phases()
    with open_study(own, listeners=[phases]) as study:
        study.record_facts(check_environment(study, allow_code_change=True))
        assert phases.messages == ["Resuming with changed code of own:train (own.py)."]
        check_environment(study, allow_code_change=False)


def test_changed_comments_and_layout_are_not_changed_code(own: Sweep, tmp_path: Path) -> None:
    begin(own)
    (tmp_path / "own.py").write_text(f"# Simple.\n\n\n{TRAINABLE}")
    with open_study(own) as study:
        check_environment(study, allow_code_change=False)


def test_changed_file_that_the_trainable_imports_is_named(own: Sweep, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"import helper\n{TRAINABLE}")
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    begin(own)
    (tmp_path / "helper.py").write_text("VALUE = 2\n")
    (tmp_path / "unrelated.py").write_text("")
    with pytest.raises(InputError, match=r"since sweep 'climbing' began \(helper.py\)"), open_study(own) as study:
        check_environment(study, allow_code_change=False)


def test_old_study_that_recorded_one_module_resumes(own: Sweep, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"import helper\n{TRAINABLE}")
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    begin(own)
    with open_study(own) as study:
        study.record_facts({"files": None})
        (tmp_path / "helper.py").write_text("VALUE = 2\n")
        assert set(check_environment(study, allow_code_change=False)["files"]) == {"own.py", "helper.py"}
        (tmp_path / "own.py").write_text(f"import helper\n{TRAINABLE.replace('0.5', '0.6')}")
        with pytest.raises(InputError, match=r"began \(its module\)"):
            check_environment(study, allow_code_change=False)


def test_code_may_change_before_a_trial_has_reported(own: Sweep, tmp_path: Path) -> None:
    begin(own, reports=0)
    (tmp_path / "own.py").write_text(TRAINABLE.replace("0.5", "0.6"))
    phases = Phases()
    with open_study(own, listeners=[phases]) as study:
        check_environment(study, allow_code_change=False)
    assert phases.messages == ["Resuming with changed code of own:train (own.py)."]


def test_interrupted_trial_is_not_continued_with_changed_code(own: Sweep, tmp_path: Path) -> None:
    begin(own, reports=1)
    (tmp_path / "own.py").write_text(TRAINABLE.replace("0.5", "0.6"))
    with open_study(own) as study:
        with pytest.raises(InputError, match=r"since sweep 'climbing' began \(own.py\)"):
            check_environment(study, allow_code_change=False)
        study.fail(study.ask().number, Failure("error", "a bug that is corrected now"))
        check_environment(study, allow_code_change=False)


def test_changed_package_versions_are_only_announced(make_sweep: MakeSweep) -> None:
    begin(make_sweep())
    phases = Phases()
    with open_study(make_sweep(), listeners=[phases]) as study:
        study.record_facts({"versions": {**study.facts["versions"], "keras": "2.0"}})
        now = check_environment(study, allow_code_change=False)["versions"]["keras"]
    assert phases.messages == [f"Resuming with keras {now} (was 2.0)."]


def test_run_with_changed_code_exits_2_and_leaves_no_folder(
    own: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(own)
    (tmp_path / "own.py").write_text(TRAINABLE.replace("0.5", "0.6"))
    (tmp_path / "own.yaml").write_text(json.dumps(own.model_dump(mode="json")))
    assert main(["run", "own.yaml"]) == 2
    assert "--allow-code-change" in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()


def test_study_of_the_first_schema_is_read_and_resumed(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "sweeper.db") as database:
        database.executescript(WRITTEN.read_text())
    database.close()
    read = read_study("climbing", "sqlite:///sweeper.db")
    assert [row.state for row in read.rows()] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert [attempt.reason for attempt in read.attempts().get(2, [])] == ["its worker died"] * 2
    assert [report.metrics["loss"] for report in read.reports(0)] == [1.0, 1.0, 1.0]
    assert read.decisions() == {} and {row.origin for row in read.rows()} == {None}
    with open_study(read.sweep.changed({"budget.trials": 7})) as study:
        row = study.ask()
        assert (row.number, row.attempt, row.step) == (3, 2, 1)
        study.report(3, Report(2, 1.0, {"score": 0.5}))
        assert study.ask().number == 4
        assert [row.origin for row in study.rows()[3:]] == [None, "random"]
        (decision,) = study.decisions()[3]
        assert (decision.pruner, decision.step, decision.is_pruned, decision.peers) == ("median", 2, True, 2)


def test_database_of_a_newer_sweeper_is_refused_and_unchanged(make_sweep: MakeSweep, tmp_path: Path) -> None:
    begin(make_sweep())
    url = make_sweep().storage
    with open_database(url) as database, database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE sweeper_schema SET version = 99"))
    before = (tmp_path / "sweeper.db").read_bytes()
    with pytest.raises(StorageError, match="written by a newer sweeper .*: upgrade sweeper"), open_study(make_sweep()):
        pass
    assert (tmp_path / "sweeper.db").read_bytes() == before
