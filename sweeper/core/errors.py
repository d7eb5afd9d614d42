"""The errors sweeper raises, and the exit code of each.

SweeperError                 1   any error that sweeper explains in one message
├── InputError               2   the user's input is wrong; nothing was started
│   ├── SpecError            2   a sweep file is wrong: all problems at once, each with its position
│   ├── OpenClusterError     2   a remote Ray cluster accepts commands from anyone who can reach it
│   ├── SweepBusyError       2   another running process owns the sweep
│   └── ResourceError        2   no machine can ever run one trial of this sweep
├── DatasetError             2   data is missing, damaged, or does not match its checksum
├── StorageError            74   the study's database or the sweep's folder cannot be read or written
├── LeaseLostError           1   another process has taken over the sweep
├── StoppedError                 the sweep was stopped while it waited for its database (130, 143, or 0: StopReason)
├── BackendError            69   the cluster of a submitted sweep cannot be reached or refuses a request
├── CapacityError           75   for a long time no node of the cluster could run the remaining trials
└── TrackingError           69   MLflow cannot be reached or refuses a request

Inside a worker only:
TrialDivergedError               a metric became NaN or infinite: the trial is FAIL, with the epoch
TrialStopped                     raised by Trial.report() when the trial has to end; derives from BaseException
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class SweeperError(Exception):
    """Root of all errors that sweeper explains. Its text is one message for the user."""

    exit_code = 1


class InputError(SweeperError):
    """The user's input cannot be accepted. Nothing was started or created."""

    exit_code = 2


@dataclass(frozen=True)
class LocatedProblem:
    """One problem of a sweep file: its key and position, and a message with the value, the rule and a proposal."""

    key: str
    message: str
    line: int | None = None
    column: int | None = None

    def render(self, source: str) -> str:
        """Return the problem as one line that begins with its position in `source`."""
        place = ":".join(str(part) for part in (source, self.line, self.column) if part is not None)
        return f"{place}  {self.key}: {self.message}" if self.key else f"{place}  {self.message}"


class SpecError(InputError):
    """A sweep file with problems, in the order of the file; the message lists the first `MAX_LISTED` of them."""

    MAX_LISTED = 20

    def __init__(self, source: str, problems: Sequence[LocatedProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = [problem.render(source) for problem in self.problems[: self.MAX_LISTED]]
        if len(self.problems) > self.MAX_LISTED:
            more = len(self.problems) - self.MAX_LISTED
            lines.append(f"{source}  and {more if len(self.problems) < 100 else 'many'} more problems")
        super().__init__("\n".join(lines))


class OpenClusterError(InputError):
    """A Ray cluster on another machine accepts commands from anyone who can reach it."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the Ray cluster at {address} accepts requests without a token, so anyone who can reach it can run code "
            "there. Start it with RAY_AUTH_MODE=token "
            "(https://docs.ray.io/en/latest/ray-security/token-auth.html), or pass --insecure"
        )


class SweepBusyError(InputError):
    """Another running process owns the sweep."""


class ResourceError(InputError):
    """One trial requests more than any machine of the cluster has."""


class DatasetError(SweeperError):
    """A dataset is missing, damaged, or does not match its published checksum. No trial was started."""

    exit_code = 2


class StorageError(SweeperError):
    """The study's database or the sweep's folder cannot be opened, read or written."""

    exit_code = 74


class LeaseLostError(SweeperError):
    """Another process has become the owner of the sweep. This process writes nothing more."""


class StopReason(Enum):
    """The reason why a sweep ends before all of its trials. The value is the word for people and documents."""

    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    TIMEOUT = "timeout"
    BUDGET = "budget used"
    COMMAND = "stopped"
    REPEATED_FAILURE = "repeated failure"

    @property
    def exit_code(self) -> int:
        """Exit code of a sweep that ends for this reason; 0 where the user asked for it in advance."""
        return _STOP_EXIT_CODES[self]


_STOP_EXIT_CODES = {
    StopReason.INTERRUPTED: 130,
    StopReason.TERMINATED: 143,
    StopReason.TIMEOUT: 0,
    StopReason.BUDGET: 0,
    StopReason.COMMAND: 0,
    StopReason.REPEATED_FAILURE: 1,
}


class StoppedError(SweeperError):
    """The sweep was stopped while it waited for its database. The exit code is that of the reason."""

    def __init__(self, reason: StopReason, message: str) -> None:
        super().__init__(f"{reason.value} while {message}")
        self.exit_code = reason.exit_code


class CapacityError(SweeperError):
    """For a long time no node of the cluster could run any of the remaining trials."""

    exit_code = 75


class TrackingError(SweeperError):
    """MLflow cannot be reached, or refuses a request."""

    exit_code = 69


class BackendError(SweeperError):
    """The cluster of a submitted sweep cannot be reached, or refuses a request."""

    exit_code = 69


class TrialDivergedError(Exception):
    """A metric of a trial is NaN or infinite."""


class TrialStopped(BaseException):
    """The trial has to end now.

    Derives from BaseException, like GeneratorExit, so that a trainable's own `except Exception` does not catch it.
    """
