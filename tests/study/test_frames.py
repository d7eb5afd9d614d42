from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sweeper.core.trials import Report, TrialRecord
from sweeper.spec import Sweep
from sweeper.study.frames import curves_frame, trials_frame

SWEEP = Sweep.from_mapping(
    {
        "name": "frames",
        "trainable": "tests.samples:climb",
        "objective": {"metric": "score"},
        "budget": {"trials": 2, "epochs": 2, "reports_per_epoch": 2},
        "space": {"height": {"type": "float", "low": 0, "high": 1}, "state": "a"},
    }
)
START = datetime(2026, 1, 1, tzinfo=UTC)


def test_trials_have_a_row_each_with_their_parameters() -> None:
    ended = TrialRecord(
        3,
        "COMPLETE",
        {"height": 0.5, "state": "a"},
        value=0.9,
        step=4,
        started=START,
        ended=START + timedelta(seconds=90),
    )
    running = TrialRecord(4, "RUNNING", {"height": 0.25, "state": "a"}, started=START, origin="start point")
    frame = trials_frame(SWEEP, [ended, running])
    assert list(frame.index) == [3, 4] and frame.index.name == "trial"
    assert frame.loc[3, ["state", "score", "epochs", "seconds", "height", "params.state"]].to_list() == [
        "COMPLETE",
        0.9,
        2.0,
        90.0,
        0.5,
        "a",
    ]
    assert frame["started"].dt.tz is not None and frame["ended"].isna().to_list() == [False, True]
    assert frame["score"].isna().to_list() == [False, True]
    assert frame["origin"].isna().to_list() == [True, False] and frame.loc[4, "origin"] == "start point"


def test_reports_have_a_row_each_with_their_epoch() -> None:
    reports = {1: [Report(1, 60.0, {"score": 0.1, "time": 5.0}), Report(2, 61.0, {"score": 0.2})], 0: []}
    frame = curves_frame(SWEEP, reports)
    assert list(frame.columns) == ["trial", "step", "epoch", "time", "score", "metrics.time"]
    assert frame[["trial", "step", "epoch", "score"]].to_numpy().tolist() == [[1, 1, 0.5, 0.1], [1, 2, 1.0, 0.2]]
    assert frame["time"][0] == datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


def test_frames_of_a_sweep_without_trials_have_their_columns() -> None:
    assert trials_frame(SWEEP, []).empty and "score" in trials_frame(SWEEP, []).columns
    assert curves_frame(SWEEP, {}).empty and "score" in curves_frame(SWEEP, {}).columns
