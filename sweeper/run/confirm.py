"""What the confirmation of the best trials means for a run: who may be confirmed, and whose model is the champion's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sweeper.analysis.trials import is_done
from sweeper.core.errors import InputError
from sweeper.core.text import tally
from sweeper.core.trials import TrialRecord
from sweeper.worker.checkpoints import CheckpointCleaner
from sweeper.worker.task import WorkerContext

if TYPE_CHECKING:
    from sweeper.study.view import StudyView


def check_confirmable(study: StudyView) -> None:
    """Check that a sweep has ended with trials that can be trained again.

    Raises:
        InputError: it runs, trials of it are left, or no trial of it has completed here.
    """
    rows = study.rows()
    ended = sum(row.state != "RUNNING" for row in rows)
    if study.is_running:
        raise InputError(
            f"sweep {study.name!r} is running. Confirm its best trials when it has ended; with `confirm: {{}}` in its "
            "file, a sweep does so by itself"
        )
    if not is_done(study):
        less = f", or leave the rest out: sweeper resume {study.name} --trials {len(rows)}" if rows else ""
        raise InputError(
            f"{ended} of {study.trial_limit} trials of sweep {study.name!r} have ended, and only a whole search can be "
            f"confirmed. Finish it: sweeper resume {study.name}{less}"
        )
    complete = [row for row in rows if row.state == "COMPLETE"]
    if not complete:
        counts = tally(Counter(row.state for row in rows))
        raise InputError(
            f"no trial of sweep {study.name!r} is COMPLETE ({counts}), so there is nothing to confirm. See: "
            f"sweeper show {study.name}"
        )
    if all(row.is_added for row in complete):
        raise InputError(
            f"the COMPLETE trials of sweep {study.name!r} were added to the study with their values and not trained "
            "here, so they cannot be trained again"
        )


def is_settled(study: StudyView) -> bool:
    """Return whether the best trial is final: nothing is to be confirmed, or all of it is."""
    if study.sweep.confirm is None:
        return True
    found = study.confirmation()
    return found is not None and found.is_complete


def checkpoint_cleaner(context: WorkerContext) -> CheckpointCleaner:
    """Return the listener that deletes checkpoints: it keeps those of the best trial, or of all that are confirmed."""
    sweep, is_slow = context.sweep, context.folder.url is not None
    kept = sweep.confirm.top if sweep.confirm else 1
    return CheckpointCleaner(context.checkpoints, sweep.objective.direction, is_slow=is_slow, kept=kept)


def model_source(study: StudyView, context: WorkerContext, best: TrialRecord) -> TrialRecord:
    """Return the trial whose model stands for the best one: itself, or its first fresh run if its own model is gone.

    A search keeps the model of its best trial alone, unless its file asks for the confirmation before it begins.
    """
    fresh = [row for row in study.rows(with_fresh=True) if row.confirms is not None and row.confirms.run == 1]
    stand_ins = [row for row in fresh if row.confirms is not None and row.confirms.trial == best.number]
    return next((row for row in (best, *stand_ins) if context.checkpoints(row.number).has_any()), best)


def clear_others(study: StudyView, context: WorkerContext) -> None:
    """Delete the checkpoints of all contenders and of their fresh runs.

    Those of the model of the best one are kept, and of several goals those of the front.
    """
    found, best = study.confirmation(), study.best()
    if found is None or not found.is_complete or best is None:
        return
    kept = {model_source(study, context, best).number}
    if len(study.sweep.goals) > 1:
        kept |= {row.number for row in study.leaderboard(front=True)}
    fresh = [row.number for row in study.rows(with_fresh=True) if row.confirms is not None]
    for number in {*fresh, *(each.trial for each in found.contenders)} - kept:
        context.checkpoints(number).clear()
