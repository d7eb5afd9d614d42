from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.result import SweepResult
from sweeper.cli import console
from sweeper.cli.report import Board
from sweeper.core.errors import StopReason
from sweeper.core.trials import Attempt, Champion, TrialRecord

MakeSweep = Callable[..., Any]


CHAMPION = Champion("climber", 3, True, 2, "beats version 2: score 0.9 against 0.85", "models:/climber/3", "r1", "m1")


def rows(count: int) -> list[TrialRecord]:
    return [TrialRecord(n, "COMPLETE", {"height": 0.9 - n / 100}, value=0.9 - n / 100, step=9) for n in range(count)]


@pytest.fixture
def make_result(make_sweep: MakeSweep) -> Callable[..., SweepResult]:
    def make(**changes: Any) -> SweepResult:
        facts: dict[str, Any] = {
            "name": "climbing",
            "folder": Path("sweeps/climbing"),
            "sweep": make_sweep(storage="sqlite:///sweeper.db", pruner={"type": "median"}),
            "counts": {"COMPLETE": 12, "PRUNED": 11, "FAIL": 1},
            "leaderboard": tuple(rows(24)),
            "reports_run": 54,
            "reports_budgeted": 216,
            "evaluation": {"test_score": 0.88, "test_loss": 0.0412},
            "champion": CHAMPION,
            "stopped": None,
            "seconds": 312.0,
            "resumed": 0,
            "ended_now": 24,
            "tracking_uri": "sqlite:///mlflow.db",
        }
        return SweepResult(**facts | changes)

    return make


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(console.out, "width", 100)
    monkeypatch.setattr(console.err, "width", 100)
    yield


pytestmark = pytest.mark.usefixtures("wide")


def test_result_shows_the_outcome_and_the_next_commands(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result())
    text, errors = capsys.readouterr()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert errors == ""
    assert lines[0] == "climbing: 12 complete, 11 pruned, 1 failed; 5m12s"
    assert lines[2] == "trial state score epochs time height"
    assert lines[3] == "0 COMPLETE 0.9000 9 0.9"
    assert "pruning ran 54 of 216 epochs, saved 75%" in lines
    assert "best trial 0, score 0.9000; on the test set: test_score 0.8800, test_loss 0.0412" in lines
    assert "model climber version 3 is the champion (beats version 2: score 0.9 against 0.85)" in lines
    assert lines[-3:] == ["next sweeper show climbing", "sweeper best climbing", "sweeper ui climbing"]


def test_result_without_a_pruner_says_nothing_of_pruning(
    make_result: Callable[..., SweepResult], make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result(sweep=make_sweep(pruner={"type": "none"})))
    assert "pruning" not in capsys.readouterr().out


def test_result_without_a_complete_trial_does_not_propose_the_best(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result(leaderboard=(), evaluation=None, champion=None, counts={"FAIL": 4}))
    text = capsys.readouterr().out
    assert "sweeper show climbing" in text and "sweeper best" not in text


def test_result_shows_the_ten_best_only(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result())
    assert capsys.readouterr().out.count("COMPLETE") == 10


def test_result_of_a_stopped_sweep_gives_the_reason(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    result = make_result(
        stopped=StopReason.INTERRUPTED, leaderboard=(), evaluation=None, champion=None, counts={"RUNNING": 2}
    )
    result = replace(result, reports_budgeted=result.reports_run)
    console.print_result(result)
    text = capsys.readouterr().out
    assert "climbing: 2 interrupted; 5m12s, interrupted" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[-3:] == ["next sweeper resume climbing", "sweeper show climbing", "sweeper ui climbing"]
    assert "model" not in text and "saved" not in text


def test_result_names_a_storage_other_than_the_default(
    make_result: Callable[..., SweepResult], make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result(sweep=make_sweep(storage="sqlite:///other.db")))
    assert "sweeper show climbing --storage sqlite:///other.db" in capsys.readouterr().out


def test_version_that_is_not_better_is_not_shown_as_champion(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(
        make_result(
            champion=replace(CHAMPION, promoted=False, reason="version 2 stays champion: score 0.8 against 0.9")
        )
    )
    assert "climber version 3 (version 2 stays champion: score 0.8 against 0.9)" in capsys.readouterr().out


def test_table_drops_and_names_the_columns_that_do_not_fit() -> None:
    cells = Board(("trial", "state"), ("units", "optimizer"), (("1", "COMPLETE", "128", "adam"),))
    table, hidden = console.leaderboard(cells, 24)
    assert len(table.columns) == 3
    assert hidden == ("optimizer",)


def test_table_measures_wide_characters_as_a_terminal_does() -> None:
    assert console.columns_that_fit(("a", "b"), [("層" * 10, "x")], 22) == 1
    assert console.columns_that_fit(("a", "b"), [("層" * 10, "x")], 23) == 2


def test_leaderboard_shows_why_trials_failed_and_what_it_leaves_out(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = TrialRecord(9, "FAIL", {"height": 0.1}, reason="diverged\x1b[2J (loss=nan at epoch 3)")
    console.print_leaderboard(make_sweep(), [*rows(3), failed], {}, limit=2)
    text = capsys.readouterr().out
    assert r"failed trial 9: diverged\x1b[2J (loss=nan at epoch 3)" in text
    assert "2 more trials: --all" in text


@pytest.mark.parametrize("value", ["[red]loud[/]", "[/]", "\x1b]0;x\x07", "'; drop table", ":boom:"])
def test_values_of_parameters_are_shown_unchanged(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    sweep = make_sweep(space={"odd": {"type": "categorical", "choices": [value, "x"]}})
    console.print_leaderboard(sweep, [TrialRecord(0, "COMPLETE", {"odd": value}, value=1.0, step=9)], {}, limit=None)
    text = capsys.readouterr().out
    assert value.replace("\x1b", r"\x1b").replace("\x07", r"\x07") in text
    assert "\x1b" not in text


def test_error_is_a_line_per_problem_without_passwords_or_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error("a.yaml:3:5  name: \x1b[31mred\ncannot open postgresql://u:secret@h/db " + "x" * 200)
    text, errors = capsys.readouterr()
    assert text == ""
    assert errors.splitlines() == [
        r"error: a.yaml:3:5  name: \x1b[31mred",
        "error: cannot open postgresql://u:***@h/db " + "x" * 200,
    ]


def test_failed_attempts_are_shown_with_epoch_and_node(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Attempt(1, "crash", "its worker died", 4, "node-a", datetime.now(UTC))
    console.print_leaderboard(make_sweep(), rows(2), {1: [lost]}, limit=None)
    assert "retried trial 1, attempt 1: its worker died, at epoch 4 on node-a" in capsys.readouterr().out


def test_nothing_is_said_of_pruning_where_nothing_was_pruned(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result(counts={"FAIL": 4}, reports_run=0, reports_budgeted=0))
    assert "pruning" not in capsys.readouterr().out


def test_stopped_sweep_shows_what_pruning_saved_so_far(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result(stopped=StopReason.INTERRUPTED, counts={"RUNNING": 2, "PRUNED": 2}))
    assert "saved 162 epochs so far" in capsys.readouterr().out


def test_better_value_of_a_pruned_trial_is_explained_in_the_result(
    make_result: Callable[..., SweepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = TrialRecord(30, "PRUNED", {"height": 0.9}, value=0.95, step=4)
    console.print_result(make_result(leaderboard=(*rows(3), pruned)))
    assert "trial 30 reached 0.9500 before it was pruned; the best complete one has 0.9000" in capsys.readouterr().out


def test_result_names_the_parameters_that_a_narrow_terminal_hides(
    make_result: Callable[..., SweepResult],
    make_sweep: MakeSweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(console.out, "width", 50)
    units = {"type": "int", "low": 1, "high": 9}
    sweep = make_sweep(storage="sqlite:///sweeper.db", space={"height": units, "second": units, "third": units})
    console.print_result(make_result(sweep=sweep))
    assert "too narrow for second, third: sweeper show climbing --csv" in capsys.readouterr().out


def test_redirected_output_has_no_trailing_blanks(
    make_result: Callable[..., SweepResult], make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_result(make_result())
    console.print_leaderboard(make_sweep(), rows(3), {}, limit=None)
    lines = capsys.readouterr().out.splitlines()
    assert lines and [line for line in lines if line != line.rstrip()] == []


def test_long_reason_is_cut_in_the_table(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    failed = TrialRecord(9, "FAIL", {"height": 0.1}, reason="ValueError: " + "x" * 300)
    console.print_leaderboard(make_sweep(), [failed], {}, limit=None)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100 and "all about a failure: sweeper show climbing 9" in text
