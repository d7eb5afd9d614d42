"""Compare recipes on a table of learning curves: epochs until a truly good configuration was trained to the end.

Usage: python -m benchmarks.replay --table FILE [--recipe NAME ...] [--seeds 400] [--workers 1]
       [--rows FIRST:END] [--trials N]
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.measure import keep
from benchmarks.replay.recipes import RECIPES
from benchmarks.replay.table import Table
from sweeper.analysis.forecast.clock import Clock

SHARES = (0.1, 0.02, 0.005)
"""Which configurations count as found: the truly best of all."""

Found = dict[float, tuple[float, float]]
"""Epochs and seconds until one of the best of each share was trained to the end; infinite if none ever was."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--recipe", action="append", choices=list(RECIPES), help="all of them by default")
    parser.add_argument("--seeds", type=int, default=400, help="orders of the configurations")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=places, help="only these rows of the table, such as 97:194")
    parser.add_argument("--trials", type=int, help="sweeps of so many rows, drawn anew for each order; by default all")
    parser.add_argument("--minimize", action="store_true", help="for a table that does not say its direction")
    parser.add_argument("--reports-per-epoch", type=int, default=1, help="for a table that does not say it")
    chosen = parser.parse_args(arguments)
    table = Table.read(
        chosen.table,
        direction="minimize" if chosen.minimize else "maximize",
        reports_per_epoch=chosen.reports_per_epoch,
    )
    if chosen.rows:
        table = table.part(list(range(len(table.rows)))[chosen.rows], f"{chosen.rows.start}-{chosen.rows.stop}")
    results = {}
    print(heading(table, chosen.seeds, chosen.workers, chosen.trials))
    for name in chosen.recipe or RECIPES:
        results[name] = compare(table, name, chosen.seeds, chosen.workers, chosen.trials)
        print(line(name, results[name]), flush=True)
    print(f"saved in {keep(f'replay-{table.name}', {name: as_json(found) for name, found in results.items()})}")
    return 0


def places(text: str) -> slice:
    """Read FIRST:END as Python does."""
    first, _, end = text.partition(":")
    return slice(int(first), int(end))


def compare(table: Table, name: str, seeds: int, workers: int, trials: int | None = None) -> list[Found]:
    """Return what a recipe found in each order of the table's rows."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(partial(search, table, name, workers, trials=trials), range(seeds), chunksize=8))


def search(table: Table, name: str, workers: int, seed: int, trials: int | None = None) -> Found:
    """Search the table in one order of its rows until one of the best of each share was trained to the end.

    Args:
        trials: search only as many rows, the first in that order; the best are the best of these.
    """
    order = list(range(len(table.rows)))
    random.Random(seed).shuffle(order)
    if trials is not None:
        table, order = table.part(order[:trials], "part"), list(range(trials))
    wanted = {share: table.best(share) for share in SHARES}
    found = {share: (math.inf, math.inf) for share in SHARES}
    for trained in Clock(table, RECIPES[name](table, order, seed), workers).run():
        for share in [share for share in SHARES if trained.place in wanted[share] and math.isinf(found[share][0])]:
            found[share] = (trained.reports / table.reports_per_epoch, trained.seconds)
        if not any(math.isinf(epochs) for epochs, _ in found.values()):
            break
    return found


def heading(table: Table, seeds: int, workers: int, trials: int | None = None) -> str:
    count = "1 worker" if workers == 1 else f"{workers} workers"
    about = f"{table.name}: {len(table.rows)} configurations, {seeds} orders, {count}."
    if trials is not None:
        about += f" Each order has {trials} of them."
    columns = "  ".join(f"{f'top {100 * share:g} %':^42}" for share in SHARES)
    about += " Epochs until one was trained to the end: median, 95 % interval, 90th percentile, never; seconds: median"
    return f"{about}\n{'':34}{columns}"


def line(name: str, found: Sequence[Found]) -> str:
    parts = []
    for share in SHARES:
        epochs = [one[share][0] for one in found]
        low, high = interval(epochs)
        middle = f"{statistics.median(epochs):7.1f} {f'{low:.1f}..{high:.1f}':>14} {quantile(epochs, 0.9):7.1f}"
        lost, seconds = sum(map(math.isinf, epochs)), statistics.median(one[share][1] for one in found)
        parts.append(f"{middle} {lost:4} {seconds:7.0f}")
    return f"{name:34}{'  '.join(parts)}"


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by order statistics (the binomial's normal approximation)."""
    ordered, count = sorted(values), len(values)
    half = 1.96 * math.sqrt(count) / 2
    return ordered[max(0, int(count / 2 - half))], ordered[min(count - 1, math.ceil(count / 2 + half))]


def as_json(found: Sequence[Found]) -> dict[str, list[list[float | None]]]:
    return {
        f"{share:g}": [[None if math.isinf(value) else value for value in one[share]] for one in found]
        for share in SHARES
    }


if __name__ == "__main__":
    sys.exit(main())
