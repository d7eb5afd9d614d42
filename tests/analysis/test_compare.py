from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sweeper.analysis.compare import Side, compare
from sweeper.core.errors import InputError
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]
SPACE = {"height": {"type": "float", "low": 0.0, "high": 1.0}, "cell": "lstm", "units": 64}


def sweep_of(make_sweep: MakeSweep, name: str, *trials: Sequence[float], **changes: Any) -> Sweep:
    """Run a sweep whose trials report these values, one epoch each and a second apart; the last trial may be cut."""
    budget = {"trials": len(trials), "epochs": max(map(len, trials))}
    sweep = make_sweep(name=name, budget=budget, space=changes.pop("space", SPACE), **changes)
    metric = sweep.objective.metric
    with open_study(sweep) as study:
        for values in trials:
            row = study.ask()
            assert row.started is not None
            for step, value in enumerate(values, 1):
                study.report(row.number, Report(step, row.started.timestamp() + step, {metric: value}))
    return sweep


def by_label(sides: Sequence[Side]) -> dict[str, Side]:
    return {side.label: side for side in sides}


def test_trials_of_different_sweeps_are_compared(make_sweep: MakeSweep) -> None:
    sweep = sweep_of(make_sweep, "lstm", [0.2, 0.5, 0.8], [0.6, 0.7, 0.75])
    sweep_of(make_sweep, "gru", [0.1, 0.9, 0.7], space=SPACE | {"cell": "gru"})
    found, studies = compare(["lstm:0", "lstm:1", "gru:0"], sweep.storage_url())
    sides = by_label(found.sides)
    assert [study.name for study in studies] == ["lstm", "lstm", "gru"]
    assert [(side.best, side.best_at, side.last) for side in found.sides] == [
        (0.8, 3.0, 0.8),
        (0.75, 3.0, 0.75),
        (0.9, 2.0, 0.7),
    ]
    assert found.names == ("height", "cell") and found.equal == 1
    assert [side.differing["cell"] for side in found.sides] == ["lstm", "lstm", "gru"]
    assert [known.value for known in sides["lstm:0"].reached] == [pytest.approx(0.7425), 0.75]
    assert [known.epochs for known in sides["lstm:0"].reached] == [3.0, 3.0]
    assert [known.epochs for known in sides["gru:0"].reached] == [2.0, 2.0]
    assert sides["gru:0"].reached[1].seconds == pytest.approx(2.0, abs=0.01)
    assert sides["gru:0"].curve.values == (0.1, 0.9, 0.7)


def test_values_to_reach_can_be_given_and_may_not_be_reached(make_sweep: MakeSweep) -> None:
    changes = {"objective": {"metric": "loss", "direction": "minimize"}}
    sweep = sweep_of(make_sweep, "lstm", [0.5, 0.2], [0.4, 0.3], **changes)
    found, _ = compare(["lstm", "0", "1"], sweep.storage_url(), [0.4, 0.25])
    assert [[known.epochs for known in side.reached] for side in found.sides] == [[2.0, 2.0], [1.0, None]]
    default, _ = compare(["lstm:0", "lstm:1"], sweep.storage_url())
    assert [known.value for known in default.sides[0].reached] == [pytest.approx(0.303), 0.3]


def test_whole_sweeps_are_compared_by_their_best_value_so_far(make_sweep: MakeSweep) -> None:
    sweep = sweep_of(make_sweep, "lstm", [0.2, 0.5], [0.3, 0.4], sampler={"type": "random"})
    sweep_of(make_sweep, "tpe", [0.1, 0.6], [0.3, 0.4], sampler={"type": "tpe"})
    found, _ = compare(["lstm", "tpe"], sweep.storage_url())
    lstm, tpe = found.sides
    assert (lstm.state, lstm.trials, lstm.best, lstm.best_at, lstm.epochs) == ("done", 2, 0.5, 0.0, 4.0)
    assert found.names[:1] == ("sampler.type",)
    assert tpe.curve.values[-1] == 0.6 and tpe.curve.epochs[-1] == 4.0
    assert list(tpe.curve.values) == sorted(tpe.curve.values)
    assert lstm.reached[-1].value == 0.5 and lstm.reached[-1].epochs is not None


def test_running_and_pruned_trials_are_named(make_sweep: MakeSweep) -> None:
    pruner = {"type": "threshold", "lower": 0.5}
    sweep = make_sweep(budget={"trials": 3, "epochs": 3}, pruner=pruner)
    with open_study(sweep) as study:
        for value in (0.6, 0.1):
            study.report(study.ask().number, Report(1, time.time(), {"score": value}))
        study.ask()
        found, _ = compare(["climbing", "0", "1", "2"], sweep.storage_url())
    assert [side.state for side in found.sides] == ["RUNNING", "PRUNED", "RUNNING"]
    assert found.remarks == (
        "still running: climbing:0, climbing:2",
        "without a report yet: climbing:2",
        "ended before the last report: climbing:1",
    )


def test_what_cannot_be_compared_is_refused_with_a_proposal(make_sweep: MakeSweep) -> None:
    sweep = sweep_of(make_sweep, "lstm", [0.2], [0.3])
    sweep_of(make_sweep, "loss", [0.2], objective={"metric": "loss", "direction": "minimize"})
    sweep_of(make_sweep, "other", [0.2])
    refused = {
        ("lstm",): "name at least two trials",
        ("lstm:0",): "name at least two trials",
        ("lstm", "1"): "name at least two trials",
        ("lstm:0", "lstm:0"): "lstm:0 is named twice",
        (
            "lstm:0",
            "other",
        ): "lstm:0 is a trial and other a whole sweep. Name trials only, as in lstm:0 other:NUMBER",
        ("lstm:0", "lstm:7"): "sweep 'lstm' has no trial 7; its trials are 0 to 1; the nearest is 1",
        ("lstm:0", "lstm:x"): "'x' is not the number of a trial",
        ("lstm", "lstn"): "no sweep 'lstn'",
        ("lstm", "loss"): "lstm has to maximize score, and loss has to minimize loss: their values do not compare",
        tuple(f"lstm:{number}" for number in range(13)): "13 are too many",
    }
    for texts, message in refused.items():
        with pytest.raises(InputError) as error:
            compare(texts, sweep.storage_url())
        assert message in str(error.value)


def test_sweep_without_a_report_can_be_compared(make_sweep: MakeSweep) -> None:
    sweep = sweep_of(make_sweep, "lstm", [0.2])
    with open_study(make_sweep(name="empty", budget={"trials": 1, "epochs": 1}, space=SPACE)):
        found, _ = compare(["lstm", "empty"], sweep.storage_url())
    assert (found.sides[1].best, found.sides[1].reached[-1].epochs) == (None, None)
    assert "without a report yet: empty" in found.remarks
