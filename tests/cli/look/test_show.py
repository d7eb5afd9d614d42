"""`show`: the summary, the leaderboard as asked for, curves, and all about one trial."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.result import record_outcome
from sweeper.cli import console
from sweeper.cli.main import main
from sweeper.core.code.user_code import digest_user_code
from sweeper.core.trials import Champion, Failure, Report
from sweeper.study.open import open_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Any]

CHAMPION = Champion("climber", 3, True, 2, "beats version 2", "models:/climber/3", "r1", "m1")
SPACE = {
    "cell": "lstm",
    "units": {"type": "int", "low": 16, "high": 512},
    "height": {"type": "float", "low": 0.0, "high": 1.0},
}
POINTS = [{"units": 64, "height": 0.5}, {"units": 512, "height": 0.75}, {"units": 32, "height": 0.7}]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 250)


def run_trial(study: SweepStudy, values: list[float], start: float) -> int:
    number = study.ask().number
    for step, value in enumerate(values, 1):
        study.report(number, Report(step, start + step, {"score": value, "loss": 1 - value}), node="node-1")
    return number


@pytest.fixture
def finished(make_sweep: MakeSweep, tmp_path: Path) -> Path:
    """Record a sweep with two complete trials, a failed one with two attempts, and its folder; return the folder."""
    sweep = make_sweep(space=SPACE, enqueue=POINTS, budget={"trials": 3, "epochs": 3})
    folder = tmp_path / "sweeps/climbing"
    with open_study(sweep) as study:
        files = digest_user_code("tests.samples:climb")
        study.record_facts({"folder": str(folder), "tracking_uri": "sqlite:///mlflow.db", "files": files})
        for trial, values in enumerate(([0.1, 0.3, 0.5], [0.2, 0.5, 0.75])):
            run_trial(study, values, 1000.0 * trial)
        run_trial(study, [0.1], time.time())
        study.fail(2, Failure("node", "its node was lost"), node="node-1")
        study.report(study.ask().number, Report(2, time.time(), {"score": 0.2}), node="node-2")
        study.fail(2, Failure("error", "ValueError: too high (train.py:4)"), node="node-2")
        record_outcome(study, {"test_score": 0.7}, CHAMPION)
    trial = folder / "trials/0002"
    (trial / "attempt-002-step-00000002/files").mkdir(parents=True)
    (trial / "attempt-002-step-00000002/files/weights").write_bytes(b"1" * 100)
    for name in ("output-001.txt", "output-002.txt", "error.txt", "notes.txt"):
        (trial / name).write_text("what it printed\n")
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show", "climbing", *arguments]) == 0
    text, errors = capsys.readouterr()
    assert errors == ""
    return text


def test_show_begins_with_the_summary_that_the_run_printed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in shown(capsys).splitlines()]
    assert lines[0] == "climbing: 2 complete, 1 failed; done"
    assert lines[1] == "best trial 1, score 0.7500; on the test set: test_score 0.7000"
    model = "model climber version 3 is the champion (beats version 2), as of the end of the sweep"
    assert lines[2:4] == [model, "models:/climber/3"]
    assert lines[4].startswith("time ") and " of trials" in lines[4]
    assert lines[5] == f"folder {finished} (0.0 MB of checkpoints)"
    assert lines[7].split() == ["trial", "state", "score", "epochs", "time", "units", "height"]
    assert [line.split()[0] for line in lines[8:11]] == ["1", "0", "2"]
    document = json.loads(shown(capsys, "--json"))
    assert document["summary"]["test"] == {"test_score": 0.7} and document["summary"]["state"] == "done"
    assert document["summary"]["champion"]["version"] == 3 and document["summary"]["costs"]["reports_run"] == 8


def test_summary_without_the_folder_says_what_is_missing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(finished)
    text = shown(capsys)
    assert "test_score 0.7000" in text and f"{finished}, not on this machine" in text
    assert "The folder of the sweep is not on this machine" in shown(capsys, "2")


def test_leaderboard_is_sorted_and_filtered_as_asked(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def numbers(*arguments: str) -> list[int]:
        return [trial["number"] for trial in json.loads(shown(capsys, "--json", *arguments))["trials"]]

    assert numbers("--sort", "units") == [2, 0, 1] and numbers("--sort", "-units") == [1, 0, 2]
    assert numbers("--state", "complete", "--where", "units > 64") == [1]
    assert [row["number"] for row in csv.DictReader(io.StringIO(shown(capsys, "--csv", "--state", "FAIL")))] == ["2"]
    assert "None of the 3 trials is as asked for." in shown(capsys, "--where", "units > 1000")


def test_curves_are_drawn_and_written_report_by_report(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--curves")
    assert "* trial 1 (COMPLETE)" in text and "epochs" in text
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "--curves", "--csv"))))
    assert [(row["trial"], row["report"]) for row in rows][:4] == [("1", "1"), ("1", "2"), ("1", "3"), ("0", "1")]
    assert rows[0] == {
        "trial": "1", "state": "COMPLETE", "report": "1", "epoch": "1.0", "time": "1970-01-01T00:16:41+00:00",
        "score": "0.2", "loss": "0.8",
    }  # fmt: skip
    (trial, *_) = json.loads(shown(capsys, "--curves", "--json", "--sort", "number"))["trials"]
    assert [report["metrics"]["score"] for report in trial["reports"]] == [0.1, 0.3, 0.5]
    assert trial["decisions"] == []  # the sweep has no pruner
    assert len(list(csv.DictReader(io.StringIO(shown(capsys, "0", "--curves", "--csv"))))) == 3


def test_csv_and_json_have_the_origin_and_the_decisions_of_a_trial(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    pruner = {"type": "threshold", "lower": 0.3}
    with open_study(make_sweep(pruner=pruner, enqueue=[{"height": 0.5}], budget={"trials": 2, "epochs": 3})) as study:
        for start in (1000.0, 2000.0):
            run_trial(study, [0.2], start)
    rows = {row["number"]: row for row in csv.DictReader(io.StringIO(shown(capsys, "--csv")))}
    assert {number: row["origin"] for number, row in rows.items()} == {"0": "start point", "1": "random"}
    trials = json.loads(shown(capsys, "--json", "--curves", "--sort", "number"))["trials"]
    assert [trial["origin"] for trial in trials] == ["start point", "random"]
    (decision,) = trials[0]["decisions"]
    assert decision["is_pruned"] and (decision["value"], decision["cutoff"]) == (0.2, 0.3)


def test_folder_of_another_sweep_in_the_same_place_is_not_shown(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "The folder of the sweep is not on this machine" not in shown(capsys, "2")
    (finished / "study.json").write_text(json.dumps({"study": "another"}))
    assert "The folder of the sweep is not on this machine" in (text := shown(capsys, "2"))
    assert "error.txt" not in text and str(finished / "trials") not in text
    assert f"{finished}, not on this machine" in shown(capsys)


def test_trial_is_shown_with_the_reason_first(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "2").splitlines()
    text = "\n".join(lines)
    assert lines[0] == "climbing, trial 2"
    assert lines[1] == ("Trial 2 failed after epoch 2: ValueError: too high (train.py:4); attempt 2 was the last.")
    assert "* trial 2 (FAIL)" in text and "trial 1 (COMPLETE)" in text
    words = [" ".join(line.split()) for line in lines]
    assert "parameter trial 2 trial 1 (best)" in words
    assert "units 32 512 differs most" in words and "height 0.7 0.75" in words and "cell lstm lstm fixed" in words
    attempts = [line for line in words if line.startswith(("1 FAIL 1", "2 FAIL 2"))]
    assert len(attempts) == 2 and "node-1" in attempts[0] and "node-2" in attempts[1]
    assert f"output {finished}/trials/0002/output-001.txt" in words
    assert "failed attempt 1: its node was lost" in words
    assert "failure its code raised an error" in words and "error ValueError: too high" in words
    assert "place train.py:4" in words
    assert f"traceback {finished}/trials/0002/error.txt" in words
    assert f"checkpoint {finished}/trials/0002/attempt-002-step-00000002 (epoch 2, 0.0 MB)" in words
    assert f"files {finished}/trials/0002/notes.txt" in words
    assert "MLflow experiment sweeper at sqlite:///mlflow.db; to open it: sweeper ui climbing --storage" in "\n".join(
        words
    )


def test_trial_as_json_has_all_of_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, "2", "--json"))
    assert found["why"][0].startswith("Trial 2 failed") and found["best"] == 1
    assert found["curve"] == {"number": 2, "state": "FAIL", "epochs": [1.0, 2.0], "values": [0.1, 0.2]}
    assert [peer["number"] for peer in found["peers"]] == [1, 0]
    assert [attempt["kind"] for attempt in found["attempts"]] == ["node", "error"]
    assert found["failure"]["error"] == "ValueError" and found["failure"]["place"] == "train.py:4"
    assert found["parameters"][0]["name"] == "units" and found["parameters"][0]["is_marked"]
    assert found["failed_attempts"] and len(found["files"]) == 4 and found["mlflow"]["uri"] == "sqlite:///mlflow.db"
    assert found["decisions"] == [] and found["missing"] == []
    assert all(attempt["seconds"] is not None for attempt in found["attempts"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["climbin"], "did you mean 'climbing'?"),
        (["climbing", "7"], "sweep 'climbing' has no trial 7; its trials are 0 to 2; the nearest is 2"),
        (["climbing", "--where", "unit > 3"], "--where 'unit > 3', column 1: there is no parameter or column 'unit'"),
        (["climbing", "--where", "units > 'a'"], "column 1: units (a number) and 'a' (text) cannot be compared"),
        (["climbing", "--sort", "unit"], "--sort 'unit': there is no such column. Did you mean 'units'?"),
        (["climbing", "--state", "lost"], "--state 'lost': there is no such state."),
        (["climbing", "1", "--sort", "units"], "are for the leaderboard, and a trial is named too"),
    ],
)
def test_wrong_question_is_one_message_and_exit_2(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["show", *arguments]) == 2
    text, errors = capsys.readouterr()
    assert text == "" and message in errors and len(errors.splitlines()) == 1


def test_sweeps_without_reports_or_trials_are_shown(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_sweep(trainable="tests.samples:climb", budget={"trials": 2, "epochs": 3})
    with open_study(sweep) as study:
        assert "climbing: no trials; running, 2 trials in all" in shown(capsys)
        study.fail(study.ask().number, Failure("error", "ValueError: no"))
    assert "climbing: 1 failed; stopped after 1 of 2 trials. To continue: sweeper resume climbing" in shown(capsys)
    assert "there is nothing to draw yet" in shown(capsys, "--curves")
    assert "Trial 0 failed before its first report" in shown(capsys, "0")
    assert main(["show", "climbing", "1"]) == 2
    assert "trial 1 of sweep 'climbing' has not started yet; those that have are 0" in capsys.readouterr().err


def test_first_line_tells_paused_trials_from_pruned_ones_while_a_sweep_runs(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    pruner = {"type": "promotion", "min_epochs": 1, "reduction_factor": 2}
    with open_study(make_sweep(pruner=pruner, budget={"trials": 4, "epochs": 4})) as study:
        for score in (0.5, 0.1):
            study.report(study.ask().number, Report(1, 1.0, {"score": score}))
        assert shown(capsys).startswith("climbing: 2 paused; running, 4 trials in all")
    assert shown(capsys).startswith("climbing: 2 pruned; stopped after 2 of 4 trials")
