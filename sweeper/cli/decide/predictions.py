"""Predictions on a terminal: each picture in blocks beside its class, or a table of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from sweeper.cli import console
from sweeper.core.text import clean

MAX_DRAWN = 12
"""Most pictures that are drawn on a terminal; more are listed."""


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one picture: the class, its probability, and those of all classes.

    `label` is the true class, if it is known.
    """

    input: str
    predicted: str
    probability: float
    label: str | None
    probabilities: dict[str, float]
    pixels: Any


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """Print each prediction, on a terminal beside its picture."""
    if console.out.is_terminal and len(predictions) <= MAX_DRAWN:
        for one in predictions:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_row(_drawn(one.pixels), Text("\n").join(_lines(one)))
            console.out.print(grid)
            console.out.print()
    else:
        has_labels = any(one.label is not None for one in predictions)
        rows = console.table(["picture", "class", "probability", *(["label"] * has_labels)])
        for one in predictions:
            wrong = "red" if one.label not in (None, one.predicted) else ""
            cells = [one.input, one.predicted, f"{one.probability:.1%}", *([one.label or ""] * has_labels)]
            rows.add_row(*(Text(clean(cell), wrong) for cell in cells))
        console.print_table(rows)
    known = [one for one in predictions if one.label is not None]
    if known:
        right = sum(one.label == one.predicted for one in known)
        console.out.print(Text(f"{right} of {len(known)} right"))


def _lines(one: Prediction) -> list[Text]:
    """Return the name of a picture, its class, and the classes that are likely too."""
    ranked = sorted(one.probabilities.items(), key=lambda pair: -pair[1])
    lines = [Text(clean(one.input), "dim"), Text(f"{one.predicted}  {one.probability:.1%}", "bold")]
    lines += [Text(f"{name}  {share:.1%}", "dim") for name, share in ranked[1:4] if share >= 0.001]
    if one.label is not None:
        lines.append(Text("right", "green") if one.label == one.predicted else Text(f"wrong: it is {one.label}", "red"))
    return lines


def _drawn(pixels: Any) -> Text:
    """Draw a picture in half blocks, two rows of pixels in a line."""
    lines = []
    for top in range(0, len(pixels), 2):
        line = Text()
        below = pixels[top + 1] if top + 1 < len(pixels) else [0] * len(pixels[top])
        for upper, lower in zip(pixels[top], below, strict=True):
            line.append("▀", f"rgb({upper},{upper},{upper}) on rgb({lower},{lower},{lower})")
        lines.append(line)
    return Text("\n").join(lines)
