"""Images per second of training, compared with plain `model.fit` and with the machine's own peak."""

from __future__ import annotations

import argparse
from itertools import product
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import keep, versions
from benchmarks.sides import IMAGES, Row, Side, keras_fit, peak, products, sweeper
from sweeper.datasets.catalog import Mnist

STEPS, FEATURES = Mnist().task.steps, Mnist().task.features
_GATES = {"simple_rnn": 1, "gru": 3, "lstm": 4}
BACKENDS = ("tensorflow", "jax")
EPOCHS, SEEDS = 3, 5


def main() -> None:
    arguments = _arguments()
    installed = versions(["sweeper", "tensorflow", "keras", "jax"])
    backends = [backend for backend in arguments.backends if installed[backend] != "not installed"]
    results: list[dict[str, Any]] = []
    for threads in arguments.threads:
        for cell, units in product(arguments.cells, arguments.units):
            for batch_size in arguments.batch_size or [64 if units < 64 else 128]:
                row = Row(cell, units, batch_size, threads)
                results += _measure(row, backends, arguments.rounds, accuracy=arguments.accuracy)
    console = Console(width=140)
    console.print(_table(results))
    console.print(", ".join(f"{name} {number}" for name, number in installed.items()))
    console.print(f"written to {keep('training', {'versions': installed, 'results': results})}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--cells", nargs="+", choices=list(_GATES), default=list(_GATES))
    parser.add_argument("--units", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--batch-size", nargs="+", type=int, help="default: 64 below 64 units, else 128")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--rounds", type=int, default=5, help="epochs that every side trains")
    parser.add_argument("--accuracy", action="store_true", help=f"compare it too: {EPOCHS} epochs, {SEEDS} seeds")
    return parser.parse_args()


def _measure(row: Row, backends: list[str], rounds: int, *, accuracy: bool) -> list[dict[str, Any]]:
    """Return one result for each backend. The sides take turns in each round; the best round of each counts."""
    ours = {backend: Side(sweeper, row, backend) for backend in backends}
    plain = {backend: Side(keras_fit, row, backend) for backend in backends}
    multiply = {backend: Side(products, backend, row.threads) for backend in backends}
    sides = [*ours.values(), *plain.values(), *multiply.values()]
    times: dict[Side, list[float]] = {side: [] for side in sides}
    try:
        for _ in range(rounds):
            for side in sides:
                times[side].append(side.time())
        fastest = {side: min(taken) for side, taken in times.items()}
        top = max(peak(fastest[side]) for side in multiply.values())
        images = IMAGES // row.batch_size * row.batch_size
        return [
            {
                **vars(row),
                "backend": backend,
                "sweeper": images / fastest[ours[backend]],
                "keras": images / fastest[plain[backend]],
                "share": images / fastest[ours[backend]] * _operations(row) / top,
                "keras_share": images / fastest[plain[backend]] * _operations(row) / top,
                "peak": top,
                "first": ours[backend].first,
                "keras_first": plain[backend].first,
                **(_accuracies(ours[backend], plain[backend]) if accuracy else {}),
            }
            for backend in backends
        ]
    finally:
        for side in sides:
            side.close()


def _accuracies(ours: Side, plain: Side) -> dict[str, list[float]]:
    """Return the accuracies of both sides on images that they were not trained on, one for each seed."""
    sides = {"accuracy": ours, "keras_accuracy": plain}
    return {name: [side.time((EPOCHS, seed)) for seed in range(SEEDS)] for name, side in sides.items()}


def _operations(row: Row) -> int:
    """Count the operations per image of the matrix products that training cannot avoid: the pixels need no gradient."""
    width = _GATES[row.cell] * row.units
    return STEPS * 2 * width * (2 * FEATURES + 3 * row.units)


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title="Training on MNIST, images per second")
    for heading in ("cell", "units", "batch", "threads", "backend"):
        table.add_column(heading)
    has_accuracy = any("accuracy" in result for result in results)
    headings = ["sweeper", "model.fit", "ratio", "of peak", "fit's", "first epoch", "fit's"]
    for heading in headings + ["accuracy", "fit's"] * has_accuracy:
        table.add_column(heading, justify="right")
    for result in results:
        accuracies = [result[key] for key in ("accuracy", "keras_accuracy") if key in result]
        table.add_row(
            *(str(result[key]) for key in ("cell", "units", "batch_size", "threads", "backend")),
            f"{result['sweeper']:,.0f}",
            f"{result['keras']:,.0f}",
            f"{result['sweeper'] / result['keras']:.2f}",
            f"{result['share']:.0%}",
            f"{result['keras_share']:.0%}",
            f"{result['first']:.2f} s",
            f"{result['keras_first']:.2f} s",
            *(f"{mean(values):.4f} ± {stdev(values):.4f}" for values in accuracies),
        )
    return table


if __name__ == "__main__":
    main()
