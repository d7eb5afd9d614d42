"""Learning curves for trials that nobody trains."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay.table import Table
from sweeper.analysis.forecast.curves import PastTrial, Resampled, Synthetic
from sweeper.search.space import draw
from sweeper.spec import Sweep, load_sweep

ROOT = Path(__file__).parents[3]
SPACE = {"units": {"type": "int", "low": 32, "high": 512, "log": True}}


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_synthetic_curves_are_spread_and_ranked_as_those_of_a_real_table() -> None:
    """Early reports foretell the end as well as they do in the table, and half of the trials end within its spread."""
    table = Table.read(ROOT / "benchmarks/replay/tables/mnist.json.gz")
    real = np.array([row.curve for row in table.rows if not np.isnan(row.curve).any()])
    space = load_sweep(ROOT / "search_spaces/cells.yaml").space
    found = []
    for seed in range(12):
        rng = random.Random(seed)
        curves = Synthetic(space, table.reports, "maximize", lambda point: float(point["units"]), rng)
        found.append(np.array([curves.curve(draw(space, rng)) for _ in range(100)]))
    for report in (2, 4, 8, 16):
        foretold = [np.corrcoef(ranks(one[:, report - 1]), ranks(one[:, -1]))[0, 1] for one in found]
        assert np.mean(foretold) == pytest.approx(
            np.corrcoef(ranks(real[:, report - 1]), ranks(real[:, -1]))[0, 1], abs=0.05
        )
    errors = 1 - np.concatenate(found)[:, -1]
    low, high = np.quantile(1 - real[:, -1], [0.1, 0.9])
    assert 0.6 < np.mean((errors > low) & (errors < high)) < 0.95


def test_costly_trials_tend_to_be_better(make_sweep: Callable[..., Sweep]) -> None:
    space, gains = make_sweep(space=SPACE).space, []
    for seed in range(30):
        curves = Synthetic(space, 8, "minimize", lambda point: float(point["units"]), random.Random(seed))
        small, large = (np.mean([curves.curve({"units": units})[-1] for _ in range(10)]) for units in (40, 400))
        gains.append(small - large)
    assert np.mean(gains) > 0


def test_synthetic_curves_improve_in_the_direction_of_the_objective(make_sweep: Callable[..., Sweep]) -> None:
    space = make_sweep(space=SPACE).space
    for direction in ("maximize", "minimize"):
        curves = Synthetic(space, 32, direction, lambda point: 1.0, random.Random(0))  # type: ignore[arg-type]
        curve = curves.curve({"units": 100})
        assert len(curve) == 32 and 0 < min(curve) < max(curve) < 1
        assert (curve[-1] > curve[0]) == (direction == "maximize")


def test_trial_gets_the_curve_of_a_near_one_of_earlier_sweeps(make_sweep: Callable[..., Sweep]) -> None:
    space = make_sweep(space=SPACE).space
    past = [
        PastTrial({"units": units}, (1.0, 2.0), (units / 1000, units / 500)) for units in (32, 33, 34, 500, 510, 512)
    ]
    curves = Resampled(past, space, [1.0, 2.0], random.Random(0))
    assert curves.curve({"units": 35})[1] < 0.1 and curves.curve({"units": 490})[1] > 0.9


def test_curve_that_ended_early_goes_on_with_less_gain_each_time(make_sweep: Callable[..., Sweep]) -> None:
    space = make_sweep(space=SPACE).space
    past = [PastTrial({"units": 64}, (1.0, 2.0), (0.5, 0.7))]
    curve = Resampled(past, space, [1.0, 2.0, 4.0, 8.0], random.Random(0)).curve({"units": 64})
    assert curve == pytest.approx([0.5, 0.7, 0.82, 0.892])
