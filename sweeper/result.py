"""What a sweep came to, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.core.trials import TrialRow
from sweeper.spec import Sweep

if TYPE_CHECKING:
    from sweeper.tracking import Champion


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to; nothing more needs to be read from its database, which may be away by now."""

    name: str
    folder: Path | str
    sweep: Sweep
    counts: dict[str, int]
    leaderboard: tuple[TrialRow, ...]
    reports_run: int
    reports_budgeted: int
    evaluation: dict[str, float] | None
    champion: Champion | None
    stopped: str | None
    seconds: float
    resumed: int
    tracking_uri: str
    notes: tuple[str, ...] = ()
    checkpoint_bytes: int = 0

    @property
    def best(self) -> TrialRow | None:
        """The COMPLETE trial with the best value."""
        return next((row for row in self.leaderboard if row.state == "COMPLETE"), None)
