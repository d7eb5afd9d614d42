"""When the workers of a sweep were busy, and when they were idle, as plain values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.core.trials import Attempt, Report, TrialRecord

MIN_GAP_SHARE = 0.01
"""Share of the whole time below which a gap between two trials is not counted as idle: no eye sees it."""

MIN_PAUSE = timedelta(seconds=30)
"""Shortest time without any trial that counts as a pause of the sweep, and not as idle time of its workers."""


@dataclass(frozen=True)
class Span:
    """A time in which a worker ran one attempt at a trial; `state` is the trial's at the end of it."""

    number: int
    attempt: int
    state: str
    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True)
class Lane:
    """A worker slot of a node: a place for one trial at a time. Slots of a node are numbered from 1."""

    node: str
    slot: int
    spans: tuple[Span, ...]
    gaps: tuple[tuple[datetime, datetime], ...]

    @property
    def busy(self) -> float:
        """Seconds in which it ran a trial."""
        return sum(span.seconds for span in self.spans)

    @property
    def idle(self) -> float:
        """Seconds in which it ran none, between the first trial of the sweep and the last."""
        return sum((end - start).total_seconds() for start, end in self.gaps)


@dataclass(frozen=True)
class Bar:
    """Attempts that ran one after the other in a lane, each too short to be seen alone; mostly a single one.

    Attributes:
        state: that of the longest time.
    """

    state: str
    spans: tuple[Span, ...]

    @property
    def start(self) -> datetime:
        return self.spans[0].start

    @property
    def end(self) -> datetime:
        return self.spans[-1].end

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Bar:
        seconds: defaultdict[str, float] = defaultdict(float)
        for span in spans:
            seconds[span.state] += span.seconds
        return cls(max(seconds, key=lambda state: seconds[state]), tuple(spans))


def bars_of(lane: Lane, shortest: timedelta) -> list[Bar]:
    """Return the bars of a lane; attempts that are shorter than `shortest` together are one."""
    groups: list[list[Span]] = []
    for span in lane.spans:
        if groups and span.end - groups[-1][0].start < shortest:
            groups[-1].append(span)
        else:
            groups.append([span])
    return [Bar.of(group) for group in groups]


def sample_lanes(lanes: Sequence[Lane], most: int) -> list[Lane]:
    """Return at most so many lanes in their order, from as many nodes as possible."""
    first = sorted(range(len(lanes)), key=lambda place: (lanes[place].slot, place))[:most]
    return [lanes[place] for place in sorted(first)]


@dataclass(frozen=True)
class Timeline:
    """The lanes of a sweep from its first trial to its last one.

    Attributes:
        pauses: times in which no trial ran at all, as between two runs of the sweep; they are no one's idle time.
    """

    lanes: tuple[Lane, ...]
    start: datetime | None
    end: datetime | None
    pauses: tuple[tuple[datetime, datetime], ...]


def timeline_of(
    rows: Sequence[TrialRecord],
    attempts: Mapping[int, Sequence[Attempt]],
    reports: Mapping[int, Sequence[Report]],
    *,
    now: datetime | None = None,
) -> Timeline:
    """Return the timeline of a sweep.

    Which process ran a trial is not recorded, only its node. So each trial is put into the lane of its node that became
    free last; there are as many lanes as trials ran there at a time.

    Args:
        now: the end of the trials that still run; None if no process runs the sweep: they end with their last report.
    """
    spans = sorted(
        ((node, span) for row in rows for node, span in _spans(row, attempts.get(row.number, ()), reports, now)),
        key=lambda entry: (entry[1].start, entry[1].number),
    )
    if not spans:
        return Timeline((), None, None, ())
    start, end = spans[0][1].start, max(span.end for _, span in spans)
    shortest = (end - start) * MIN_GAP_SHARE
    pauses = _free_times([span for _, span in spans], start, end, max(shortest, MIN_PAUSE))
    lanes: defaultdict[str, list[list[Span]]] = defaultdict(list)
    for node, span in spans:
        free = [lane for lane in lanes[node] if lane[-1].end <= span.start]
        if free:
            max(free, key=lambda lane: lane[-1].end).append(span)
        else:
            lanes[node].append([span])
    found = []
    for node in sorted(lanes, key=_natural):
        for slot, lane in enumerate(lanes[node], 1):
            gaps = [gap for free in _free_times(lane, start, end, shortest) for gap in _without(free, pauses)]
            found.append(Lane(node, slot, tuple(lane), tuple(gap for gap in gaps if gap[1] - gap[0] > shortest)))
    return Timeline(tuple(found), start, end, tuple(pauses))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts node-2 before node-10."""
    parts = re.split(r"(\d{1,18})", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _spans(
    row: TrialRecord, failed: Sequence[Attempt], reports: Mapping[int, Sequence[Report]], now: datetime | None
) -> list[tuple[str, Span]]:
    """Return the node and the time of each attempt at a trial, as far as they are recorded.

    An attempt that followed a failed one began about when that one ended; of one that was interrupted, the last report
    is known.
    """
    if row.started is None or row.is_added:
        return []
    last = [datetime.fromtimestamp(report.time, UTC) for report in reports.get(row.number, ())]
    found, begun = [], row.started
    before = sorted((each for each in failed if each.attempt < row.attempt), key=lambda each: each.attempt)
    for attempt in before:
        state = "INTERRUPTED" if attempt.kind == "driver" else "FAIL"
        seen = [moment for moment in last if begun <= moment <= attempt.ended]
        # The failure of an interrupted attempt is recorded when the sweep is resumed, which may be days later.
        end = (seen[-1] if seen else begun) if attempt.kind == "driver" else attempt.ended
        found.append((attempt.node or "?", Span(row.number, attempt.attempt, state, begun, end)))
        begun = attempt.ended
    begun = row.resumed or begun
    end = row.ended or now or max([begun, *last])
    found.append((row.node or "?", Span(row.number, row.attempt, row.state, begun, end)))
    return [(node, replace(span, end=max(span.start, span.end))) for node, span in found]


def _free_times(
    spans: Sequence[Span], start: datetime, end: datetime, shortest: timedelta
) -> list[tuple[datetime, datetime]]:
    """Return the times between `start` and `end` in which none of these spans lies, longer than `shortest`."""
    found, free_from = [], start
    for span in sorted(spans, key=lambda span: span.start):
        if span.start - free_from > shortest:
            found.append((free_from, span.start))
        free_from = max(free_from, span.end)
    return [*found, (free_from, end)] if end - free_from > shortest else found


def _without(
    free: tuple[datetime, datetime], pauses: Sequence[tuple[datetime, datetime]]
) -> list[tuple[datetime, datetime]]:
    """Cut the pauses out of a time."""
    parts, begun = [], free[0]
    for start, end in pauses:
        if begun < end and start < free[1]:
            if start > begun:
                parts.append((begun, start))
            begun = end
    return [*parts, (begun, free[1])] if begun < free[1] else parts
