"""What the confirmation of the best trials means for a run: who may be confirmed, and whose model is the champion's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sweeper.analysis.trials import is_done
from sweeper.core.code.user_code import has_prediction
from sweeper.core.confirmation import McNemar
from sweeper.core.errors import InputError
from sweeper.core.text import tally
from sweeper.core.trials import TrialRecord
from sweeper.worker.checkpoints import CheckpointCleaner
from sweeper.worker.task import WorkerContext

if TYPE_CHECKING:
    from sweeper.study.study import SweepStudy
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


def models_of(study: StudyView, context: WorkerContext, best: TrialRecord) -> tuple[TrialRecord, TrialRecord | None]:
    """Return the trials whose models stand for the best one and for the runner-up that it is to be compared with.

    There is none to compare with if that was done, or cannot be: see `record_missing`.
    """
    number, why = _runner_up(study, context)
    rival = None if number is None or why else model_source(study, context, study.row(number))
    return model_source(study, context, best), rival


def record_missing(study: SweepStudy, context: WorkerContext) -> None:
    """Record why the models of the best trial and of the runner-up were not compared, if they were not."""
    number, why = _runner_up(study, context)
    if number is not None:
        study.record_compared(McNemar(f"trial {number}", missing=why or "it was interrupted"))


def _runner_up(study: StudyView, context: WorkerContext) -> tuple[int | None, str]:
    """Return the runner-up that the best trial is still to be compared with, None without one; and why it cannot be."""
    found = study.confirmation()
    if found is None or found.best is None or len(found.contenders) < 2:
        return None, ""
    numbers = [each.trial for each in found.contenders[:2]]
    if any(each.against == f"trial {numbers[1]}" for each in found.compared):
        return None, ""
    if not has_prediction(context.sweep.trainable):
        return numbers[1], "its code has no `predict`"
    sources = {number: model_source(study, context, study.row(number)) for number in numbers}
    gone = [number for number, row in sources.items() if not context.checkpoints(row.number).has_any()]
    return numbers[1], f"the model of trial {gone[0]} is gone" if gone else ""


def clear_others(study: SweepStudy, context: WorkerContext) -> None:
    """Delete the checkpoints of paused trials once none continues, and of all contenders and their fresh runs.

    Those of the model of the best one are kept, and of several goals those of the front.
    """
    for row in study.rows() if study.is_done() else ():
        if row.state == "PRUNED" and (row.reason or "").startswith("paused"):  # also by a pruner that was replaced
            context.checkpoints(row.number).clear()
    found, best = study.confirmation(), study.best()
    if found is None or not found.is_complete or best is None:
        return
    kept = {model_source(study, context, best).number}
    if len(study.sweep.goals) > 1:
        kept |= {row.number for row in study.leaderboard(front=True)}
    fresh = [row.number for row in study.rows(with_fresh=True) if row.confirms is not None]
    for number in {*fresh, *(each.trial for each in found.contenders)} - kept:
        context.checkpoints(number).clear()
