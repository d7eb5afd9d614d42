from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sweeper.analysis.progress import Progress, active_seconds
from sweeper.cli.look.watcher import Watcher, changes, headline
from sweeper.core.trials import Failure, Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.storage.follow import follow_study

MakeSweep = Callable[..., Sweep]
START = datetime(2026, 1, 1, tzinfo=UTC)


class Recorder:
    def __init__(self, sweep: Sweep) -> None:
        self.progress = Progress(sweep)
        self.events: list[str] = []

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        self.progress.record(row, report)
        self.events.append(f"{row.number} {row.state} {row.step if report is None else report.step}")

    def on_phase(self, message: str) -> None:
        self.events.append(message)


def row(number: int, **facts: object) -> TrialRecord:
    return TrialRecord(number, str(facts.pop("state", "RUNNING")), {}, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now", "events"),
    [
        (None, row(0), ["RUNNING 0 None"]),
        (row(0), row(0), []),
        (row(0, step=1, value=0.1), row(0, step=4, value=0.4), ["RUNNING 4 4"]),
        (None, row(0, state="PRUNED", step=2, value=0.2), ["RUNNING 0 None", "RUNNING 2 2", "PRUNED 2 None"]),
        (row(0, step=2, value=0.2), row(0, state="FAIL", step=2, value=0.2), ["FAIL 2 None"]),
        (row(0, step=2, value=0.2), row(0, step=2, value=0.2, attempt=2), ["RUNNING 2 None"]),
        (row(0, state="FAIL"), row(0, attempt=2), ["RUNNING 0 None"]),
    ],
)
def test_events_are_those_between_two_readings(before: TrialRecord | None, now: TrialRecord, events: list[str]) -> None:
    found = changes({} if before is None else {0: before}, [now], "score")
    seen = [f"{row.state} {row.step} {report.step if report else None}" for row, report in found]
    assert seen == events


def test_watcher_sees_what_the_listeners_of_the_sweep_got(make_sweep: MakeSweep) -> None:
    sweep, own = make_sweep(), Recorder(make_sweep())
    with open_study(sweep, listeners=[own]) as study:
        study.report(study.ask().number, Report(9, time.time(), {"score": 0.5}))
        own.events.clear()
        followed, seen = follow_study("climbing", sweep.storage_url()), Recorder(sweep)
        watcher = Watcher(followed, seen)
        assert seen.progress.best is not None and [curve.values for curve in watcher.curves] == [(0.5,)]
        study.ask()
        assert watcher.poll()
        study.report(1, Report(1, time.time(), {"score": 0.25}))
        assert watcher.poll()
        assert [curve.number for curve in watcher.curves] == [0, 1]
        study.fail(1, Failure("error", "ValueError: no"))
        assert watcher.poll()
        assert seen.events == own.events == ["1 RUNNING 0", "1 RUNNING 1", "1 FAIL 1"]
        assert (
            headline(followed, seen.progress) == "climbing runs: 1 complete, 1 failed, 4 to come; best 0.5000 (trial 0)"
        )
    assert not watcher.poll()
    assert headline(followed, seen.progress).startswith("climbing has stopped: ")


def test_progress_that_is_attached_knows_the_pace_of_running_trials(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 2, "epochs": 10})
    begun = datetime.now(UTC) - timedelta(seconds=50)
    rows = [row(0, state="COMPLETE", step=10, value=0.1, started=begun, ended=begun + timedelta(seconds=10))]
    rows.append(row(1, step=5, value=0.1, started=begun))
    progress = Progress(sweep)
    progress.attach(rows, 60.0)
    left = progress.seconds_left()
    assert left is not None and left[0] <= 50 <= left[1]
    assert 60 <= progress.elapsed() < 61


def test_active_time_leaves_out_interruptions_and_counts_overlaps_once(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    with open_study(sweep) as study:
        study.ask()
    study_view = read_study("climbing", sweep.storage_url())

    def at(seconds: float) -> datetime:
        return START + timedelta(seconds=seconds)

    rows = [
        row(0, state="COMPLETE", started=at(0), ended=at(10)),
        row(1, state="COMPLETE", started=at(5), ended=at(20)),
        row(2, state="COMPLETE", started=at(18), spent=4.0, resumed=at(1000), ended=at(1010)),
    ]
    study_view._rows = {row.number: row for row in rows}
    zero = START.timestamp()
    assert active_seconds(study_view, [zero + 15, zero + 500, zero + 1005]) == [15, 22, 27, 32]
    study_view._rows[3] = replace(rows[0], number=3, state="RUNNING", ended=None)  # interrupted, without a report
    assert active_seconds(study_view) == [32]
