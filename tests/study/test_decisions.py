"""What pruners compared is on record, and Optuna's own pruners come to the same on a copy of the study."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from sweeper.core.trials import Decision, Failure, Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from tests.study.replay import Copy, events_by_time

MakeSweep = Callable[..., Sweep]

TRIALS, EPOCHS = 44, 12

PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"type": "median"},
    "median at intervals": {"type": "median", "interval_reports": 3, "n_startup_trials": 2, "n_min_trials": 4},
    "percentile": {"type": "percentile", "percentile": 30, "min_reports": 3},
    "halving": {"type": "successive_halving"},
    "halving with bootstrap": {
        "type": "successive_halving",
        "reduction_factor": 2,
        "bootstrap_count": 3,
        "min_early_stopping_rate": 1,
    },
    "hyperband": {"type": "hyperband", "min_reports": 1, "reduction_factor": 2},
    "threshold": {"type": "threshold", "lower": 0.1, "upper": 0.7, "min_reports": 2, "interval_reports": 2},
    "lower threshold": {"type": "threshold", "lower": 0.3},
    "patient": {"type": "patient", "patience_reports": 2, "min_delta": 0.01},
}
PRUNERS |= {
    f"patient {name}": {"type": "patient", "patience_reports": 1, "wrapped": PRUNERS[name]}
    for name in ("median", "percentile", "halving", "hyperband", "threshold")
}


def curve(number: int) -> list[float]:
    """Return the values of a trial: they rise and fall, and are rounded so that trials tie."""
    chance = random.Random(number)
    height, speed = chance.random(), chance.uniform(0.2, 2.0)
    risen = (height * (1 - math.exp(-speed * step)) for step in range(1, EPOCHS + 1))
    return [round(value + chance.uniform(-0.1, 0.1), 2) for value in risen]


def run_trials(sweep: Sweep, until: int, chance: random.Random) -> None:
    """Run trials up to a number, four at a time; some return early, and some attempts are lost and made again."""
    with open_study(sweep) as study:
        running: dict[int, Iterator[tuple[int, float]]] = {}
        while running or len(study.rows()) < until:
            if len(running) < 4 and (study.has_next() and len(study.rows()) < until or not running):
                running[row.number] = enumerate(curve((row := study.ask()).number), 1)
            number = chance.choice(list(running))
            step, value = next(running[number])
            fate = chance.random()
            if fate < 0.01 and step > 2:
                study.finish(number)
            elif fate < 0.02:
                study.fail(number, Failure("node", "its node was lost"))
            else:
                study.report(number, Report(step, time.time(), {"score": value}))
            running = {n: values for n, values in running.items() if n in {row.number for row in study.running()}}


@pytest.mark.parametrize("kind", PRUNERS)
def test_recorded_decisions_are_those_of_optuna_on_a_copy(kind: str, make_sweep: MakeSweep) -> None:
    direction = "maximize" if list(PRUNERS).index(kind) % 2 else "minimize"
    sweep = make_sweep(
        budget={"trials": TRIALS, "epochs": EPOCHS},
        pruner=PRUNERS[kind],
        objective={"metric": "score", "direction": direction},
    )
    chance = random.Random(kind)
    run_trials(sweep, TRIALS // 2, chance)
    run_trials(sweep, TRIALS, chance)  # resumed by another owner
    view = read_study(sweep.name, sweep.storage_url())
    copy = Copy(sweep)
    copy.replay(view, events_by_time(view))

    pruned = {row.number for row in view.rows() if row.state == "PRUNED"}
    assert len(view.rows()) == TRIALS and pruned
    assert copy.stopped == {(number, view.row(number).step) for number in pruned}
    assert view.decisions() == copy.decisions
    for number in pruned:
        last = view.decisions()[number][-1]
        assert last.is_pruned and last.step == view.row(number).step and is_explained(last, direction)


@pytest.mark.parametrize("kind", ["median", "halving"])
def test_trials_that_a_fork_took_over_are_peers(kind: str, make_sweep: MakeSweep) -> None:
    changes = {"budget": {"trials": 8, "epochs": EPOCHS}, "pruner": PRUNERS[kind]}
    run_trials(make_sweep(**changes), 8, random.Random(0))
    parents = read_study("climbing", make_sweep().storage_url())
    fork = make_sweep(name="fork", **changes)
    with open_study(fork, forked="climbing") as study:
        number = study.ask().number
        study.report(number, Report(1, 1.0, {"score": -1.0}))
    (decision,) = read_study("fork", fork.storage_url()).decisions()[number]
    step = {number: reports[0].metrics["score"] for number, reports in parents.all_reports().items()}
    complete = [row.number for row in parents.rows() if row.state == "COMPLETE"]
    peers = [step[number] for number in (complete if kind == "median" else step)]
    assert decision.is_pruned and decision.value == -1.0
    assert (decision.rank, decision.peers) == (len(peers) + 1, len(peers) + 1)
    assert decision.cutoff == (np.median(peers) if kind == "median" else sorted(peers)[-max(1, len(peers) // 4)])


def is_explained(decision: Decision, direction: str) -> bool:
    """Return whether the numbers of a decision say why the trial was stopped."""
    if decision.kept is not None and decision.rank is not None:
        return decision.rank > decision.kept
    assert decision.value is not None and decision.cutoff is not None
    if decision.pruner == "threshold":
        return decision.value != decision.cutoff
    return (decision.value < decision.cutoff) == (direction == "maximize")
