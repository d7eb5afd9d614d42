from __future__ import annotations

import io
import os
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeper.analysis.lines import PlainLines
from sweeper.cli.live import LiveProgress, live_view, mlflow_line
from sweeper.core.trials import Report, TrialRecord

MakeSweep = Callable[..., Any]

SPACE = {
    "cell": "lstm",
    "units": {"type": "int", "low": 1, "high": 512},
    "optimizer": {"type": "categorical", "choices": ["adam", "[red]loud[/]", "\x1b]0;x\x07", "größe-層"]},
}


def screen(*, width: int = 100, height: int = 30, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=height, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(progress: LiveProgress, **size: int) -> str:
    console = screen(**size)
    console.print(progress)
    return shown(console)


def row(number: int, **facts: Any) -> TrialRecord:
    params = {"cell": "lstm", "units": 128, "optimizer": "adam"} | facts.pop("params", {})
    return TrialRecord(number, facts.pop("state", "RUNNING"), params, **facts)


def play(progress: LiveProgress) -> None:
    for number, end in enumerate(("COMPLETE", "PRUNED", "FAIL", "RUNNING")):
        started = row(number, node=f"node-{number}")
        progress.on_trial(started, None)
        reported = replace(started, step=3, value=0.5 + number / 10)
        progress.on_trial(reported, Report(3, 0.0, {"score": 0.5}))
        if end != "RUNNING":
            progress.on_trial(replace(reported, state=end, reason="diverged" if end == "FAIL" else None), None)


@pytest.fixture
def sweep(make_sweep: MakeSweep) -> Any:
    return make_sweep(space=SPACE)


def test_display_shows_states_best_trial_and_the_trial_of_each_worker(sweep: Any) -> None:
    progress = LiveProgress(sweep, screen())
    play(progress)
    text = drawn(progress)
    assert "climbing" in text and "maximize score, 6 trials of 9 epochs" in text
    assert "1 running, 1 complete, 1 pruned, 1 failed, 2 to come" in text
    assert "best 0.5000 in trial 0  units=128  optimizer=adam" in text
    worker = next(line for line in text.splitlines() if line.startswith("3 "))
    assert worker.split() == ["3", "3/9", "0.8000", "node-3", "128", "adam"]
    assert "lstm" not in text


def test_display_leaves_out_the_node_if_there_is_only_one(sweep: Any) -> None:
    progress = LiveProgress(sweep, screen())
    progress.on_trial(row(0, node="laptop"), None)
    assert "laptop" not in drawn(progress)


def test_display_shows_the_phase_until_a_trial_moves(sweep: Any) -> None:
    progress = LiveProgress(sweep, screen())
    progress.on_phase("starting Ray")
    assert "starting Ray" in drawn(progress)
    progress.on_trial(row(0), None)
    assert "starting Ray" not in drawn(progress)


def test_display_stays_within_a_narrow_and_low_terminal(sweep: Any) -> None:
    progress = LiveProgress(sweep, screen(width=30, height=12))
    for number in range(12):
        progress.on_trial(row(number, params={"optimizer": "größe-層"}), None)
    lines = drawn(progress, width=30, height=12).splitlines()
    assert len(lines) <= 12
    assert "and 9 more" in lines[-1]
    assert max(map(len, lines)) <= 30


@pytest.mark.parametrize("width", [1, 5, 12, 20, 41, 60, 300])
def test_display_can_be_drawn_at_any_width(sweep: Any, width: int) -> None:
    progress = LiveProgress(sweep, screen(width=width))
    progress.on_phase("evaluating trial 7, the best, on the test set")
    play(progress)
    progress.on_phase("evaluating trial 7, the best, on the test set")
    assert drawn(progress, width=width)


def test_markup_and_escape_sequences_in_values_are_shown_as_text(sweep: Any) -> None:
    progress = LiveProgress(sweep, screen())
    for number, value in enumerate(("[red]loud[/]", "\x1b]0;x\x07")):
        progress.on_trial(row(number, params={"optimizer": value}), None)
    text = drawn(progress)
    assert "[red]loud[/]" in text
    assert r"\x1b]0;x\x07" in text
    assert "\x1b]0" not in text and "\x07" not in text


def test_live_display_is_redrawn_in_place_and_its_last_frame_stays(sweep: Any) -> None:
    assert isinstance(live_view(sweep, console=screen()), PlainLines)  # even if rich is forced to treat it as one
    console = screen()
    with LiveProgress(sweep, console) as progress:
        play(progress)
    assert "\x1b[?25l" in shown(console) and shown(console).rstrip("\n").endswith("\x1b[?25h")
    assert "trial 2 failed: diverged" in shown(console)
    assert "1 complete, 1 pruned, 1 failed" in shown(console)


PLAY = """
import sys, time
from sweeper.cli.live import live_view
from sweeper.spec import Sweep
from sweeper.core.trials import Report, TrialRecord
sweep = Sweep.from_mapping({
    "name": "pty", "trainable": "tests.samples:climb", "objective": {"metric": "score", "direction": "maximize"},
    "budget": {"trials": 2, "epochs": 3}, "space": {"height": {"type": "float", "low": 0.0, "high": 1.0}}})
with live_view(sweep) as progress:
    for number in range(2):
        params = {"height": 0.5}
        progress.on_trial(TrialRecord(number, "RUNNING", params), None)
        for step in range(1, 4):
            time.sleep(0.15)
            report = Report(step, 0.0, {"score": 0.1})
            progress.on_trial(TrialRecord(number, "RUNNING", params, value=0.1, step=step), report)
            print("chatter on stdout")
        progress.on_trial(TrialRecord(number, "COMPLETE", params, value=0.1, step=3), None)
print("END")
"""


def run_in_terminal(command: list[str], columns: int) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and its output."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux raises when the other side is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    return process.wait(timeout=60), written.decode()


@pytest.mark.parametrize("columns", [20, 100])
def test_display_works_on_a_real_terminal_and_restores_the_cursor(tmp_path: Path, columns: int) -> None:
    script = tmp_path / "play.py"
    script.write_text(PLAY)
    code, written = run_in_terminal([sys.executable, str(script)], columns)
    assert code == 0
    before, _, after = written.partition("\x1b[?25h")
    assert "\x1b[?25l" in before and "chatter on stdout" in before
    assert "2 complete" in before
    assert after.strip().endswith("END")


def test_display_names_the_columns_that_do_not_fit(sweep: Any) -> None:
    progress = LiveProgress(sweep, screen(width=30))
    progress.on_trial(row(0), None)
    assert "too narrow for optimizer" in drawn(progress, width=30)


def test_last_frame_of_a_stopped_sweep_has_no_running_trial(sweep: Any) -> None:
    console = screen()
    with LiveProgress(sweep, console) as progress:
        play(progress)
    assert "1 interrupted, 1 complete" in shown(console).rpartition("climbing")[2]


def test_place_of_the_sweep_in_mlflow_is_shown_when_the_first_trial_starts(make_sweep: MakeSweep) -> None:
    console = screen()
    sweep = make_sweep(storage="sqlite:///sweeper.db", tracking={"experiment": "mine"})
    with LiveProgress(sweep, console, link=lambda: mlflow_line(sweep, None)) as progress:
        progress.on_phase("Starting Ray.")
        assert "MLflow" not in shown(console)
        for number in range(2):
            progress.on_trial(row(number), None)
    assert shown(console).count("MLflow: sweeper ui climbing") == 1
    far = mlflow_line(sweep, "https://ada:secret@mlflow.example")
    assert far == "MLflow: https://ada:***@mlflow.example, experiment mine; links to the sweep: sweeper ui climbing"


def test_phase_stays_for_a_moment_although_trials_report(sweep: Any) -> None:
    progress = LiveProgress(sweep, screen())
    progress.on_trial(row(0), None)
    progress.on_phase("Stopping. Progress is saved.")
    progress.on_trial(row(0, step=1, value=0.5), Report(1, 0.0, {"score": 0.5}))
    assert "Stopping. Progress is saved." in drawn(progress)
