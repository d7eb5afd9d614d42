"""Tables of learning curves: configurations with the value of each of their reports.

A table is a JSON list of `{"params": {...}, "curve": [...], "seconds": ...}`, compressed if its name ends with .gz. A
value is null from the report on at which the training diverged. `seconds`, the time that one report takes, may be
missing; then each takes one. A table may also be an object with such
a list as `rows`, the `direction`, `reports_per_epoch`, and the `space` as a sweep file declares it.
"""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeper.core.trials import Direction
from sweeper.spec import Sweep


@dataclass(frozen=True)
class Row:
    """One configuration. `curve` has the value of each report; `seconds` is the time that one of them takes."""

    params: dict[str, Any]
    curve: tuple[float, ...]
    seconds: float = 1.0


@dataclass(frozen=True)
class Table:
    """Configurations of one space that were all trained to the end."""

    name: str
    rows: tuple[Row, ...]
    direction: Direction = "maximize"
    reports_per_epoch: int = 1
    space: dict[str, Any] | None = None

    @classmethod
    def read(cls, file: Path, *, direction: Direction = "maximize", reports_per_epoch: int = 1) -> Table:
        """Read a table; what it does not say of itself comes from the arguments.

        Raises:
            ValueError: it has no rows, or rows of several lengths.
        """
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        content = json.loads(data)
        table = content if isinstance(content, dict) else {"rows": content}
        rows = tuple(
            Row(row["params"], tuple(map(_number, row["curve"])), row.get("seconds") or 1.0) for row in table["rows"]
        )
        if len({len(row.curve) for row in rows}) != 1:
            raise ValueError(f"{file}: the curves have several lengths, or there are none")
        return cls(
            file.name.partition(".")[0],
            rows,
            table.get("direction", direction),
            table.get("reports_per_epoch", reports_per_epoch),
            table.get("space"),
        )

    def write(self, file: Path, **about: Any) -> None:
        rows = [
            {
                "params": row.params,
                "curve": [None if math.isnan(value) else value for value in row.curve],
                "seconds": row.seconds,
            }
            for row in self.rows
        ]
        content = {**about, "direction": self.direction, "reports_per_epoch": self.reports_per_epoch}
        content |= {"space": self.space, "rows": rows}
        # The same table gives the same bytes: no name and no time in the header.
        data = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
        file.write_bytes(data)

    @property
    def reports(self) -> int:
        """Number of reports of a full trial."""
        return len(self.rows[0].curve)

    def value(self, place: int, step: int) -> float:
        """Return the value of a report; NaN if the training has diverged."""
        return self.rows[place].curve[step - 1]

    def seconds(self, place: int, step: int, running: int) -> float:
        """Return the seconds that a report takes, whatever runs beside it."""
        return self.rows[place].seconds

    def delay(self, place: int, worker: int) -> float:
        """Return 0: no time was recorded between two trials of a worker."""
        return 0.0

    @cached_property
    def ranking(self) -> tuple[int, ...]:
        """Places of the rows, the truly best first: by the last value of their curves."""
        sign = -1 if self.direction == "maximize" else 1
        last = [math.inf if math.isnan(row.curve[-1]) else sign * row.curve[-1] for row in self.rows]
        return tuple(sorted(range(len(self.rows)), key=lambda place: (last[place], place)))

    def best(self, share: float) -> frozenset[int]:
        """Return the places of the truly best rows, one at least."""
        return frozenset(self.ranking[: max(1, round(share * len(self.rows)))])

    def part(self, places: list[int], name: str) -> Table:
        """Return a table of some of the rows."""
        rows = tuple(self.rows[place] for place in places)
        return Table(f"{self.name}-{name}", rows, self.direction, self.reports_per_epoch, self.space)

    def sweep(self, **declared: Any) -> Sweep:
        """Return a sweep over the table's space with as many trials as the table has rows.

        Args:
            declared: what the sweep file says in addition, such as `pruner`.
        """
        budget = {
            "trials": len(self.rows),
            "epochs": self.reports / self.reports_per_epoch,
            "reports_per_epoch": self.reports_per_epoch,
        }
        content = {
            "name": "replay",
            "trainable": f"{__name__}:untrained",
            "objective": {"metric": "value", "direction": self.direction},
            "space": self.space or _space_of(self.rows),
        }
        return Sweep.from_mapping(content | {"budget": budget} | declared)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _space_of(rows: tuple[Row, ...]) -> dict[str, Any]:
    """Return a space in which each parameter takes the values that the rows have."""
    names = {name: None for row in rows for name in row.params}
    values = {name: sorted({row.params[name] for row in rows if name in row.params}, key=str) for name in names}
    return {name: {"type": "categorical", "choices": choices} for name, choices in values.items()}


def untrained(params: dict[str, Any], trial: Any) -> None:
    """Stand for the trainable of a replayed sweep, which nobody calls."""
