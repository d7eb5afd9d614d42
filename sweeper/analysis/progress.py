"""Progress of a running sweep from the events that its listeners get, and for how long trials have run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sweeper.analysis.estimate import MIN_ENDED, Effort, seconds_left
from sweeper.analysis.trials import as_seen, cut_reason, ending, position, seed_of
from sweeper.core.text import clean, duration, format_list, metric, span
from sweeper.core.trials import best_trial

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.search.spending import Spending
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

SETTLED_S = 2.0
"""Seconds without a trial that started or ended, after which a worker without one has nothing left to do."""

ESTIMATE_INTERVAL_S = 5.0
"""Interval between two estimates of the time left; in between the last one is counted down."""


class Progress:
    """Trials of a running sweep: their states, the best one, the work done, and the time left."""

    def __init__(self, sweep: Sweep, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.sweep = sweep
        self.full = sweep.budget.reports
        self.limit = sweep.trial_limit
        self.rows: dict[int, TrialRecord] = {}
        self.fresh: dict[int, TrialRecord] = {}
        """The runs with fresh seeds that confirm the best trials; nothing else counts them."""
        self.best: TrialRecord | None = None
        self._clock = clock
        self._began = clock()
        self._times: dict[int, tuple[float, float]] = {}  # of each running trial: its start and its last report
        self._reports_seen = 0
        self._efforts: dict[int, Effort] = {}  # of each trial that has ended
        self._spending = sweep.spending()
        self._workers = 0
        self._changed = self._began  # when the last trial started or ended
        self._done = 0
        self._estimate: tuple[float, tuple[float, float] | None] | None = None

    def record(self, row: TrialRecord, report: Report | None) -> str | None:
        """Record an event of the study; return a line about the trial if it ran here and has ended now."""
        if row.confirms is not None:
            return self._record_fresh(row)
        known = self.rows.get(row.number)
        self.rows[row.number] = row
        now = self._clock()
        _note(self._spending, row)
        if report is None or row.state != "RUNNING":
            self._changed = now
        if row.state == "RUNNING":
            begun, last = self._times.get(row.number, (now, now))
            if known is None or known.attempt != row.attempt:  # this attempt starts now
                begun, last = now - row.spent, now
            self._times[row.number] = begun, last if report is None else now
            self._workers = max(self._workers, len(self._times))
            self._reports_seen += report is not None
            return None
        times = self._times.pop(row.number, None)
        if not row.is_added:
            self._efforts[row.number] = Effort(row.step, now - times[0] if times else row.seconds or 0.0)
        if row.state == "COMPLETE":
            self.best = best_trial([row] if self.best is None else [self.best, row], self.sweep.objective.direction)
        if known is None or known.state == row.state:
            return None
        if row.state == "FAIL" or row.is_paused:
            return ending(row, self.sweep)
        ended = self.ended() - sum(other.is_paused for other in self.rows.values())
        return f"{ending(row, self.sweep)}; {ended} of {self.trials} ended{self.best_so_far()}"

    def _record_fresh(self, row: TrialRecord) -> str | None:
        """Record an event of a fresh run; return a line if it begins or ends now."""
        known = self.fresh.get(row.number)
        self.fresh[row.number] = row
        _note(self._spending, row)
        is_new = known is None or (known.state, known.attempt) != (row.state, row.attempt)
        if not is_new or (known is None and row.state != "RUNNING"):
            return None
        if row.state == "RUNNING":
            return f"confirming {seed_of(row, self.sweep)}"
        if row.state != "COMPLETE":
            return f"{seed_of(row, self.sweep)} {row.state.lower()}: {cut_reason(row.reason or 'unknown reason')}"
        return f"{seed_of(row, self.sweep)}: {clean(self.sweep.objective.metric)} {metric(row.value)}"

    def confirming(self) -> list[TrialRecord]:
        """Return the fresh runs that have not ended."""
        return [row for row in self.fresh.values() if row.state == "RUNNING"]

    def attach(self, rows: Iterable[TrialRecord], seconds: float) -> None:
        """Begin with the trials of a run that another process began so many seconds ago."""
        now, moment = self._clock(), datetime.now(UTC)
        self._began = now - seconds
        for row in rows:
            self.record(row, None)
            if row.state == "RUNNING" and (begun := row.resumed or row.started):
                ran = row.spent + max(0.0, (moment - begun).total_seconds())
                self._times[row.number] = now - ran, now
                self._reports_seen += row.step

    @property
    def trials(self) -> int:
        """Number of trials in all. An earlier run may have made more of them than the budget has now."""
        return max(self.limit, len(self.rows))

    def running(self) -> list[TrialRecord]:
        return [row for row in self.rows.values() if row.state == "RUNNING"]

    def counts(self, *, has_ended: bool = False) -> dict[str, int]:
        """Return the number of trials in each state; once the run has ended, those it left are INTERRUPTED."""
        return Counter(row.state for row in as_seen(self.rows.values(), is_running=not has_ended))

    def ended(self) -> int:
        return len(self.rows) - len(self.running())

    def elapsed(self) -> float:
        return self._clock() - self._began

    def share(self) -> float:
        """Return the trials that have ended, and the parts of those that run, as a share of all. It never falls."""
        return self._reports_done() / max(1, self.trials * self.full)

    def done(self) -> str:
        """Describe the share in trials: 20.4 of 24 trials. Each report changes it, up to a hundred a trial."""
        digits = 1 if self.full <= 10 else 2
        hundreds = self._reports_done() * 10**digits // self.full
        has_whole = self.full == 1 or self._reports_done() == self.trials * self.full
        count = f"{hundreds // 10**digits}" if has_whole else f"{hundreds / 10**digits:.{digits}f}"
        return f"{count} of {self.trials} trials"

    def seconds_left(self) -> tuple[float, float] | None:
        """Estimate within which seconds from now all trials end; None before there is enough to go by.

        The timeout, if there is one, ends the range.
        """
        now = self._clock()
        if self._estimate is None or now - self._estimate[0] >= ESTIMATE_INTERVAL_S:
            self._estimate = now, self._estimated()
        made, found = self._estimate
        if found is None or self.ended() == self.trials:
            return None
        timeout = self.sweep.budget.timeout
        most = float("inf") if timeout is None else max(0.0, timeout - self.elapsed())
        low, high = (min(most, max(0.0, seconds - (now - made))) for seconds in found)
        return low, high

    def summary(self, *, has_ended: bool = False) -> str:
        """Describe the work done, the time elapsed and the time left in one line."""
        left = None if has_ended else self.seconds_left()
        rest = f", about {span(*left)} left".replace("about less", "less") if left and left[1] > 0 else ""
        return f"{self.done()}, {duration(int(self.elapsed()))} elapsed{rest}"

    def waits_for(self) -> str:
        """Name the last trials, and how long they may take, once workers have nothing else to do; empty before."""
        running, now = self.running(), self._clock()
        if not 0 < len(running) < self._workers or len(self.rows) < self.limit or now - self._changed < SETTLED_S:
            return ""
        left = 0.0
        for row in running:
            begun, last = self._times[row.number]
            pace = (last - begun) / row.step if row.step else float("inf")
            left = max(left, (self.full - row.step) * pace - (now - last))
        which = format_list([f"{row.number} ({position(row, self.sweep)})" for row in running])
        long = f", for up to {duration(math.ceil(left))}" if 0 < left < float("inf") else ""
        return f"waits for trial{'s' * (len(running) > 1)} {which}{long}"

    def confirms(self) -> str:
        """Say which of the best trials are trained again now; empty if none is."""
        running = [seed_of(row, self.sweep) for row in self.confirming()]
        ended = len(self.fresh) - len(running)
        return f"confirming {'; '.join(running)} ({ended} runs have ended)" if running else ""

    def used(self) -> str:
        """Say what is used of the budget's limits in hours or money; empty without one."""
        return ", ".join(f"{amount} used" for amount in self._spending.amounts())

    def best_so_far(self) -> str:
        """Describe the best trial, as the end of a line; empty if there is none."""
        return f"; best {metric(self.best.value)} (trial {self.best.number})" if self.best else ""

    def _reports_done(self) -> int:
        """Return the reports of all trials, where one that has ended counts as made in full, however early it ended."""
        running = sum(min(row.step, self.full) for row in self.running())
        self._done = max(self._done, self.ended() * self.full + running)
        return self._done

    def _estimated(self) -> tuple[float, float] | None:
        """Return the estimate at this moment; None before each worker has shown its pace, or too few trials ended."""
        to_come = max(0, self.limit - len(self.rows))
        if self._reports_seen <= self._workers:
            return None
        if self.sweep.chosen_pruner.type != "none" and to_come and len(self._efforts) < MIN_ENDED:
            return None
        now = self._clock()
        running = []
        for number, (begun, last) in self._times.items():
            running.append(Effort(self.rows[number].step, last - begun, now - last))
        ended = list(self._efforts.values())
        how = {"to_come": to_come, "workers": self._workers, "full": self.full}
        return seconds_left(ended, running, **how, may_end_early=self.sweep.chosen_pruner.type != "none")


def active_seconds(study: StudyView, moments: Iterable[float] = ()) -> list[float]:
    """Return for how many seconds at least one trial of a sweep ran until each moment, and in all as the last number.

    Args:
        moments: Unix times.
    """
    merged: list[tuple[float, float]] = []
    for begun, end in sorted(_spans(study)):
        if merged and begun <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begun, end))

    def until(moment: float) -> float:
        return sum(max(0.0, min(end, moment) - begun) for begun, end in merged)

    return [until(moment) for moment in (*moments, float("inf"))]


def _spans(study: StudyView) -> Iterator[tuple[float, float]]:
    """Yield when attempts of trials began and ended."""
    for row in study.rows():
        if row.started is None or row.is_added:
            continue
        begun = (row.resumed or row.started).timestamp()
        if row.resumed:  # of the attempts before, only the sum of their times is known
            yield row.started.timestamp(), row.started.timestamp() + row.spent
        if row.ended is not None:
            end = row.ended.timestamp()
        elif study.is_running:
            end = time.time()
        else:
            end = max((report.time for report in study.reports(row.number)), default=begun)
        yield begun, max(begun, end)


def trial_seconds(row: TrialRecord, moment: float) -> float:
    """Return for how long a trial had run at a moment, without the time between its attempts."""
    begun = row.resumed or row.started
    if begun is None:
        return 0.0
    if row.resumed is not None and moment < row.resumed.timestamp() and row.started is not None:
        return min(row.spent, max(0.0, moment - row.started.timestamp()))
    return row.spent + max(0.0, moment - begun.timestamp())


def _note(spending: Spending, row: TrialRecord) -> None:
    """Note what a trial has used. One that runs and has a reason was left to a later run, with a larger budget."""
    was_left = row.state == "RUNNING" and row.reason is not None
    spending.settle(row) if was_left else spending.note(row)
