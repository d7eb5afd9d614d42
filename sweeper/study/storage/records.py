"""How a trial is stored in a study, and the steps from one of its records to the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from sweeper.core.trials import Attempt, Decision, Failure, FreshRun, GoalValue, Report, TrialRecord
from sweeper.search.budget import Budget
from sweeper.search.confirming import CONFIRMS
from sweeper.search.history import ORIGIN, origin_of, suggest_untried
from sweeper.search.optuna_internals import report_value, storage_of, trial_id
from sweeper.search.pruning.decisions import judge_report
from sweeper.search.pruning.promotion import PAUSED
from sweeper.search.pruning.pruners import Promotion
from sweeper.search.space import check_point, recorded
from sweeper.spec import Sweep
from sweeper.study.storage.cache import OwnerCachedStorage

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


CPUS, REUSED, GOALS = "cpus", "reused", "goals"
"""Attributes of a trial for `TrialRecord.cpus`, `TrialRecord.reused` and, by metric, `TrialRecord.others`."""


def record_of(trial: FrozenTrial, sweep: Sweep) -> TrialRecord:
    """Return the record of a trial that has started."""
    params = recorded(trial.params, sweep.space)
    if params is None:  # its driver died between two parameters; the rest is drawn when the trial is resumed
        params = dict(trial.params)
    step = max(trial.intermediate_values, default=0)
    own, values = trial.user_attrs, trial.values
    others = own.get(GOALS, {})
    if values is not None and len(values) > 1:
        others = {goal.metric: value for goal, value in zip(sweep.goals, values, strict=True)}
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        params=params,
        value=trial.intermediate_values.get(step) if values is None else values[0],
        step=step,
        attempt=own.get("attempt", 1),
        node=own.get("node"),
        reason=own.get("reason"),
        started=_moment(own.get("started")) or _utc(trial.datetime_start),
        ended=_moment(own.get("ended")) or _utc(trial.datetime_complete),
        resumed=_moment(own.get("resumed")),
        spent=own.get("spent", 0.0),
        # A trial that sweeper 0.1 trained has no `started`, but the node of its first report.
        is_added=REUSED in own or (trial.state == TrialState.COMPLETE and not {"started", "node"} & own.keys()),
        origin=_with_source(own.get(ORIGIN), own.get(REUSED)),
        reused=own.get(REUSED),
        is_paused=PAUSED in own and isinstance(sweep.chosen_pruner, Promotion),  # another one continues none
        cpus=tuple((first, cpus) for first, cpus in own.get(CPUS, ())),
        confirms=FreshRun(*own[CONFIRMS]) if CONFIRMS in own else None,
        others=_others(sweep, others),
    )


def _others(sweep: Sweep, metrics: Mapping[str, float]) -> tuple[GoalValue, ...]:
    """Return the values of the goals beside the objective, as far as they are among some metrics."""
    return tuple(
        GoalValue(goal.metric, metrics[goal.metric], goal.direction)
        for goal in sweep.goals[1:]
        if goal.metric in metrics
    )


def unreported(row: TrialRecord, sweep: Sweep) -> str | None:
    """Return the metric of a goal that a trial has not reported; None if it has reported all."""
    known = {other.metric for other in row.others} | ({sweep.objective.metric} if row.step else set())
    return next((goal.metric for goal in sweep.goals if goal.metric not in known), None)


def _with_source(origin: str | None, source: str | None) -> str | None:
    """Return the origin of a trial's parameters with that of its reports."""
    return origin if source is None else f"{origin or 'unknown'}; reports of {source}"


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _utc(moment: datetime | None) -> datetime | None:
    """Convert a datetime of Optuna, which has no time zone and is in the local time of the process that wrote it."""
    return None if moment is None else moment.astimezone(UTC)


def record(
    trial: optuna.Trial, row: TrialRecord, report: Report, node: str | None, sweep: Sweep
) -> tuple[TrialRecord, TrialRecord | None, Decision | None]:
    """Write a report of a trial, and the end of the trial if the report ends it.

    Returns:
        The trial's record with the report; that of its end, None if it continues; and what the pruner compared, None if
        it compared nothing.
    """
    row = _with_report(trial, row, report, node, sweep)
    over, decision = _judge(trial, row, sweep)
    if over is not None:
        tell(trial.study, trial, over)
    return row, over, decision


def _with_report(trial: optuna.Trial, row: TrialRecord, report: Report, node: str | None, sweep: Sweep) -> TrialRecord:
    before, cpus = row.cpus[-1][1] if row.cpus else 1, row.cpus
    if report.cpus not in (None, before):
        cpus = (*cpus, (report.step, report.cpus or before))
        trial.set_user_attr(CPUS, cpus)
    if node not in (None, row.node):
        trial.set_user_attr("node", node)
    if report.source is not None and row.reused is None:
        trial.set_user_attr(REUSED, report.source)
        origin = _with_source(row.origin, report.source)
        row = replace(row, is_added=True, reused=report.source, origin=origin)
    others = row.others
    if len(sweep.goals) > 1:
        known = {other.metric: other.value for other in others}
        others = _others(sweep, known | report.metrics)
    if others != row.others:
        trial.set_user_attr(GOALS, {other.metric: other.value for other in others})
    report_value(trial, value := report.metrics[sweep.objective.metric], report.step)
    return replace(row, value=value, step=report.step, node=node or row.node, cpus=cpus, others=others)


def _judge(trial: optuna.Trial, row: TrialRecord, sweep: Sweep) -> tuple[TrialRecord | None, Decision | None]:
    if row.step >= sweep.budget.reports:
        return None if unreported(row, sweep) else ended(row, TrialState.COMPLETE, None), None
    if row.confirms is not None:  # the race decides, with whole runs
        return None, None
    pruner = sweep.chosen_pruner
    is_pruned, decision = judge_report(trial, row.step, pruner, sweep.budget)
    if not is_pruned:
        return None, decision
    is_paused = isinstance(pruner, Promotion)
    reason = f"{'paused' if is_paused else 'pruned'} after {place(row.step, sweep.budget)}"
    return replace(ended(row, TrialState.PRUNED, reason), is_paused=is_paused), decision


def place(step: int, budget: Budget) -> str:
    """Return a report's place in its trial, as in `epoch 3`."""
    return f"{'epoch' if budget.steps is None else 'step'} {budget.epoch_of(step):g}"


def problem_of_enqueued(trial: optuna.Trial, sweep: Sweep) -> str | None:
    """Return why a trial that was enqueued in the study cannot be run; None if it can, or was not enqueued."""
    fixed = storage_of(trial.study).get_trial(trial_id(trial)).system_attrs.get("fixed_params", {})
    problems = [f"{'.'.join(map(str, problem.key))}: {problem.message}" for problem in check_point(fixed, sweep.space)]
    return f"enqueued, but {'; '.join(problems)}" if problems else None


def seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def ended(row: TrialRecord, state: TrialState, reason: str | None) -> TrialRecord:
    return replace(row, state=state.name, reason=reason, ended=datetime.now(UTC))


def returned(row: TrialRecord, budget: Budget, *, is_pruned: bool) -> TrialRecord:
    """Return the record of a trial whose function has returned, after it pruned itself or not."""
    where = f"after {place(row.step, budget)}"
    if is_pruned:
        return ended(row, TrialState.PRUNED, f"pruned by its own code {where}")
    early = f"returned {where} of {budget.epoch_of(budget.reports):g}" if row.step < budget.reports else None
    return ended(row, TrialState.COMPLETE, early)


def failed_attempt(row: TrialRecord, failure: Failure) -> Attempt:
    return Attempt(row.attempt, failure.kind, failure.reason, row.step, row.node, datetime.now(UTC))


def begin(
    trial: optuna.Trial, row: TrialRecord, sweep: Sweep, tried: Collection[object] | None
) -> tuple[optuna.Trial, TrialRecord, TrialRecord | None]:
    """Write the start of an attempt, with the parameters that the sampler chooses if this is the first one.

    Args:
        tried: the points that the sampler should not choose; None if the trial has had an attempt before.

    Returns:
        The trial, to be used instead of the one that was given, its record, and the record of its end if it was
        enqueued with nonsense; None if it can be run.
    """
    problem = problem_of_enqueued(trial, sweep)
    trial, params = (trial, {}) if problem else suggest_untried(trial, sweep.space, tried or ())
    origin = row.origin if tried is None else origin_of(trial, sweep.chosen_sampler)
    row = replace(row, params=params, origin=origin)
    _write_start(trial, row)
    over = ended(row, TrialState.FAIL, problem) if problem else None
    if over is not None:
        tell(trial.study, trial, over)
    return trial, row, over


def _write_start(trial: optuna.Trial, row: TrialRecord) -> None:
    facts: dict[str, Any] = {"attempt": row.attempt, "spent": row.spent, "resumed": seconds(row.resumed)}
    if row.attempt == 1:
        facts = {"started": seconds(row.started), ORIGIN: row.origin}
    storage = storage_of(trial.study)
    assert isinstance(storage, OwnerCachedStorage)
    storage.set_trial_user_attrs(trial_id(trial), facts)


def tell(study: optuna.Study, trial: optuna.Trial, row: TrialRecord) -> None:
    """Write the end of a trial."""
    state = TrialState[row.state]
    if row.reason is not None:
        trial.set_user_attr("reason", row.reason)
    trial.set_user_attr("ended", seconds(row.ended))
    if row.is_paused:
        trial.set_user_attr(PAUSED, True)
    values = None
    if state == TrialState.COMPLETE:
        assert row.value is not None
        values = [row.value, *(other.value for other in row.others)]
    study.tell(trial, values, state=state, skip_if_finished=True)


def next_attempt(row: TrialRecord, failed: Sequence[Attempt], reports: Sequence[Report]) -> TrialRecord:
    """Return the record of a trial with its next attempt, which starts now.

    Args:
        failed: its failed attempts.
        reports: its reports; an attempt that was interrupted ran at least until the last one.
    """
    begun = row.resumed or row.started
    ends = [past.ended for past in failed if past.attempt == row.attempt]
    ends = ends or [datetime.fromtimestamp(report.time, UTC) for report in reports[-1:]]
    ran = (ends[0] - begun).total_seconds() if begun and ends else 0.0
    row = replace(row, state="RUNNING", reason=None, is_paused=False, ended=None)
    return replace(row, attempt=row.attempt + 1, spent=row.spent + max(0.0, ran), resumed=datetime.now(UTC))


def reopened(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a trial that has ended, after it was changed back to running."""
    storage = storage_of(study)
    assert isinstance(storage, OwnerCachedStorage)
    return optuna.Trial(study, storage.reopen(number))
