"""Decide whether a trial whose attempt failed is tried again, and when; choose failed trials to run again by hand."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from sweeper.core.errors import InputError
from sweeper.core.text import format_list
from sweeper.core.trials import Attempt, Failure, FailureKind, TrialRecord

_NOT_COUNTED: tuple[FailureKind, ...] = ("driver", "node")


_RETRIED: tuple[FailureKind, ...] = ("crash", "stall", "io", "memory", "gpu")


_RETRIED_ONCE: tuple[FailureKind, ...] = ("memory", "gpu")
"""A trial that ran out of memory twice needs as much memory the third time."""


MAX_RETRY_DELAY_S = 60.0
"""Longest delay before a trial is retried, in seconds."""


MAX_SAME_FAILURES = 5
"""Number of trials in a row that fail for the same reason before the sweep stops."""


class RetryPolicy:
    """The failed attempts of one sweep; decides on retries, and notices a sweep whose trials all fail alike.

    Failures of the infrastructure (a lost node, an interrupted driver) never count against a trial.

    Args:
        past: the failed attempts by the number of their trial.
        max_failures: failures that a trial may have and still be retried.
    """

    def __init__(self, past: Mapping[int, Sequence[Attempt]], max_failures: int) -> None:
        self._max_failures = max_failures
        self._same_reasons: list[str] = []
        self.uncounted: dict[int, int] = {}
        """Last attempt of a trial before it was put back by hand; failures up to it do not count against the trial."""
        self.waiting: dict[int, float] = {}
        """Trials that wait for another attempt, and the earliest moment of it (time.monotonic)."""
        self.load(past)

    def due(self) -> int | None:
        """Return the number of a trial whose next attempt may start now; None if there is none."""
        now = time.monotonic()
        return next((number for number, moment in self.waiting.items() if moment <= now), None)

    def load(self, past: Mapping[int, Sequence[Attempt]]) -> None:
        """Replace the known attempts by those that the study has recorded."""
        self._failed = {number: list(attempts) for number, attempts in past.items()}

    def of(self, number: int) -> list[Attempt]:
        """Return the failed attempts at a trial, in order."""
        return list(self._failed.get(number, ()))

    def has(self, number: int, attempt: int) -> bool:
        """Return whether this attempt at a trial has failed."""
        return any(past.attempt == attempt for past in self.of(number))

    def lost(self, row: TrialRecord) -> Attempt | None:
        """Return the current attempt at a trial if it was lost with its driver; None if the trial ended or failed."""
        if row.state != "RUNNING" or self.has(row.number, row.attempt):
            return None
        return Attempt(row.attempt, "driver", "the sweep was interrupted", row.step, row.node, datetime.now(UTC))

    def add(self, number: int, attempt: Attempt) -> None:
        """Add one failed attempt at a trial."""
        self._failed.setdefault(number, []).append(attempt)

    def retry_delay(self, number: int, kind: FailureKind) -> float | None:
        """Return the seconds until the trial is retried after one more failure of this kind; None to give it up.

        The delay is 0 for failures of the infrastructure, else 1, 2, 4, ... up to MAX_RETRY_DELAY_S.
        """
        since = self.uncounted.get(number, 0)
        kinds = [past.kind for past in self.of(number) if past.attempt > since] + [kind]
        if kind in _NOT_COUNTED:
            return 0.0
        allowed = min(1, self._max_failures) if kind in _RETRIED_ONCE else self._max_failures
        counted = [past for past in kinds if past == kind or kind not in _RETRIED_ONCE and past in _RETRIED]
        if kind not in _RETRIED or len(counted) > allowed:
            return None
        return min(MAX_RETRY_DELAY_S, 2.0 ** (sum(past not in _NOT_COUNTED for past in kinds) - 1))

    def note_end(self, failure: Failure | None) -> None:
        """Count the end of a trial towards `repeated_failure`.

        Args:
            failure: why the trial failed, None if it did not. To diverge is a result, so it starts the count again too.
        """
        if failure is None or failure.kind == "diverged":
            self._same_reasons = []
        elif self._same_reasons and without_numbers(self._same_reasons[-1]) != without_numbers(failure.reason):
            self._same_reasons = [failure.reason]
        else:
            self._same_reasons.append(failure.reason)

    def repeated_failure(self) -> str | None:
        """Return why the sweep should stop: MAX_SAME_FAILURES trials in a row failed alike. None if it should not."""
        return (
            f"{MAX_SAME_FAILURES} trials in a row failed: {self._same_reasons[-1]}"
            if len(self._same_reasons) >= MAX_SAME_FAILURES
            else None
        )


def without_numbers(reason: str) -> str:
    """Return a reason with its numbers masked, so that reasons compare equal that differ in numbers only."""
    return re.sub(r"\d+(\.\d+)?([eE][+-]?\d+)?", "#", reason)


def missing_metric(metric: str, got: Mapping[str, float]) -> Failure:
    """Return the failure of a trial whose report lacks the objective's metric."""
    near = difflib.get_close_matches(metric, list(got), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Failure("error", f"metric {metric!r} not reported; got: {', '.join(list(got)[:10]) or 'nothing'}.{hint}")


def failed_trials(name: str, rows: Sequence[TrialRecord], wanted: Collection[int] = ()) -> list[int]:
    """Return the numbers of the failed trials of a sweep to run again: the wanted ones, or all of them.

    Raises:
        InputError: a wanted trial does not exist, or has not failed.
    """
    states = {row.number: row.state for row in rows}
    failed = [number for number, state in states.items() if state == "FAIL"]
    only = f"The failed trials are: {format_list([str(number) for number in failed], nothing='none')}"
    for number in wanted:
        if number not in states:
            there = f"its trials are {min(states)} to {max(states)}" if states else "no trial has started"
            raise InputError(f"sweep {name!r} has no trial {number}; {there}. {only}")
        if states[number] != "FAIL":
            state = states[number]
            raise InputError(f"trial {number} of sweep {name!r} is {state}, and only a failed one is run again. {only}")
    return sorted(set(wanted)) or failed


def group_failures(rows: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """Return the failed trials in groups of the same reason, the largest group first; numbers in reasons may differ."""
    groups: dict[str, list[TrialRecord]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        if row.state == "FAIL":
            groups.setdefault(without_numbers(row.reason or "unknown reason"), []).append(row)
    return sorted(groups.values(), key=len, reverse=True)
