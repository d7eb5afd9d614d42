"""Where else a sweep can run: what is submitted, and what can be asked about it, whatever runs it there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Submission:
    """A sweep that is to run elsewhere.

    Its name also names the job: a submission that is repeated, because its answer was lost, does not run twice.
    """

    name: str
    text: str
    """The sweep file, complete."""
    options: tuple[str, ...] = ()
    """Further options of `sweeper run` there."""


@dataclass(frozen=True)
class JobStatus:
    """How a submitted sweep stands; `attempt` counts its submissions."""

    name: str
    state: Literal["waiting", "running", "stopped", "succeeded", "failed"]
    message: str
    attempt: int = 1
    details: dict[str, str] = field(default_factory=dict)

    @property
    def wait_or_stop(self) -> bool:
        return self.state not in ("waiting", "running")


class Backend(Protocol):
    """Runs sweeps elsewhere."""

    def submit(self, submission: Submission) -> str:
        """Have the sweep run, or go on where it was stopped; a line that says what happened."""

    def status(self, name: str) -> JobStatus:
        """How the sweep stands."""

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """What `sweeper run` prints there, piece by piece; with `follow` until it ends, whatever the network does."""

    def stop(self, name: str) -> None:
        """Have the sweep end in good order; returns when it has."""
