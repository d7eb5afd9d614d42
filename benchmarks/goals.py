"""Several goals: the front of accuracy and number of parameters that each sampler finds, by its hypervolume.

`replay` searches a table of learning curves (192 random points of `search_spaces/cells.yaml` and two more on MNIST) in
seconds. `sweep` trains: small networks on scikit-learn's digits, with `sweeper run`.

Usage: python -m benchmarks.goals replay [--seeds 1 2 3 4 5] [--trials 40] [--only NAME ...]
       python -m benchmarks.goals sweep  [--seeds 1 2 3 4 5] [--trials 40] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, keep, versions
from benchmarks.replay.search import StudySearch
from benchmarks.replay.table import Table
from sweeper.analysis.forecast.clock import Clock
from sweeper.datasets.catalog import Mnist
from sweeper.spec import Sweep
from sweeper.training.engine.weights import weight_specs
from sweeper.training.hparams import RNNParams

TABLE = ROOT / "benchmarks" / "replay" / "tables" / "mnist.json.gz"

Point = tuple[float, float]
"""Accuracy and number of parameters of a trial that was trained to its end."""

WORST_ACCURACY, MOST_PARAMETERS = 0.5, 1e6
"""The reference point: a trial that is worse in one of them adds nothing."""

TPE, NSGA2, RANDOM = {"type": "tpe"}, {"type": "nsga2"}, {"type": "random"}
PROMOTION, MEDIAN, NO_PRUNER = {"type": "promotion"}, {"type": "median"}, {"type": "none"}

CONTENDERS: dict[str, dict[str, Any]] = {
    "random": {"sampler": RANDOM, "pruner": NO_PRUNER},
    "tpe": {"sampler": TPE, "pruner": NO_PRUNER},
    "nsga2": {"sampler": NSGA2, "pruner": NO_PRUNER},
    "tpe, median": {"sampler": TPE, "pruner": MEDIAN},
    "tpe, promotion": {"sampler": TPE, "pruner": PROMOTION},
}
"""What is compared; each gets the epochs of so many whole trials, and may begin more trials if it prunes."""

DIGITS: dict[str, Any] = {
    "dataset": {"type": "digits"},
    "resources": {"cpus": 1},
    "space": {
        "cell": {"type": "categorical", "choices": ["simple_rnn", "lstm", "gru"]},
        "layers": {"type": "int", "low": 1, "high": 2},
        "units": {"type": "int", "low": 4, "high": 128, "log": True},
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": {"type": "categorical", "choices": [32, 64, 128]},
    },
    "tracking": {"model": None},
}
DIGITS_BUDGET = {"epochs": 6, "reports_per_epoch": 2}


def hypervolume(points: Iterable[Point]) -> float:
    """Return the area between the front and the reference point: accuracy times decades of parameters."""
    area, best = 0.0, WORST_ACCURACY
    for accuracy, parameters in sorted(points, key=lambda point: point[1]):
        if accuracy > best and parameters < MOST_PARAMETERS:
            area += (accuracy - best) * math.log10(MOST_PARAMETERS / parameters)
            best = accuracy
    return area


class GoalSearch(StudySearch):
    """The search of a table for accuracy and, of the network, few parameters."""

    def __init__(self, table: Table, sweep: Sweep, order: list[int]) -> None:
        super().__init__(table, sweep, order)
        self._sizes = [float(parameters(row.params)) for row in table.rows]

    def _other_goals(self, number: int) -> Sequence[float]:
        return (self._sizes[self._places[number]],)


def parameters(params: Mapping[str, Any]) -> int:
    """Return the number of parameters of a network for MNIST."""
    return sum(spec.size for spec in weight_specs(RNNParams(**params), Mnist(type="mnist").task))


def goals(metric: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a sweep that is to maximize a metric and to minimize parameters."""
    objective = [{"metric": metric}, {"metric": "parameters", "direction": "minimize"}]
    return {"objective": objective, "prune_on": metric, **declared}


def replay(name: str, trials: int, seed: int) -> float:
    """Return the hypervolume of what a contender finds in the table, with the reports of so many whole trials."""
    table = Table.read(TABLE)
    order = list(range(len(table.rows)))
    random.Random(seed).shuffle(order)
    sweep = table.sweep(**goals("value", CONTENDERS[name]), seed=seed)
    # What depends on the number of trials, such as a generation of NSGA-II, is to suit this budget, and not the table.
    sampler = sweep.chosen_sampler.build(sweep.space, seed=seed, trials=trials)
    search, found = GoalSearch(table, sweep, order), list[Point]()
    search.use(sampler)
    for trained in Clock(table, search, 2).run():
        if trained.reports > trials * table.reports:
            break
        row = table.rows[trained.place]
        found.append((row.curve[-1], parameters(row.params)))
    return hypervolume(found)


def sweep(name: str, trials: int, seed: int) -> float:
    """Return the hypervolume of the front of a real sweep, trained on this machine."""
    budget = {**DIGITS_BUDGET, "trials": trials, "parallel": len(os.sched_getaffinity(0))}
    declared = {"name": "goals", "seed": seed, "budget": budget, **DIGITS, **goals("val_accuracy", CONTENDERS[name])}
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "goals.yaml").write_text(json.dumps(declared))  # JSON is YAML
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-W", "ignore", "-m", "sweeper"]
        options: dict[str, Any] = {"cwd": folder, "env": environment}
        subprocess.run([*command, "run", "goals.yaml"], **options, stdout=sys.stderr, check=True)
        shown = subprocess.run([*command, "show", "goals", "--json"], **options, stdout=subprocess.PIPE, check=True)
    rows = [row for row in json.loads(shown.stdout)["trials"] if row["state"] == "COMPLETE"]
    return hypervolume((row["goals"]["val_accuracy"], row["goals"]["parameters"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goals", description=__doc__)
    parser.add_argument("kind", choices=["replay", "sweep"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    chosen = parser.parse_args()
    measure: Callable[[str, int, int], float] = replay if chosen.kind == "replay" else sweep
    found: dict[str, list[float]] = {}
    print(f"{'hypervolume':20}" + "".join(f"{f'seed {seed}':>9}" for seed in chosen.seeds) + "     mean  to random")
    for name in chosen.only:
        run = partial(measure, name, chosen.trials)
        if chosen.kind == "replay":
            with ProcessPoolExecutor(min(len(chosen.seeds), os.cpu_count() or 1)) as pool:
                found[name] = list(pool.map(run, chosen.seeds))
        else:
            found[name] = [run(seed) for seed in chosen.seeds]
        print(line(name, found[name], found.get("random")), flush=True)
    if chosen.kind == "replay":
        table = Table.read(TABLE)
        best = hypervolume((row.curve[-1], parameters(row.params)) for row in table.rows)
        print(f"{'the whole table':20}{best:9.4f}")
    record = {
        "trials": chosen.trials,
        "seeds": chosen.seeds,
        "versions": versions(["sweeper", "optuna"]),
        "found": found,
    }
    print(f"saved in {keep(f'goals-{chosen.kind}', record)}")


def line(name: str, found: Sequence[float], base: Sequence[float] | None) -> str:
    """Return the figures of a contender, and how its mean compares with that of random search on the same seeds."""
    text = f"{name:20}" + "".join(f"{value:9.4f}" for value in found) + f"{statistics.mean(found):9.4f}"
    if base is None or base is found:
        return text
    wins = sum(one > other for one, other in zip(found, base, strict=True))
    return f"{text}  {statistics.mean(found) / statistics.mean(base) - 1:+.1%}, better in {wins} of {len(found)}"


if __name__ == "__main__":
    main()
