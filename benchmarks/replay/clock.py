"""A virtual clock: workers that train rows of a table, and what was spent until each was trained to the end."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.replay.search import Search
from benchmarks.replay.table import Table


@dataclass(frozen=True)
class Trained:
    """A row that was trained to the end: its place, the reports that all rows had made by then, and the seconds."""

    place: int
    reports: int
    seconds: float


class Clock:
    """Trains the rows that a search asks for on some workers, each of which trains one row at a time.

    Attributes:
        reports: reports that all rows have made.
        idle: worker-seconds without a row, while a row was being trained elsewhere.
    """

    def __init__(self, table: Table, search: Search, workers: int) -> None:
        self.reports, self.idle = 0, 0.0
        self._table, self._search, self._workers = table, search, workers

    def run(self) -> Iterator[Trained]:
        """Yield each row when it has been trained to the end."""
        now, order = 0.0, 0
        busy: list[tuple[float, int, int, int]] = []
        while True:
            while len(busy) < self._workers and (task := self._search.next()) is not None:
                heapq.heappush(busy, (now + self._table.rows[task[0]].seconds, order, task[0], task[1] + 1))
                order += 1
            if not busy:
                return
            before = now
            now, _, place, step = heapq.heappop(busy)
            self.idle += (self._workers - len(busy) - 1) * (now - before)
            self.reports += 1
            row = self._table.rows[place]
            if math.isnan(value := row.curve[step - 1]):
                self._search.fail(place)
                continue
            goes_on = self._search.report(place, step, value)
            if step == self._table.reports:
                yield Trained(place, self.reports, now)
            elif goes_on:
                heapq.heappush(busy, (now + row.seconds, order, place, step + 1))
                order += 1
