"""`sweeper logs` for sweeps on this machine; those on a cluster are in tests/backends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Failure, Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def folder(make_sweep: MakeSweep, tmp_path: Path) -> SweepFolder:
    """Make a sweep with a trial that is running, one that has failed, and one that is complete; return its folder."""
    place = SweepFolder(tmp_path / "sweeps/climbing")
    with open_study(make_sweep()) as study:
        study.record_facts({"folder": str(place.path)})
        running, failed, complete = (study.ask() for _ in range(3))
        for row in (running, failed, complete):
            study.report(row.number, Report(1, 1.0, {"score": 0.5}))
        study.fail(failed.number, Failure("error", "ValueError: too high"))
        study.finish(complete.number)
    for number in range(3):
        place.trial(number).mkdir(parents=True)
        (place.trial(number) / "output-001.txt").write_text(f"from trial {number}\n")
    return place


def test_output_is_printed_masked_escaped_and_without_what_was_overwritten(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2hunter2")
    text = b"token hunter2hunter2\n 10%\r 50%\r100%\nred \x1b[31m\r\nbyte \xff"
    (folder.trial(0) / "output-001.txt").write_bytes(text)
    assert main(["logs", "climbing", "0"]) == 0
    assert capsys.readouterr().out == "token ***\n100%\nred \\x1b[31m\nbyte \\xff\n"


def test_attempts_follow_each_other_and_the_traceback_comes_last(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("output-002", "second"), ("output-001.old", "before"), ("error", "Traceback")):
        (folder.trial(1) / f"{name}.txt").write_text(f"{text}\n")
    assert main(["logs", "climbing", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "== output-001.old.txt",
        "before",
        "== output-001.txt",
        "from trial 1",
        "== output-002.txt",
        "second",
        "== error.txt",
        "Traceback",
    ]


def test_without_a_trial_the_last_lines_of_running_and_failed_ones_are_printed(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.trial(0) / "output-001.txt").write_text("".join(f"line {i}\n" for i in range(9)))
    assert main(["logs", "climbing"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "== trial 0, RUNNING",
        *(f"line {i}" for i in range(4, 9)),
        "== trial 1, FAIL: ValueError: too high",
        "from trial 1",
    ]


def test_following_ends_with_a_sweep_that_does_not_run(folder: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "climbing", "0", "--follow"]) == 0
    assert capsys.readouterr().out == "from trial 0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["climbing", "7"], "sweep 'climbing' has no trial 7; name one of 0 to 2"),
        (["climbing", "--follow"], "the trial to follow is missing; name one of 0 to 2"),
        (["climbin"], "no sweep 'climbin' in sqlite:///"),
        (
            ["climbing", "0", "--dashboard", "http://127.0.0.1:1"],
            "TRIAL: a cluster sends the output of the whole sweep",
        ),
    ],
)
def test_wrong_trial_is_one_clear_message(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["logs", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_trial_that_has_printed_nothing_is_said_to(folder: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.trial(2) / "output-001.txt").unlink()
    assert main(["logs", "climbing", "2"]) == 2
    assert "it has printed nothing" in capsys.readouterr().err
