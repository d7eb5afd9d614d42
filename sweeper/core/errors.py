"""The errors sweeper raises, and the exit code of each.

SweeperError                 1   anything sweeper explains in one message
├── InputError               2   what the user wrote is wrong; nothing was started
│   ├── SpecError            2   a sweep file: every fault at once, each with its place
│   ├── OpenClusterError     2   a Ray cluster elsewhere takes commands from anyone who can reach it
│   ├── SweepBusyError       2   the sweep is owned by another running process
│   └── ResourceError        2   no machine can ever run one trial of this sweep
├── DatasetError             1   data is damaged or not what its checksum says (2 if it is missing)
├── StorageError            74   the study's database or the sweep's folder cannot be read or written
├── LeaseLostError           1   another process has taken the sweep over
├── StoppedError                 the sweep was stopped while it waited for its database (130, 143, or 0: StopReason)
├── BackendError            69   where a sweep is to run, or runs, cannot be reached or refuses
├── CapacityError           75   for a long time no node of the cluster could run the trials that are left
└── TrackingError           69   MLflow cannot be reached or refuses

Inside a worker only:
TrialDivergedError               a metric became NaN or infinite: the trial is FAIL, with the epoch
TrialStopped                     raised by Trial.report() when the trial is to end; derives from BaseException
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class SweeperError(Exception):
    """Root of all errors that sweeper explains; its text is one message for the user."""

    exit_code = 1


class InputError(SweeperError):
    """Something the user wrote cannot be accepted; nothing was started or created."""

    exit_code = 2


@dataclass(frozen=True)
class LocatedProblem:
    """One fault of a sweep file: where it is, what was seen, the rule, and a proposal."""

    key: str
    message: str
    line: int | None = None
    column: int | None = None

    def render(self, source: str) -> str:
        place = ":".join(str(part) for part in (source, self.line, self.column) if part is not None)
        return f"{place}  {self.key}: {self.message}" if self.key else f"{place}  {self.message}"


class SpecError(InputError):
    """A sweep file with faults; all of them (at most 20 are printed), in the order of the file."""

    LIMIT = 20

    def __init__(self, source: str, problems: Sequence[LocatedProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = [problem.render(source) for problem in self.problems[: self.LIMIT]]
        if len(self.problems) > self.LIMIT:
            more = len(self.problems) - self.LIMIT
            lines.append(f"{source}  and {more if len(self.problems) < 100 else 'many'} more problems")
        super().__init__("\n".join(lines))


class OpenClusterError(InputError):
    """A Ray cluster on another machine takes commands from anyone who can reach it."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the Ray cluster at {address} accepts requests without a token, so anyone who can reach it can run code "
            "there. Start it with RAY_AUTH_MODE=token "
            "(https://docs.ray.io/en/latest/ray-security/token-auth.html), or pass --insecure"
        )


class SweepBusyError(InputError):
    """Another process owns the sweep."""


class ResourceError(InputError):
    """One trial asks for more than any machine of the cluster has."""


class DatasetError(SweeperError):
    """A dataset is missing, damaged, or differs from its published checksum."""


class StorageError(SweeperError):
    """The study's database, or the folder of the sweep, cannot be opened, read or written."""

    exit_code = 74


class LeaseLostError(SweeperError):
    """Another process has become the owner of the sweep; this one writes nothing any more."""


class StopReason(Enum):
    """Why a sweep ends before its trials do. The value is the word for people and documents."""

    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    TIMEOUT = "timeout"
    COMMAND = "stopped"
    REPEATED_FAILURE = "repeated failure"

    @property
    def exit_code(self) -> int:
        """The exit code of a sweep that ends for this reason; 0 where the user asked for it beforehand."""
        return _STOP_EXIT_CODES[self]


_STOP_EXIT_CODES = {
    StopReason.INTERRUPTED: 130,
    StopReason.TERMINATED: 143,
    StopReason.TIMEOUT: 0,
    StopReason.COMMAND: 0,
    StopReason.REPEATED_FAILURE: 1,
}


class StoppedError(SweeperError):
    """The sweep was stopped while it waited for its database; the exit code is that of the reason."""

    def __init__(self, reason: StopReason, message: str) -> None:
        super().__init__(f"{reason.value} while {message}")
        self.exit_code = reason.exit_code


class CapacityError(SweeperError):
    """For a long time no node of the cluster could run any of the trials that are left."""

    exit_code = 75


class TrackingError(SweeperError):
    """MLflow cannot be reached, or refuses what sweeper asks of it."""

    exit_code = 69


class BackendError(SweeperError):
    """The cluster that a sweep is submitted to cannot be reached, or refuses what sweeper asks of it."""

    exit_code = 69


class TrialDivergedError(Exception):
    """A metric of a trial is NaN or infinite."""


class TrialStopped(BaseException):
    """The sweep wants this trial to end now.

    A BaseException, like GeneratorExit, so that a trainable's own `except Exception` does not swallow it.
    """
