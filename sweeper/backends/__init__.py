"""Remote sweeps: what is submitted to a cluster, and what every kind of cluster can be asked about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sweeper.core.code.user_code import TrainableCode


@dataclass(frozen=True)
class Submission:
    """A sweep to run on a cluster.

    Its name also names the job, so that a submission that is repeated because its answer was lost does not run twice.
    """

    name: str
    text: str
    """The complete sweep file."""
    options: tuple[str, ...] = ()
    """Further options of `sweeper run` on the cluster."""
    code: TrainableCode | None = None
    """The trainable whose code is sent along; None: the function that the file names."""


@dataclass(frozen=True)
class JobStatus:
    """State of a submitted sweep; `attempt` counts its submissions."""

    name: str
    state: Literal["waiting", "running", "stopped", "succeeded", "failed"]
    message: str
    attempt: int = 1
    details: dict[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """Why a sweep that waits does not run yet, as far as the cluster says so."""

    is_ending: bool = False
    """The sweep's command has ended, and the cluster has not cleaned up after it yet."""

    @property
    def is_over(self) -> bool:
        return self.state not in ("waiting", "running")


class Backend(Protocol):
    """A cluster that runs submitted sweeps."""

    def submit(self, submission: Submission) -> str:
        """Start a sweep, or resume one that ended; return one line that says which."""

    def status(self, name: str) -> JobStatus:
        """Return the state of a sweep."""

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield the output of `sweeper run`; with `follow`, until it ends, also after a lost connection."""

    def stop(self, name: str) -> None:
        """Stop a sweep with its progress saved; return when it has stopped."""
