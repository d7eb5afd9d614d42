"""Decide whether a trial whose attempt failed is tried again, and when."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from sweeper.core.trials import Attempt, Failure, FailureKind

_NOT_COUNTED: tuple[FailureKind, ...] = ("driver", "node")


_RETRIED: tuple[FailureKind, ...] = ("crash", "stall", "io", "memory", "gpu")


_RETRIED_ONCE: tuple[FailureKind, ...] = ("memory", "gpu")
"""What ran out of memory twice will not need less of it the third time."""


MAX_RETRY_DELAY_S = 60.0


MAX_SAME_FAILURES = 5
"""Trials that may fail one after the other for one and the same reason; then the sweep stops."""


class RetryPolicy:
    """The attempts of one sweep that failed, and what follows from them."""

    def __init__(self, past: Mapping[int, Sequence[Attempt]], max_failures: int) -> None:
        self._max_failures = max_failures
        self._alike: list[str] = []
        self.load(past)

    def load(self, past: Mapping[int, Sequence[Attempt]]) -> None:
        """Take what is on record for what has been."""
        self._failed = {number: list(attempts) for number, attempts in past.items()}

    def of(self, number: int) -> list[Attempt]:
        """The failed attempts at a trial, in order."""
        return list(self._failed.get(number, ()))

    def all(self) -> dict[int, list[Attempt]]:
        """The failed attempts by the number of their trial."""
        return {number: list(attempts) for number, attempts in self._failed.items()}

    def has(self, number: int, attempt: int) -> bool:
        """Whether this attempt at a trial is known to have failed."""
        return any(past.attempt == attempt for past in self.of(number))

    def add(self, number: int, attempt: Attempt) -> None:
        self._failed.setdefault(number, []).append(attempt)

    def retry_delay(self, number: int, kind: FailureKind) -> float | None:
        """Seconds until the trial is tried again after one more failure of this kind; None: it is not.

        No wait after what is nobody's fault, else 1, 2, 4, ... up to a minute.
        """
        kinds = [past.kind for past in self.of(number)] + [kind]
        if kind in _NOT_COUNTED:
            return 0.0
        allowed = min(1, self._max_failures) if kind in _RETRIED_ONCE else self._max_failures
        counted = [past for past in kinds if past == kind or kind not in _RETRIED_ONCE and past in _RETRIED]
        if kind not in _RETRIED or len(counted) > allowed:
            return None
        return min(MAX_RETRY_DELAY_S, 2.0 ** (sum(past not in _NOT_COUNTED for past in kinds) - 1))

    def note_end(self, failure: Failure | None) -> None:
        """A trial ended, by this failure if by any; that some diverge is a finding, and no trouble."""
        if failure is None or failure.kind == "diverged":
            self._alike = []
        elif self._alike and without_numbers(self._alike[-1]) != without_numbers(failure.reason):
            self._alike = [failure.reason]
        else:
            self._alike.append(failure.reason)

    def repeated_failure(self) -> str | None:
        """Why going on is of no use: trials fail one after the other, all for the same reason."""
        return (
            f"{MAX_SAME_FAILURES} trials in a row failed: {self._alike[-1]}"
            if len(self._alike) >= MAX_SAME_FAILURES
            else None
        )


def without_numbers(reason: str) -> str:
    """What two reasons have in common that differ in numbers only."""
    return re.sub(r"\d+(\.\d+)?([eE][+-]?\d+)?", "#", reason)


def missing_metric(metric: str, got: Mapping[str, float]) -> Failure:
    """The failure of a trial that reported, but not the metric of the objective."""
    near = difflib.get_close_matches(metric, list(got), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Failure("error", f"metric {metric!r} not reported; got: {', '.join(list(got)[:10]) or 'nothing'}.{hint}")
