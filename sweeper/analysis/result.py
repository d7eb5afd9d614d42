"""The result of a run: what became of the trials, of the best model, and of what MLflow was to get."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.errors import StopReason
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.text import duration
from sweeper.core.trials import Champion, TrialRecord, best_trial
from sweeper.spec import Sweep
from sweeper.study.frames import SHOWN_TRIALS, summary_line, trials_frame
from sweeper.study.open import read_study

if TYPE_CHECKING:
    import pandas

    from sweeper.study.study import SweepStudy


@dataclass(frozen=True, repr=False)
class SweepResult:
    """What a sweep came to. It needs no database, which may be unavailable by now.

    Attributes:
        counts: trials by state.
        leaderboard: COMPLETE trials by value, then the others by how far they came.
        reports_run, reports_budgeted: reports that were made, and that would have been made without the pruner.
        evaluation: metrics of the best trial on the test set.
        champion: the registered model.
        stopped: why the sweep ended before its trials did, None if it is done.
        seconds: duration of this run of it.
        resumed, ended_now: trials that this run resumed, and that ended in it.
        is_delivered: whether MLflow has everything, the best model too; otherwise the same command delivers the rest.

    Example:
        >>> result.best.params["units"]  # doctest: +SKIP
        64
    """

    name: str
    folder: Path | str
    sweep: Sweep
    counts: dict[str, int]
    leaderboard: tuple[TrialRecord, ...]
    reports_run: int
    reports_budgeted: int
    evaluation: dict[str, float] | None
    champion: Champion | None
    stopped: StopReason | None
    seconds: float
    resumed: int
    ended_now: int
    tracking_uri: str
    notes: tuple[str, ...] = ()
    checkpoint_bytes: int = 0
    stop_detail: str = ""
    is_delivered: bool = True

    @classmethod
    def of(cls, study: SweepStudy, place: SweepFolder, *, seconds: float, **others: Any) -> SweepResult:
        """Collect what the study holds, while it is open."""
        rows, began = study.rows(), datetime.now(UTC) - timedelta(seconds=seconds)
        states = [row.state for row in rows]
        return cls(
            name=study.name,
            folder=place.location,
            sweep=study.sweep,
            counts={state: states.count(state) for state in sorted(set(states))},
            leaderboard=tuple(study.leaderboard()),
            reports_run=sum(row.step for row in rows),
            reports_budgeted=sum(study.sweep.budget.reports if row.state == "PRUNED" else row.step for row in rows),
            resumed=study.resumed,
            ended_now=sum(row.ended is not None and row.ended >= began for row in rows),
            seconds=seconds,
            checkpoint_bytes=place.checkpoint_bytes(),
            **others,
        )

    @property
    def best(self) -> TrialRecord | None:
        """Best COMPLETE trial, None if there is none."""
        return best_trial(self.leaderboard, self.sweep.objective.direction)

    @property
    def trials(self) -> pandas.DataFrame:
        """Data frame with one row for each trial, best first; see `study.frames.trials_frame`."""
        return trials_frame(self.sweep, self.leaderboard)

    @property
    def curves(self) -> pandas.DataFrame:
        """Data frame with one row for each report of each trial, read from the study's database.

        Raises:
            StorageError: the database cannot be read.
        """
        return read_study(self.name, self.sweep.storage_url()).curves

    def __repr__(self) -> str:
        return f"<SweepResult {self._line()}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._line())}</p>{self.trials.head(SHOWN_TRIALS).to_html()}"

    def _line(self) -> str:
        ended = f", {self.stop_message}" if self.stop_message else ""
        return f"{summary_line(self.name, self.sweep, self.counts, self.best)}; {duration(self.seconds)}{ended}"

    @property
    def stop_message(self) -> str | None:
        """Reason why the sweep ended before its trials did, in words; None if it is done."""
        return None if self.stopped is None else self.stop_detail or self.stopped.value
