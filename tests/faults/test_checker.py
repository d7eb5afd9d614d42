"""The checker itself: histories that must fail, and two that must pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.faults.checker import Copy, Line, Outcome, Result, violations


def _life(number: int, *, reports: int = 3) -> list[Line]:
    """Return the history of a trial that was trained undisturbed."""
    lines = [Line("start", number, pid=7)]
    for step in range(1, reports + 1):
        lines.append(Line("epoch", number, step, pid=7))
        lines.append(Line("ack", number, step, value=step / 10))
    return [*lines, Line("ack", number, reports, state="COMPLETE", value=reports / 10)]


def _outcome(history: Iterable[Line] = (), planned: int = 2) -> Outcome:
    values = {1: 0.1, 2: 0.2, 3: 0.3}
    return Outcome(
        history=[*_life(0), *_life(1), *history],
        results=[Result(number, "COMPLETE", 0.3, values) for number in range(planned)],
        copies=[Copy(number, "FINISHED", tuple(values.items())) for number in range(planned)],
        planned=planned,
        optuna=Counter({"COMPLETE": planned}),
        best=0,
        best_copy=0,
    )


def test_undisturbed_sweep_passes() -> None:
    assert violations(_outcome()) == []


def test_killed_trial_that_resumed_from_its_checkpoint_passes() -> None:
    life = [Line("start", 0, pid=7), Line("epoch", 0, 1, pid=7), Line("start", 0, 0, attempt=2, pid=8)]
    life += [Line("epoch", 0, step, attempt=2, pid=8) for step in (1, 2, 3)]
    assert violations(replace(_outcome(), history=life)) == []


GOOD = _outcome()
BROKEN = {
    "a lost trial": replace(GOOD, results=GOOD.results[:1], copies=GOOD.copies[:1], optuna=Counter({"COMPLETE": 1})),
    "a duplicated trial": replace(GOOD, results=[*GOOD.results, GOOD.results[1]], optuna=Counter({"COMPLETE": 3})),
    "a lost report": replace(
        GOOD, results=[replace(GOOD.results[0], values={1: 0.1, 2: 0.2}), GOOD.results[1]], copies=GOOD.copies
    ),
    "a report that changed": replace(
        GOOD, results=[replace(GOOD.results[0], values={1: 0.1, 2: 0.25, 3: 0.3}), GOOD.results[1]]
    ),
    "a gap in the reports": replace(GOOD, history=[], results=[replace(GOOD.results[0], values={1: 0.1, 3: 0.3})]),
    "an end that changed": replace(GOOD, history=[*GOOD.history, Line("ack", 1, 3, state="PRUNED")]),
    "a finished trial started again": _outcome([Line("start", 0, step=3, attempt=2)]),
    "an epoch left out": replace(GOOD, history=[Line("start", 0), Line("epoch", 0, 1), Line("epoch", 0, 3)]),
    "an epoch reported twice": replace(GOOD, history=[Line("start", 0), Line("epoch", 0, 1), Line("epoch", 0, 1)]),
    "more than an interval trained again": replace(
        GOOD, history=[Line("start", 0), *[Line("epoch", 0, s) for s in (1, 2)], Line("start", 0, attempt=2)]
    ),
    "a trial still running": replace(
        GOOD, history=[], results=[replace(GOOD.results[0], state="RUNNING"), GOOD.results[1]]
    ),
    "a surplus run": replace(GOOD, copies=[*GOOD.copies, GOOD.copies[0]]),
    "a missing run": replace(GOOD, copies=GOOD.copies[:1]),
    "a run without its last report": replace(
        GOOD, copies=[replace(GOOD.copies[0], values=((1, 0.1), (2, 0.2))), GOOD.copies[1]]
    ),
    "a run in another state": replace(GOOD, copies=[replace(GOOD.copies[0], status="RUNNING"), GOOD.copies[1]]),
    "a trial that Optuna does not know": replace(GOOD, optuna=Counter({"COMPLETE": 1})),
    "a wrong best": replace(GOOD, best=1),
    "a wrong best in MLflow": replace(GOOD, best_copy=1),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_checker_finds(fault: str) -> None:
    assert violations(BROKEN[fault])
