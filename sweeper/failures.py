"""Why an attempt at a trial ended before the trial did, and whether another one follows.

What the surroundings do to a trial (its node goes, its driver dies) is not its fault and never counts. What may go
better the next time (a worker that died or hung, a file system or network that refused) is tried again, a little later
each time. What will go wrong again (an import, a shape, a diverging loss) is not.
"""

from __future__ import annotations

import builtins
import difflib
import re
from collections.abc import Mapping, Sequence

from sweeper.core.trials import Attempt, Failure, Kind
from sweeper.worker.runner import kind_of

_FREE: tuple[Kind, ...] = ("driver", "node")


_REPEATED: tuple[Kind, ...] = ("crash", "stall", "io", "memory", "gpu")


_ONCE: tuple[Kind, ...] = ("memory", "gpu")
"""What ran out of memory twice will not need less of it the third time."""


LONGEST_WAIT = 60.0


IN_A_ROW = 5
"""Trials that may fail one after the other for one and the same reason; then the sweep stops."""


LOST = Failure("node", "its node was lost")


OUT_OF_TOUCH = Failure("crash", "its worker could not be reached")
"""Perhaps its node is lost, which Ray does not know at once."""


class History:
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

    def wait_after(self, number: int, kind: Kind) -> float | None:
        """Seconds until the trial is tried again after one more failure of this kind; None: it is not.

        No wait after what is nobody's fault, else 1, 2, 4, ... up to a minute.
        """
        kinds = [past.kind for past in self.of(number)] + [kind]
        if kind in _FREE:
            return 0.0
        allowed = min(1, self._max_failures) if kind in _ONCE else self._max_failures
        counted = [past for past in kinds if past == kind or kind not in _ONCE and past in _REPEATED]
        if kind not in _REPEATED or len(counted) > allowed:
            return None
        return min(LONGEST_WAIT, 2.0 ** (sum(past not in _FREE for past in kinds) - 1))

    def note_end(self, failure: Failure | None) -> None:
        """A trial ended, by this failure if by any; that some diverge is a finding, and no trouble."""
        if failure is None or failure.kind == "diverged":
            self._alike = []
        elif self._alike and likeness(self._alike[-1]) != likeness(failure.reason):
            self._alike = [failure.reason]
        else:
            self._alike.append(failure.reason)

    def hopeless(self) -> str | None:
        """Why going on is of no use: trials fail one after the other, all for the same reason."""
        return f"{IN_A_ROW} trials in a row failed: {self._alike[-1]}" if len(self._alike) >= IN_A_ROW else None


def likeness(reason: str) -> str:
    """What two reasons have in common that differ in numbers only."""
    return re.sub(r"\d+(\.\d+)?([eE][+-]?\d+)?", "#", reason)


def lost_worker(text: str) -> Failure:
    """The failure that Ray describes when a worker is gone: it died, its node did, or it could not even start."""
    _, started, tail = text.rpartition("in its creation task")
    if started:
        return _could_not_start(tail)
    if re.search(r"node has died|node was (preempted|terminated)|node preemption|by preemption", text):
        return LOST
    # Ray guesses at the out-of-memory killer of the system whenever a worker dies; this is its own.
    if re.search(r"memory pressure|running low on memory", text):
        return Failure("memory", "its worker was killed: the node ran out of memory")
    return OUT_OF_TOUCH if "is unavailable:" in text else Failure("crash", "its worker died")


def _could_not_start(text: str) -> Failure:
    """What ended the start of a worker: an exception of the code that it runs, which comes again, or something else."""
    after = text.rpartition('  File "')[2].splitlines()[1:]
    said = next((line for line in after if line and not line.startswith(" ")), "")
    name = said.partition(":")[0]
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name) or name.startswith("ray."):
        return Failure("crash", f"its worker died while it started ({said or 'no word why'})")
    error = getattr(builtins, name, None)
    kind = kind_of(error()) if isinstance(error, type) and issubclass(error, (OSError, MemoryError)) else "error"
    return Failure(kind, f"its worker could not start ({said})")


def unreported(metric: str, got: Mapping[str, float]) -> Failure:
    """The failure of a trial that reported, but not the metric of the objective."""
    near = difflib.get_close_matches(metric, list(got), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Failure("error", f"metric {metric!r} not reported; got: {', '.join(list(got)[:10]) or 'nothing'}.{hint}")
