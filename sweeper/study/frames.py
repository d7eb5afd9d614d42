"""Trials and reports as data frames of pandas, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.core.text import metric, tally
from sweeper.core.trials import Report, TrialRecord
from sweeper.spec import Sweep

if TYPE_CHECKING:
    import pandas


SHOWN_TRIALS = 10
"""Trials in the table that a notebook shows of a sweep."""


def summary_line(name: str, sweep: Sweep, counts: Mapping[str, int], best: TrialRecord | None) -> str:
    """Describe a sweep in one line: its trials by state, and the best."""
    found = f"; best {sweep.objective.metric} {metric(best.value)} (trial {best.number})" if best else ""
    return f"{name}: {tally(counts)}{found}"


def trials_frame(sweep: Sweep, rows: Sequence[TrialRecord]) -> pandas.DataFrame:
    """Return one row for each trial, in the order given, indexed by the number of the trial.

    The columns are `state`, the metric of each goal by its name (the last value), `epochs` or `steps`, `seconds`,
    `attempt`, `node`, `reason`, `started` and `ended` (UTC), `origin` (where the parameters came from), then the
    parameters. A parameter that a trial does not have is missing. A parameter with the name of another column gets the
    prefix `params.`.
    """
    import pandas

    unit = "epochs" if sweep.budget.steps is None else "steps"
    facts = [
        {
            "state": row.state,
            sweep.objective.metric: row.value,
            **{goal.metric: values.get(goal.metric) for goal in sweep.goals[1:]},
            unit: sweep.budget.epoch_of(row.step),
            "seconds": row.seconds,
            "attempt": row.attempt,
            "node": row.node,
            "reason": row.reason,
            "started": row.started,
            "ended": row.ended,
            "origin": row.origin,
        }
        for row in rows
        for values in [{other.metric: other.value for other in row.others}]
    ]
    known = {
        "state",
        *(goal.metric for goal in sweep.goals),
        unit,
        "seconds",
        "attempt",
        "node",
        "reason",
        "started",
        "ended",
        "origin",
    }
    names = {name: f"params.{name}" if name in known else name for name in sweep.space}
    params = [{label: row.params.get(name) for name, label in names.items()} for row in rows]
    columns = [*(facts[0] if facts else sorted(known)), *names.values()]
    records = [{**fact, **own} for fact, own in zip(facts, params, strict=True)]
    index = pandas.Index([row.number for row in rows], name="trial")
    frame = pandas.DataFrame.from_records(records, index=index, columns=columns)
    for moment in ("started", "ended"):
        frame[moment] = pandas.to_datetime(frame[moment], utc=True)
    return frame.astype({**{goal.metric: float for goal in sweep.goals}, "seconds": float})


def curves_frame(sweep: Sweep, reports: Mapping[int, Sequence[Report]]) -> pandas.DataFrame:
    """Return one row for each report of each trial.

    The columns are `trial`, `step` (the number of the report, from 1), `epoch` (if the budget is in epochs), `time`
    (UTC), then every metric that was reported.
    """
    import pandas

    epochs = sweep.budget.steps is None
    records = [
        {
            "trial": number,
            "step": report.step,
            **({"epoch": sweep.budget.epoch_of(report.step)} if epochs else {}),
            "time": report.time,
            **{
                f"metrics.{name}" if name in ("trial", "step", "epoch", "time") else name: value
                for name, value in report.metrics.items()
            },
        }
        for number in sorted(reports)
        for report in reports[number]
    ]
    first = ["trial", "step", *(["epoch"] if epochs else []), "time", sweep.objective.metric]
    frame = pandas.DataFrame.from_records(records) if records else pandas.DataFrame(columns=first)
    frame["time"] = pandas.to_datetime(frame["time"], unit="s", utc=True)
    return frame[[*first, *(name for name in frame.columns if name not in first)]]
