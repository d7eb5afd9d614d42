"""The result of a run: what became of the trials, of the best model, and of what MLflow was to get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.costs import costs_of, used_of
from sweeper.core.confirmation import Confirmation
from sweeper.core.errors import StopReason
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.text import duration
from sweeper.core.trials import Champion, TrialRecord, best_trial, pareto_front
from sweeper.spec import Sweep
from sweeper.study.frames import SHOWN_TRIALS, summary_line, trials_frame
from sweeper.study.open import read_study

if TYPE_CHECKING:
    import pandas

    from sweeper.search.spending import Amount
    from sweeper.study.study import SweepStudy
    from sweeper.study.view import StudyView


OUTCOME = "outcome"
"""Fact of a study: what its last run came to, for those who have only the study: `trial`, `test` and `model`."""


def record_outcome(study: SweepStudy, evaluation: Mapping[str, float] | None, champion: Champion | None) -> None:
    """Record the test metrics and the model of the best trial in the study; nothing if it was not evaluated."""
    best, before = study.best(), study.facts.get(OUTCOME, {})
    if best is None or evaluation is None:
        return
    model = asdict(champion) if champion else before.get("model") if before.get("trial") == best.number else None
    found = {"trial": best.number, "test": dict(evaluation), "model": model}
    if found != before:
        study.record_facts({OUTCOME: found})


def _champion(model: Mapping[str, Any] | None) -> Champion | None:
    """Return the model that a study has on record; None if there is none, or a newer sweeper recorded more of it."""
    is_known = model is not None and model.keys() == {field.name for field in fields(Champion)}
    return Champion(**model) if model is not None and is_known else None


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
        used: what was used of each limit of the budget in hours or money, in all runs.
        confirmation: the best trials, trained again with fresh seeds; None if the sweep did not ask for it, or has not
            come so far.
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
    used: tuple[Amount, ...] = ()
    checkpoint_bytes: int = 0
    stop_detail: str = ""
    confirmation: Confirmation | None = None
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
            ended_now=sum(row.ended is not None and row.ended >= began for row in study.rows(with_fresh=True)),
            seconds=seconds,
            used=used_of(study),
            confirmation=study.confirmation(),
            checkpoint_bytes=place.checkpoint_bytes(),
            **others,
        )

    @classmethod
    def recorded(cls, study: StudyView, place: SweepFolder) -> SweepResult:
        """Collect what is known of a sweep that this process has not run; its notes say what is not known here.

        The test metrics and the model are those that its last run recorded of the trial that is the best now. `seconds`
        are from the start of its first trial to the end of its last one.
        """
        rows, best, outcome = study.rows(), study.best(), study.facts.get(OUTCOME, {})
        if best is None or outcome.get("trial") != best.number:
            outcome = {}
        states, costs = [row.state for row in rows], costs_of(study)
        begun = min((row.started for row in rows if row.started), default=None)
        ended = max((row.ended for row in rows if row.ended), default=begun)
        is_here = place.path.is_dir()
        return cls(
            name=study.name,
            folder=place.location,
            sweep=study.sweep,
            counts={state: states.count(state) for state in sorted(set(states))},
            leaderboard=tuple(study.leaderboard()),
            reports_run=costs.reports_run,
            reports_budgeted=costs.reports_budgeted,
            evaluation=outcome.get("test"),
            champion=_champion(outcome.get("model")),
            stopped=None,
            seconds=(ended - begun).total_seconds() if begun and ended else 0.0,
            resumed=0,
            ended_now=0,
            used=used_of(study),
            confirmation=study.confirmation(),
            tracking_uri=str(study.facts.get("tracking_uri", "")),
            notes=study.remarks() + (() if is_here else (f"its folder is not on this machine: {place.location}",)),
            checkpoint_bytes=place.checkpoint_bytes() if is_here else 0,
        )

    @property
    def best(self) -> TrialRecord | None:
        """Trial with the best confirmed mean, else the best COMPLETE one, None if there is none."""
        if self.confirmation is not None and (found := self.confirmation.best) is not None:
            return next(row for row in self.leaderboard if row.number == found.trial)
        return best_trial(self.leaderboard, self.sweep.objective.direction)

    @property
    def front(self) -> list[TrialRecord]:
        """COMPLETE trials that no other one equals or betters in every goal, the best by the first goal in front."""
        return pareto_front(self.leaderboard, self.sweep.objective.direction)

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
