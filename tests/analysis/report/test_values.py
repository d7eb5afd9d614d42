"""What the report says, as plain values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sweeper.analysis.report.timeline import bars_of, sample_lanes, timeline_of
from sweeper.analysis.report.values import (
    Importance,
    Improvement,
    decisive_range,
    failures,
    improvements,
    survival,
    thinned,
)
from sweeper.core.trials import Attempt, Decision, Report, TrialRecord
from sweeper.search.budget import Budget

START = datetime(2026, 1, 1, tzinfo=UTC)
BUDGET = Budget(trials=9, epochs=4, reports_per_epoch=2)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def row(
    number: int, state: str = "COMPLETE", value: float | None = 0.5, step: int = 8, **others: object
) -> TrialRecord:
    return TrialRecord(number, state, {"x": number}, value=value, step=step, **others)  # type: ignore[arg-type]


def test_only_better_complete_trials_are_improvements() -> None:
    rows = [row(0), row(1, value=0.4), row(2, "PRUNED", 0.9), row(3, value=0.7), row(4, value=0.9, is_added=True)]
    assert improvements(rows, "maximize") == (Improvement(0, 0.5), Improvement(3, 0.7))
    assert improvements(rows, "minimize") == (Improvement(0, 0.5), Improvement(1, 0.4))
    assert improvements([row(0, value=float("nan"))], "maximize") == ()


def test_survival_counts_who_made_each_report_and_what_became_of_them() -> None:
    rows = [row(0), row(1), row(2, "PRUNED", step=1), row(3, "PRUNED", step=1), row(4, "FAIL", step=3)]
    rows += [row(5, "RUNNING", step=2), row(6, "FAIL", step=0)]
    rungs = survival(rows, BUDGET, {})
    assert [(rung.position, rung.reached, rung.went_on) for rung in rungs] == [
        (0.5, 6, 4),
        (1, 4, 3),
        (1.5, 3, 2),
        (4, 2, 0),
    ]
    assert [(rung.pruned, rung.failed, rung.complete, rung.stopped) for rung in rungs] == [
        (2, 0, 0, 0),
        (0, 0, 0, 1),
        (0, 1, 0, 0),
        (0, 0, 2, 0),
    ]
    decided = {0: [Decision(1, "median", False, 0.5, cutoff=0.3), Decision(2, "median", False, 0.6, cutoff=0.4)]}
    decided[2] = [Decision(1, "median", True, 0.1, cutoff=0.2)]
    assert [rung.cutoffs for rung in survival(rows[:4], BUDGET, decided)] == [(0.2, 0.3), (0.4, 0.4), None]


def test_failures_are_counted_by_class_with_the_trials_that_they_ended() -> None:
    crash = Attempt(1, "crash", "died", 1, "a", at(1))
    error = Attempt(2, "error", "ValueError", 1, "a", at(2))
    rows = [row(0, "FAIL", reason="ValueError"), row(1), row(2, "FAIL", reason="enqueued, but x is 7")]
    found = failures(rows, {0: [crash, error], 1: [crash]})
    assert [(each.kind, each.attempts, each.trials, each.lost) for each in found] == [
        ("crash", 2, (0, 1), ()),
        ("error", 1, (0,), (0,)),
        ("unknown", 1, (2,), (2,)),
    ]
    assert found[2].reason == "enqueued, but x is 7" and failures([row(0)], {}) == ()


def test_importance_of_few_trials_is_weak() -> None:
    assert Importance((("x", 1.0),), 19).is_weak and not Importance((("x", 1.0),), 20).is_weak


def test_thinned_trials_hold_the_best_and_keep_their_order() -> None:
    rows = [row(number, value=number % 97 / 97) for number in range(1000)]
    kept = thinned(rows, 40, "maximize")
    assert len(kept) == 40 and [each.number for each in kept] == sorted(each.number for each in kept)
    assert {each.number for each in rows if each.value == 96 / 97} <= {each.number for each in kept}
    assert thinned(rows[:40], 40, "maximize") == rows[:40]


def test_axis_begins_at_the_worse_quartile_where_bad_trials_squeeze_the_good_ones() -> None:
    values = [0.1, 0.2, 0.5, 0.97, 0.975, 0.98, 0.985, 0.99]
    low, high = decisive_range(values, "maximize") or (0, 0)
    assert 0.5 < 0.49 + low and low < 0.5 and 0.99 < high < 1.02
    low, high = decisive_range([1 - value for value in values], "minimize") or (0, 0)
    assert -0.02 < low < 0.01 and 0.5 < high < 0.53


def test_axis_shows_all_values_where_they_are_few_equal_or_evenly_spread() -> None:
    even = [step / 100 for step in range(100)]
    assert decisive_range(even, "maximize") is None and decisive_range(even, "minimize") is None
    assert decisive_range([0.1, 0.98, 0.99], "maximize") is None
    assert decisive_range([0.5] * 20, "maximize") is None
    assert decisive_range([0.1, 0.2, *[0.5] * 20], "maximize") is None


def test_a_thousand_workers_are_sampled_from_all_nodes_in_natural_order() -> None:
    rows = [row(number, node=f"node-{number // 20}", started=at(0), ended=at(90)) for number in range(1000)]
    lanes = timeline_of(rows, {}, {}).lanes
    assert len(lanes) == 1000 and [lane.node for lane in lanes[::20]] == [f"node-{place}" for place in range(50)]
    assert [lane.slot for lane in lanes[:20]] == list(range(1, 21))
    few = sample_lanes(lanes, 64)
    assert len(few) == 64 and len({lane.node for lane in few}) == 50 and few == sorted(few, key=lanes.index)


def test_attempts_too_short_to_be_seen_share_a_bar() -> None:
    times = [(0, 1, "COMPLETE"), (1, 4, "PRUNED"), (4, 5, "COMPLETE"), (5, 60, "COMPLETE"), (60, 100, "FAIL")]
    rows = [
        row(number, state, node="a", started=at(start), ended=at(end))
        for number, (start, end, state) in enumerate(times)
    ]
    (lane,) = timeline_of(rows, {}, {}).lanes
    bars = bars_of(lane, timedelta(seconds=10))
    assert [(bar.state, len(bar.spans), bar.start, bar.end) for bar in bars] == [
        ("PRUNED", 3, at(0), at(5)),
        ("COMPLETE", 1, at(5), at(60)),
        ("FAIL", 1, at(60), at(100)),
    ]


def test_gaps_between_trials_are_idle_times_of_a_place_on_a_node() -> None:
    rows = [
        row(0, node="a", started=at(0), ended=at(50)),
        row(1, node="a", started=at(0), ended=at(100)),
        row(2, node="a", started=at(70), ended=at(100)),
        row(3, node="b", started=at(0), ended=at(80)),
    ]
    found = timeline_of(rows, {}, {})
    assert [(lane.node, [span.number for span in lane.spans]) for lane in found.lanes] == [
        ("a", [0, 2]),
        ("a", [1]),
        ("b", [3]),
    ]
    assert [(lane.busy, lane.idle) for lane in found.lanes] == [(80, 20), (100, 0), (80, 20)]
    assert found.pauses == ()


def test_time_between_two_runs_is_a_pause_and_nobody_is_idle() -> None:
    lost = Attempt(1, "driver", "the sweep was interrupted", 1, "a", at(900))
    rows = [row(0, node="a", attempt=2, started=at(0), resumed=at(900), ended=at(1000))]
    found = timeline_of(rows, {0: [lost]}, {0: [Report(1, at(100).timestamp(), {})]})
    assert [(span.state, span.start, span.end) for span in found.lanes[0].spans] == [
        ("INTERRUPTED", at(0), at(100)),
        ("COMPLETE", at(900), at(1000)),
    ]
    assert found.pauses == ((at(100), at(900)),) and found.lanes[0].idle == 0


def test_running_trial_ends_now_and_an_interrupted_one_with_its_last_report() -> None:
    rows, reports = [row(0, "RUNNING", node="a", started=at(0))], {0: [Report(1, at(5).timestamp(), {})]}
    assert timeline_of(rows, {}, reports, now=at(60)).end == at(60)
    assert timeline_of(rows, {}, reports).end == at(5)
    assert timeline_of([], {}, {}).lanes == () and timeline_of([row(0)], {}, {}).lanes == ()
