"""A virtual clock: workers that train what a search asks for, and what was spent until each trial was trained."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


class Search(Protocol):
    """What the clock asks of a way to search. It knows a trial by its place: a number."""

    def next(self) -> tuple[int, int] | None:
        """Return the trial to train now, and the number of its reports so far; None if there is none at this moment."""

    def report(self, place: int, step: int, value: float) -> bool:
        """Take a report of a trial; return whether it goes on."""

    def fail(self, place: int) -> None:
        """Take note that the training of a trial has diverged."""


class Trials(Protocol):
    """What the clock asks of the trials."""

    @property
    def reports(self) -> int:
        """Number of reports of a full trial."""

    def value(self, place: int, step: int) -> float:
        """Return the value of a report; NaN if the training diverges there."""

    def seconds(self, place: int, step: int, running: int) -> float:
        """Return the seconds that a report takes while so many trials run."""

    def delay(self, place: int, worker: int) -> float:
        """Return the seconds that a worker needs before it trains this trial, which begins or goes on there."""


@dataclass(frozen=True)
class Trained:
    """A trial that was trained to the end: its place, the reports that all had made by then, and the seconds."""

    place: int
    reports: int
    seconds: float


@dataclass(order=True)
class _Running:
    """A trial that a worker trains, and its next report."""

    ends: float
    order: int
    begun: float
    place: int
    step: int
    worker: int


class Clock:
    """Trains the trials that a search asks for on some workers, each of which trains one at a time.

    Args:
        takes: returns how many workers' room a trial takes. By default each takes one.
        least: the smallest of these numbers.
        until: seconds after which everything stops.

    Attributes:
        now: seconds since the start.
        reports: reports that all trials have made.
        idle: worker-seconds without a trial, while one was being trained elsewhere.
        spent: worker-seconds of each trial.
    """

    def __init__(
        self,
        trials: Trials,
        search: Search,
        workers: int,
        *,
        takes: Callable[[int], float] = lambda place: 1.0,
        least: float = 1.0,
        until: float = math.inf,
    ) -> None:
        self.now, self.reports, self.idle = 0.0, 0, 0.0
        self.spent: dict[int, float] = {}
        self._trials, self._search, self._workers = trials, search, workers
        self._takes, self._least, self._until = takes, least, until
        self._busy: list[_Running] = []
        self._waiting: tuple[int, int] | None = None
        self._resting: list[int] = []  # workers without a trial; the last one to rest is the first to work
        self._count, self._order, self._running = 0, 0, workers

    def run(self) -> Iterator[Trained]:
        """Yield each trial when it has been trained to the end."""
        while True:
            self._hand_out()
            if not self._busy:
                return
            before, one = self.now, heapq.heappop(self._busy)
            self.now = min(one.ends, self._until)
            self.idle += (self._workers - len(self._busy) - 1) * (self.now - before)
            self._spend(one)
            if one.ends > self._until:
                for other in self._busy:
                    self._spend(other)
                return
            self.reports += 1
            value = self._trials.value(one.place, one.step)
            goes_on = not math.isnan(value) and self._search.report(one.place, one.step, value)
            if math.isnan(value):
                self._search.fail(one.place)
            elif one.step == self._trials.reports:
                self._resting.append(one.worker)
                yield Trained(one.place, self.reports, self.now)
                continue
            if goes_on:
                self._train(one.place, one.step + 1, one.worker, 0.0)
            else:
                self._resting.append(one.worker)

    def _hand_out(self) -> None:
        """Begin or continue trials while there is room. One that has no room yet waits, and the others behind it."""
        while self._waiting is not None or self._free() >= self._least:
            task = self._waiting = self._waiting or self._search.next()
            if task is None or self._takes(task[0]) > self._free():
                break
            self._waiting = None
            worker = self._resting.pop() if self._resting else self._count
            self._count = max(self._count, worker + 1)
            self._train(task[0], task[1] + 1, worker, self._trials.delay(task[0], worker))
        self._running = len(self._busy)

    def _free(self) -> float:
        return self._workers - sum(self._takes(one.place) for one in self._busy) + 1e-9

    def _train(self, place: int, step: int, worker: int, delay: float) -> None:
        running = max(self._running, len(self._busy) + 1)
        ends = self.now + delay + self._trials.seconds(place, step, running)
        heapq.heappush(self._busy, _Running(ends, self._order, self.now, place, step, worker))
        self._order += 1

    def _spend(self, one: _Running) -> None:
        self.spent[one.place] = self.spent.get(one.place, 0.0) + max(0.0, self.now - one.begun)
