"""The study records where the parameters of each trial came from."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from sweeper.core.trials import Report
from sweeper.search.history import REPEATED
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study

MakeSweep = Callable[..., Sweep]

PLANE = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("height", "width")}
STEPPED = {"height": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.125}}


def run_trials(sweep: Sweep, count: int, **options: Any) -> list[str | None]:
    """Run trials of one report each, one after the other, and return their origins as a reader gets them."""
    with open_study(sweep, **options) as study:
        for _ in range(count):
            row = study.ask()
            study.report(row.number, Report(1, 1.0, {"score": row.params["height"]}))
            study.finish(row.number)
        origins = [row.origin for row in study.rows()]
    assert origins == [row.origin for row in read_study(sweep.name, sweep.storage_url()).rows()]
    return origins


@pytest.mark.parametrize(
    ("sampler", "origins"),
    [
        ({"type": "tpe", "n_startup_trials": 2}, ["start point", "random start-up", "tpe", "tpe"]),
        ({"type": "tpe", "n_startup_trials": 0}, ["start point", "tpe", "tpe", "tpe"]),
        ({"type": "random"}, ["start point", "random", "random", "random"]),
        ({"type": "qmc"}, ["start point", "qmc", "qmc", "qmc"]),
        ({"type": "cmaes", "n_startup_trials": 2}, ["start point", "random start-up", "cmaes", "cmaes"]),
        ({"type": "gp", "n_startup_trials": 2}, ["start point", "random start-up", "gp", "gp"]),
    ],
)
def test_origin_says_what_the_sampler_really_did(
    sampler: dict[str, Any], origins: list[str], make_sweep: MakeSweep
) -> None:
    if sampler["type"] == "gp" and find_spec("torch") is None:
        pytest.skip("a Gaussian process needs torch")
    sweep = make_sweep(space=PLANE, sampler=sampler, enqueue=[{"height": 0.5, "width": 0.5}])
    assert run_trials(sweep, 4) == origins


def test_first_points_without_a_model_are_random(make_sweep: MakeSweep) -> None:
    for kind, first in (("qmc", "random"), ("cmaes", "random start-up"), ("grid", "grid")):
        space = STEPPED if kind == "grid" else PLANE
        assert run_trials(make_sweep(name=kind, space=space, sampler={"type": kind}), 2) == [first, kind]


def test_points_that_a_fork_takes_over_come_from_the_fork(make_sweep: MakeSweep) -> None:
    run_trials(make_sweep(), 3)
    fork = make_sweep(name="fork", dataset={"type": "digits"}, enqueue=[{"height": 0.5}])
    assert run_trials(fork, 5, forked="climbing") == ["start point", "fork", "fork", "fork", "random"]


def test_random_point_in_place_of_repeated_proposals_is_named(make_sweep: MakeSweep) -> None:
    run_trials(make_sweep(space=STEPPED, sampler={"type": "grid"}, budget={"trials": 8, "epochs": 9}), 8)
    fork = make_sweep(name="fork", space=STEPPED, sampler={"type": "tpe", "n_startup_trials": 0})
    assert run_trials(fork, 1, forked="climbing") == [REPEATED]


def test_resumed_trial_keeps_its_origin_and_others_get_one(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(enqueue=[{"height": 0.5}])
    with open_study(sweep) as study:
        assert [study.ask().origin for _ in range(2)] == ["start point", "random"]
    with open_study(sweep) as study:
        assert [study.ask().origin for _ in range(3)] == ["start point", "random", "random"]
        assert [row.attempt for row in study.rows()] == [2, 2, 1]
