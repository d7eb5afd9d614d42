"""Trials in the words of their sweep: how far one came, how it ended, what varied; and the folder that they left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sweeper.core.files import read_small
from sweeper.core.sweep_folder import MARKER, MAX_MARKER_BYTES, SweepFolder
from sweeper.core.text import clean, format_list, metric, number, shorten
from sweeper.core.trials import best_trial, pareto_front

if TYPE_CHECKING:
    from sweeper.core.confirmation import Confirmation, Contender, McNemar
    from sweeper.core.trials import Direction, TrialRecord
    from sweeper.search.budget import Budget
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

INTERRUPTED = "INTERRUPTED"
"""The state of a trial that has not ended, and that no process runs. Optuna knows only RUNNING."""

PAUSED = "PAUSED"
"""The state of a trial that was stopped at a rung and may continue. Optuna knows only PRUNED."""

MAX_REASON_CHARS = 160
"""Longest reason of a failure in a line about a trial; the whole reason is shown with the trial."""


def varying(sweep: Sweep) -> list[str]:
    """Return the parameters that a sweep searches over, in the order of its file."""
    return [name for name, domain in sweep.space.items() if domain.count() != 1]


def unit(budget: Budget) -> str:
    """Return the unit in which the progress of a trial is counted."""
    return "epochs" if budget.steps is None else "steps"


def position(row: TrialRecord, sweep: Sweep) -> str:
    """Describe how far a trial is: epoch 3/9."""
    budget = sweep.budget
    return f"{unit(budget).removesuffix('s')} {budget.epoch_of(row.step):g}/{budget.epoch_of(budget.reports):g}"


def goal_cells(row: TrialRecord, sweep: Sweep) -> list[str]:
    """Return what a trial last reported of each goal, the objective first; empty where it has not."""
    known = {other.metric: _whole(other.value) for other in row.others}
    return [metric(row.value), *(known.get(goal.metric, "") for goal in sweep.goals[1:])]


def _whole(value: float) -> str:
    """Format a value as `metric` does, but a whole number, such as a count of weights, in full."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e12 else metric(value)


def describe_goals(row: TrialRecord, sweep: Sweep) -> str:
    """Name what a trial last reported of each goal: val_accuracy 0.9812, parameters 5210."""
    cells = zip(sweep.goals, goal_cells(row, sweep), strict=True)
    return ", ".join(f"{clean(goal.metric)} {cell}" for goal, cell in cells if cell)


def describe_objective(sweep: Sweep) -> str:
    """Say what a sweep optimises: maximize val_accuracy, minimize parameters."""
    return ", ".join(f"{goal.direction} {clean(goal.metric)}" for goal in sweep.goals)


def describe_front(rows: Sequence[TrialRecord], sweep: Sweep) -> str:
    """Name the trials on the front of several goals; empty for one goal, or without a COMPLETE trial."""
    front = pareto_front(rows, sweep.objective.direction) if len(sweep.goals) > 1 else []
    numbers = format_list([str(row.number) for row in front], nothing="")
    return f"trial{'s' * (len(front) > 1)} {numbers}" if front else ""


def ending(row: TrialRecord, sweep: Sweep) -> str:
    """Describe in one line how a trial ended."""
    if row.state == "FAIL":
        return f"trial {row.number} failed: {cut_reason(row.reason or 'unknown reason')}"
    word = {"COMPLETE": "complete", "PRUNED": "paused" if row.is_paused else "pruned"}.get(row.state, row.state)
    early = " (returned early)" if row.state == "COMPLETE" and row.step < sweep.budget.reports else ""
    value = describe_goals(row, sweep) or f"{clean(sweep.objective.metric)} "
    taken = f" (taken from {row.reused})" if row.reused else ""
    return f"trial {row.number} {word} at {position(row, sweep)}{early}, {value}{taken}"


def seed_of(row: TrialRecord, sweep: Sweep) -> str:
    """Name a fresh run by what it confirms: trial 12, seed 3 of 5."""
    assert row.confirms is not None
    seeds = f" of {sweep.confirm.seeds}" if sweep.confirm else ""
    return f"trial {row.confirms.trial}, seed {row.confirms.run}{seeds}"


def cut_reason(reason: str, length: int = MAX_REASON_CHARS) -> str:
    """Cut the reason of a failure to a length, but not the place in the code at its end, as in (train.py:4)."""
    text = clean(reason)
    place = text[text.rfind(" (") :] if text.endswith(")") and " (" in text[-60:] else ""
    return text if len(text) <= length else shorten(text, length - len(place)) + place


def as_seen(rows: Iterable[TrialRecord], *, is_running: bool) -> list[TrialRecord]:
    """Return trials with the states that people see.

    Args:
        is_running: whether a process runs the sweep. If none does, its RUNNING trials are INTERRUPTED, and the paused
            ones stay PRUNED.
    """
    state = PAUSED if is_running else INTERRUPTED
    return [
        replace(row, state=state) if (row.is_paused if is_running else row.state == "RUNNING") else row for row in rows
    ]


def counts_as_seen(counts: Mapping[str, int], *, is_running: bool) -> dict[str, int]:
    """Return the number of trials in each state that people see; see `as_seen`."""
    if is_running or "RUNNING" not in counts:
        return dict(counts)
    return {INTERRUPTED if state == "RUNNING" else state: count for state, count in counts.items()}


def remark_on_pruned(rows: Sequence[TrialRecord], sweep: Sweep) -> str | None:
    """Explain a best value that belongs to no COMPLETE trial, as its trial was pruned; None if there is none."""
    direction = sweep.objective.direction
    best = best_trial(rows, direction)
    pruned = [replace(row, state="COMPLETE") for row in rows if row.state == "PRUNED" and row.value is not None]
    if best is None or (top := best_trial(pruned, direction)) is None:
        return None
    if (
        best_trial([best, replace(top, number=best.number + 1, others=best.others)], direction) is best
    ):  # the complete one wins a tie
        return None
    return (
        f"trial {top.number} reached {metric(top.value)} before it was pruned; "
        f"the best complete one has {metric(best.value)}"
    )


CONFIRMED_HEAD = ("trial", "searched", "confirmed", "runs", "")
"""Columns of the table of a confirmation."""


def confirmed_cells(found: Confirmation) -> list[tuple[str, ...]]:
    """Return the rows of the table of a confirmation, one for each contender."""
    return [
        (str(each.trial), metric(each.searched), _interval(each), f"{len(each.values)} of {found.seeds}", each.dropped)
        for each in found.contenders
    ]


def _interval(each: Contender) -> str:
    return metric(each.mean) + ("" if each.half_width is None else f" ± {_difference(each.half_width)}")


def _difference(value: float) -> str:
    """Format a small difference of two values with the decimals of `metric`, where these show any of it."""
    return f"{value:.4f}" if value == 0 or 5e-5 <= value < 1e4 else number(value, 2)


def describe_confirmed(found: Confirmation, direction: Direction) -> list[str]:
    """Say, in lines, what the best trial really reaches, by how much the search flattered it, and what sets it apart.

    The searched value is the best of many, so chance has made it too good: the winner's curse.
    """
    best, runs = found.best, sum(len(each.values) for each in found.contenders)
    if not found.is_complete:
        return [f"not confirmed yet: {runs} runs with fresh seeds have ended"]
    if best is None or best.mean is None:
        return ["not confirmed: a run of each of the best trials failed"]
    sign = 1 if direction == "maximize" else -1
    gain, leader = sign * (best.searched - best.mean), max(found.contenders, key=lambda each: sign * each.searched)
    curse = f"the search flattered it by {_difference(gain)}" if gain > 0 else "the search did not flatter it"
    lines = [f"searched {metric(best.searched)}, confirmed {_interval(best)} over {len(best.values)} seeds", curse]
    if leader.searched != best.searched and leader.mean is not None:
        lines.append(f"trial {leader.trial}, which led with {metric(leader.searched)}, reached {metric(leader.mean)}")
    if found.p_value is not None:
        verdict = "more than noise" if found.p_value < MAX_P_VALUE else "perhaps only noise"
        other = found.contenders[1].trial
        lines.append(f"the lead over trial {other} is {verdict} (Welch's t: p = {found.p_value:.2g})")
    lines += map(_describe_compared, found.compared)
    if len(set(best.values)) == 1:
        lines.append("all its runs came to the same value; perhaps `trial.seed` is not used")
    return lines


def _describe_compared(test: McNemar) -> str:
    if test.missing:
        return f"no McNemar test against {test.against}: {test.missing}"
    share = f"alone right on {test.n10} of {test.samples:,}, {test.against} on {test.n01}"
    return f"{share} (McNemar: p = {test.p_value:.2g})"


MAX_P_VALUE = 0.05
"""Largest p-value of a difference that is called more than noise."""


def is_done(study: StudyView) -> bool:
    """Return whether all trials of a sweep have ended."""
    rows = study.rows()
    return len(rows) >= study.trial_limit and all(row.state != "RUNNING" for row in rows)


def folder_at_hand(study: StudyView) -> SweepFolder | None:
    """Return the folder of a study; None if it is not here, or another study's. An old one does not say whose it is."""
    place = SweepFolder.of(study.folder, study.name)
    try:
        owner = json.loads(read_small(place.path / MARKER, MAX_MARKER_BYTES))
    except FileNotFoundError:
        return place if place.path.is_dir() else None
    except (OSError, ValueError, RecursionError):
        return None
    return place if isinstance(owner, dict) and owner.get("study") == study.id else None
