"""Several goals of a sweep, and the trials on their front, as documents and as YAML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.analysis.trials import describe_goals, describe_objective
from sweeper.core.text import clean, to_yaml

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.spec import Sweep


def goal_values(sweep: Sweep, row: TrialRecord) -> dict[str, float | None]:
    """Return what a trial last reported of each goal, by its metric; None if it has not."""
    known = {sweep.objective.metric: row.value, **{other.metric: other.value for other in row.others}}
    return {goal.metric: known.get(goal.metric) for goal in sweep.goals}


def goals_document(sweep: Sweep, front: Iterable[TrialRecord]) -> dict[str, Any]:
    """Build what a document says of several goals, and of the trials that are on their front; nothing for one goal."""
    if len(sweep.goals) == 1:
        return {}
    goals = [goal.model_dump() for goal in sweep.goals]
    return {"goals": goals, "prune_on": sweep.prune_on, "front": [row.number for row in front]}


def front_yaml(sweep: Sweep, front: Sequence[TrialRecord]) -> str:
    """Write the trials on the front as YAML, for `best --front`: the `enqueue` of a sweep, with a comment for each."""
    points = (
        f"# trial {row.number}: {describe_goals(row, sweep)}\n{to_yaml([dict(row.params)], ascii_only=True)}"
        for row in front
    )
    return f"# {clean(f'{sweep.name}: {describe_objective(sweep)}')}\nenqueue:\n{''.join(points)}"
