from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.analysis.progress import Progress
from sweeper.core.trials import Report, TrialRecord

MakeSweep = Callable[..., Any]

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.txt"))
"""Real runs of search_spaces/lstm.yaml on two cores: seconds since the start, trial, state, step (0: no report)."""

BUDGET = {"trials": 24, "epochs": 8, "reports_per_epoch": 4}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def report(step: int) -> Report:
    return Report(step, 0.0, {"score": 0.5})


def replayed(progress: Progress, clock: Clock, file: Path) -> Iterator[bool]:
    """Play recorded events, and look once a second; yield at each event and look whether a trial has reported."""
    rows: dict[int, TrialRecord] = {}
    for line in file.read_text().splitlines():
        at, number, state, step = line.split()
        while clock.now + 1 < float(at):
            clock.now += 1
            yield False
        clock.now = float(at)
        row = rows.get(int(number)) or TrialRecord(int(number), "RUNNING", {})
        row = rows[row.number] = replace(row, state=state, step=int(step) or row.step, value=0.5)
        progress.record(row, report(row.step) if int(step) else None)
        yield int(step) > 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_bar_moves_with_every_report_of_a_real_sweep_and_never_back(
    make_sweep: MakeSweep, clock: Clock, file: Path
) -> None:
    progress = Progress(make_sweep(budget=BUDGET, pruner={"type": "median"}), clock=clock)
    share, words = 0.0, progress.done()
    for has_reported in replayed(progress, clock, file):
        assert progress.share() >= share
        if has_reported:
            assert progress.share() > share and progress.done() != words
        share, words = progress.share(), progress.done()
    assert share == 1 and words == "24 of 24 trials"


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_true_time_left_of_a_real_sweep_is_mostly_in_the_range(make_sweep: MakeSweep, clock: Clock, file: Path) -> None:
    progress = Progress(make_sweep(budget=BUDGET, pruner={"type": "median"}), clock=clock)
    end = float(file.read_text().splitlines()[-1].split()[0])
    inside: dict[int, bool] = {}  # by the second
    for _ in replayed(progress, clock, file):
        if (found := progress.seconds_left()) is not None:
            inside.setdefault(int(clock.now), found[0] <= end - clock.now <= found[1])
    assert len(inside) > 0.9 * end  # nearly always there is an estimate
    assert sum(inside.values()) > 0.8 * len(inside)


def test_time_left_settles_when_trials_are_alike(make_sweep: MakeSweep, clock: Clock) -> None:
    progress = Progress(make_sweep(budget={"trials": 20, "epochs": 10, "parallel": 1}), clock=clock)
    for number in range(10):
        row = TrialRecord(number, "RUNNING", {})
        progress.record(row, None)
        for step in range(1, 11):
            clock.now += 6.0
            row = replace(row, step=step, value=0.5)
            progress.record(row, report(step))
        progress.record(replace(row, state="COMPLETE"), None)
    progress.record(TrialRecord(10, "RUNNING", {}), None)
    assert progress.summary() == "10.0 of 20 trials, 10m00s elapsed, about 10 min left"
    assert progress.summary(has_ended=True) == "10.0 of 20 trials, 10m00s elapsed"


def test_time_left_is_unknown_before_there_are_enough_reports(make_sweep: MakeSweep, clock: Clock) -> None:
    progress = Progress(make_sweep(), clock=clock)
    progress.record(TrialRecord(0, "RUNNING", {}), None)
    clock.now += 5
    progress.record(TrialRecord(0, "RUNNING", {}, step=1, value=0.1), report(1))
    assert progress.seconds_left() is None and progress.summary() == "0.1 of 6 trials, 5s elapsed"


def test_time_left_is_unknown_before_the_pruner_has_ended_a_few(make_sweep: MakeSweep, clock: Clock) -> None:
    progress = Progress(make_sweep(pruner={"type": "median"}), clock=clock)
    for step in range(1, 9):
        clock.now += 10
        progress.record(TrialRecord(0, "RUNNING", {}, step=step, value=0.1), report(step))
        assert progress.seconds_left() is None


def test_time_left_is_at_most_what_the_timeout_leaves(make_sweep: MakeSweep, clock: Clock) -> None:
    progress = Progress(make_sweep(budget={"trials": 100, "epochs": 10, "timeout": "1m"}), clock=clock)
    for step in range(1, 6):
        progress.record(TrialRecord(0, "RUNNING", {}, step=step, value=0.1), report(step))
        clock.now += 10.0
    assert progress.seconds_left() == (10.0, 10.0)


def test_time_left_counts_down_between_two_estimates(make_sweep: MakeSweep, clock: Clock) -> None:
    progress = Progress(make_sweep(budget={"trials": 1, "epochs": 10}), clock=clock)
    for step in range(6):
        progress.record(TrialRecord(0, "RUNNING", {}, step=step, value=0.1), report(step) if step else None)
        clock.now += 10.0
    first = progress.seconds_left()
    clock.now += 3.0
    later = progress.seconds_left()
    assert first is not None and later is not None
    assert (first[0] - later[0], first[1] - later[1]) == pytest.approx((3.0, 3.0))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["report", "PRUNED", "COMPLETE", "FAIL"])), max_size=60))
def test_share_of_work_done_never_falls(events: list[tuple[int, str]]) -> None:
    from sweeper.spec import Sweep

    declared = {"trainable": "tests.samples:climb", "objective": {"metric": "score"}}
    height = {"type": "float", "low": 0, "high": 1}
    budget = {"trials": 6, "epochs": 9}
    progress = Progress(Sweep.from_mapping({"name": "x", **declared, "budget": budget, "space": {"height": height}}))
    share = 0.0
    for number, event in events:
        row = progress.rows.get(number, TrialRecord(number, "RUNNING", {}))
        if row.state != "RUNNING":
            continue
        if event == "report":
            row = replace(row, step=min(9, row.step + 1))
            progress.record(row, report(row.step))
        else:
            progress.record(replace(row, state=event), None)
        assert share <= progress.share() <= 1
        share = progress.share()


def test_trial_of_an_earlier_run_counts_as_work_but_not_as_speed(make_sweep: MakeSweep) -> None:
    progress = Progress(make_sweep(budget={"trials": 4, "epochs": 10}))
    assert progress.record(TrialRecord(0, "COMPLETE", {}, step=10, value=0.9), None) is None
    assert progress.share() == pytest.approx(0.25)
    assert progress.seconds_left() is None
    assert progress.best is not None and progress.best.number == 0


def test_resumed_sweep_with_fewer_trials_is_not_over_full(make_sweep: MakeSweep) -> None:
    progress = Progress(make_sweep(budget={"trials": 2, "epochs": 10}))
    for number in range(3):
        progress.record(TrialRecord(number, "COMPLETE", {}, step=10, value=0.9), None)
    assert progress.share() == 1 and progress.done() == "3 of 3 trials"


def test_trials_left_by_a_run_that_has_ended_are_interrupted(make_sweep: MakeSweep) -> None:
    progress = Progress(make_sweep())
    progress.record(TrialRecord(0, "RUNNING", {}), None)
    assert progress.counts() == {"RUNNING": 1}
    assert progress.counts(has_ended=True) == {"INTERRUPTED": 1}


def test_each_ending_is_one_line_with_the_best_so_far(make_sweep: MakeSweep) -> None:
    progress = Progress(make_sweep())
    ends = {"COMPLETE": 9, "PRUNED": 3, "FAIL": 2}
    lines = []
    for number, (state, step) in enumerate(ends.items()):
        row = TrialRecord(number, "RUNNING", {}, value=0.5, step=step)
        assert progress.record(row, None) is None
        lines.append(progress.record(replace(row, state=state, reason="ValueError: no"), None))
    assert lines == [
        "trial 0 complete at epoch 9/9, score 0.5000; 1 of 6 ended; best 0.5000 (trial 0)",
        "trial 1 pruned at epoch 3/9, score 0.5000; 2 of 6 ended; best 0.5000 (trial 0)",
        "trial 2 failed: ValueError: no",
    ]


def test_paused_trial_has_not_ended(make_sweep: MakeSweep) -> None:
    progress = Progress(make_sweep())
    for number in range(2):
        progress.record(TrialRecord(number, "RUNNING", {}, value=0.5, step=3), None)
    paused = TrialRecord(0, "PRUNED", {}, value=0.5, step=3, is_paused=True)
    assert progress.record(paused, None) == "trial 0 paused at epoch 3/9, score 0.5000"
    ended = progress.record(TrialRecord(1, "COMPLETE", {}, value=0.5, step=9), None)
    assert ended == "trial 1 complete at epoch 9/9, score 0.5000; 1 of 6 ended; best 0.5000 (trial 1)"


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_best_trial_follows_the_direction_and_is_the_first_of_equals(
    make_sweep: MakeSweep, direction: str, best: int
) -> None:
    progress = Progress(make_sweep(objective={"metric": "score", "direction": direction}))
    for number, value in enumerate((0.1, 0.9, 0.9)):
        progress.record(TrialRecord(number, "COMPLETE", {}, step=9, value=value), None)
    progress.record(TrialRecord(3, "PRUNED", {}, step=2, value=5.0), None)
    assert progress.best is not None and progress.best.number == best


def test_summary_says_how_long_in_words_that_people_use(make_sweep: MakeSweep, clock: Clock) -> None:
    progress = Progress(make_sweep(budget=BUDGET, pruner={"type": "median"}), clock=clock)
    seen = set()
    for _ in replayed(progress, clock, RECORDED[0]):
        seen.add(progress.summary().rpartition("elapsed")[2])
    words = r"|, about \d+( to \d+)? (s|min) left|, less than \d+ (s|min) left"
    assert all(re.fullmatch(words, text) for text in seen), seen
    assert any(" to " in text for text in seen)


def test_trials_that_the_sweep_waits_for_are_named_once_a_worker_has_nothing_to_do(
    make_sweep: MakeSweep, clock: Clock
) -> None:
    progress = Progress(make_sweep(budget={"trials": 3, "epochs": 8}, pruner={"type": "none"}), clock=clock)
    for number in range(3):
        progress.record(TrialRecord(number, "RUNNING", {}), None)
    for step in range(1, 5):
        clock.now += 10
        for number in range(3):
            progress.record(TrialRecord(number, "RUNNING", {}, step=step), report(step))
    assert progress.waits_for() == ""
    progress.record(TrialRecord(0, "COMPLETE", {}, step=8, value=0.5), report(8))
    clock.now += 1
    assert progress.waits_for() == ""  # a paused trial may be taken up again at any moment
    clock.now += 4
    assert progress.waits_for() == "waits for trials 1 (epoch 4/8), 2 (epoch 4/8), for up to 35s"
    progress.record(TrialRecord(1, "COMPLETE", {}, step=8, value=0.5), report(8))
    clock.now += 40
    assert progress.waits_for() == "waits for trial 2 (epoch 4/8)"  # it is late


def test_nothing_is_waited_for_while_trials_are_to_come(make_sweep: MakeSweep, clock: Clock) -> None:
    progress = Progress(make_sweep(budget={"trials": 3, "epochs": 8}), clock=clock)
    for number in range(2):
        progress.record(TrialRecord(number, "RUNNING", {}), None)
    progress.record(TrialRecord(0, "PRUNED", {}, step=1, value=0.5), report(1))
    clock.now += 60
    assert progress.waits_for() == ""
