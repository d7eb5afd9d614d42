from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sweeper.analysis.lines import PlainLines
from sweeper.core.trials import Report, TrialRecord

MakeSweep = Callable[..., Any]


def row(number: int, **facts: Any) -> TrialRecord:
    return TrialRecord(number, facts.pop("state", "RUNNING"), {"height": 0.5}, **facts)


def play(lines: PlainLines) -> None:
    for number, end in enumerate(("COMPLETE", "PRUNED", "FAIL", "RUNNING")):
        lines.on_trial(row(number), None)
        reported = row(number, step=3, value=0.5 + number / 10)
        lines.on_trial(reported, Report(3, 0.0, {"score": 0.5}))
        if end != "RUNNING":
            lines.on_trial(replace(reported, state=end, reason="diverged" if end == "FAIL" else None), None)


def printed(stream: io.StringIO) -> list[str]:
    return [line.partition("] ")[2] for line in stream.getvalue().splitlines()]


def test_lines_are_one_per_phase_and_per_ended_trial(make_sweep: MakeSweep) -> None:
    stream = io.StringIO()
    with PlainLines(make_sweep(), stream, link=lambda: "MLflow: sweeper ui climbing") as lines:
        lines.on_phase("Starting Ray.")
        play(lines)
    assert printed(stream) == [
        "Starting Ray.",
        "MLflow: sweeper ui climbing",
        "trial 0 complete at epoch 3/9 (returned early), score 0.5000; 1 of 6 ended; best 0.5000 (trial 0)",
        "trial 1 pruned at epoch 3/9, score 0.6000; 2 of 6 ended; best 0.5000 (trial 0)",
        "trial 2 failed: diverged",
    ]


def test_reason_is_one_line_that_cannot_control_a_terminal_and_has_no_secret(make_sweep: MakeSweep) -> None:
    stream = io.StringIO()
    with PlainLines(make_sweep(), stream) as lines:
        lines.on_trial(row(0), None)
        reason = "[bold]bad[/]\n\x1b[2J http://user:secret@host/" + "x" * 1000
        lines.on_trial(row(0, state="FAIL", reason=reason), None)
    (line,) = printed(stream)
    assert r"[bold]bad[/]\n\x1b[2J" in line and "secret" not in line
    assert len(line) < 200 and line.endswith("…")


def test_trials_of_an_earlier_run_are_not_announced_again(make_sweep: MakeSweep) -> None:
    stream = io.StringIO()
    with PlainLines(make_sweep(), stream, link=lambda: "a link") as lines:
        lines.on_trial(row(0, state="COMPLETE", step=9, value=0.9), None)
    assert stream.getvalue() == ""
    assert lines.progress.counts() == {"COMPLETE": 1}


def test_heartbeat_is_printed_while_no_trial_ends(make_sweep: MakeSweep) -> None:
    stream = io.StringIO()
    with PlainLines(make_sweep(), stream, heartbeat=0.05) as lines:
        lines.on_trial(row(0), None)
        deadline = time.monotonic() + 5
        while "1 running" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "1 running; 0.0 of 6 trials, 0s elapsed" in stream.getvalue()


def test_heartbeat_is_silent_while_other_lines_are_printed(make_sweep: MakeSweep) -> None:
    stream = io.StringIO()
    with PlainLines(make_sweep(), stream, heartbeat=0.3) as lines:
        for _ in range(10):
            lines.on_phase("busy")
            time.sleep(0.05)
    assert set(printed(stream)) == {"busy"}


def test_stream_that_is_gone_does_not_end_the_sweep(make_sweep: MakeSweep) -> None:
    stream = io.StringIO()
    stream.close()
    with PlainLines(make_sweep(), stream) as lines:
        lines.on_phase("Starting Ray.")
        play(lines)


def test_stderr_of_the_moment_is_the_default(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    with PlainLines(make_sweep()) as lines:
        lines.on_phase("Starting Ray.")
    assert capsys.readouterr().err == "[0s] Starting Ray.\n"
