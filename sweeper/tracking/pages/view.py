"""A view of a sweep that MLflow's UI opens by a link: which runs, which columns in which order, and charts.

MLflow keeps such views as JSON in a tag of the experiment, and has no API for them; the names of the keys were read in
the UI of MLflow 3.17.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sweeper.tracking.content import EPOCH, FRONT, fit_key

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sweeper.spec import Sweep

MAX_PARAMETER_COLUMNS = 20
"""Columns for parameters in the table of trials, and axes in the chart of all parameters."""

_TAG = "mlflow.sharedViewState."
_SECTION = "sweeper"


def order(sweep: Sweep, parent: str) -> dict[str, Any]:
    """Return which runs are shown, and how they are sorted."""
    # Sorted by a metric, the table is flat. In the default order, trials are hidden until their parent is unfolded.
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{fit_key(sweep.objective.metric)}`",
        "orderByAsc": sweep.objective.direction == "minimize",
    }


def view_key(study_id: str) -> str:
    """Return the name of a sweep's view, as it stands in a link."""
    return f"sweeper-{study_id}"


def save_view(
    client: MlflowClient,
    experiment: str,
    study_id: str,
    sweep: Sweep,
    parent: str,
    *,
    important: Sequence[str] = (),
    has_epochs: bool = True,
) -> bool:
    """Save the view of a sweep; return False if this user may not write.

    Args:
        parent: id of the sweep's run.
        important: the parameters that matter most, for charts of the objective by each of them.
        has_epochs: whether the runs have the epoch of each report, to draw curves by it.
    """
    columns = _columns(sweep)
    state = order(sweep, parent) | {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": False,
    }
    charts = _charts(sweep, important, has_epochs=has_epochs)
    for found in (state | charts, state):  # an older MLflow takes shorter tags only
        try:
            text = json.dumps(found, separators=(",", ":"))
            client.set_experiment_tag(experiment, f"{_TAG}{view_key(study_id)}", text)
            return True
        except Exception:  # a user who may only read gets the table with MLflow's default columns
            continue
    return False


def delete_view(client: MlflowClient, experiment: str, study_id: str) -> None:
    """Delete the view of a sweep whose runs are deleted; a user who may not write keeps it."""
    with suppress(Exception):
        client.delete_experiment_tag(experiment, f"{_TAG}{view_key(study_id)}")


def has_view(tags: Mapping[str, str], study_id: str) -> bool:
    """Return whether an experiment with these tags has the view of a sweep."""
    return f"{_TAG}{view_key(study_id)}" in tags


def searched(sweep: Sweep) -> list[str]:
    """Return the parameters that vary, in the order of the file."""
    return [name for name, domain in sweep.space.items() if domain.count() != 1]


def _columns(sweep: Sweep) -> list[str]:
    """Return the columns of the table: the goals, the state, the parameters, the reason, the time."""
    return [
        *(f"metrics.`{fit_key(goal.metric)}`" for goal in sweep.goals),
        *([f"tags.`{FRONT}`"] if len(sweep.goals) > 1 else []),
        "tags.`sweeper.state`",
        *(f"params.`{fit_key(name)}`" for name in searched(sweep)[:MAX_PARAMETER_COLUMNS]),
        "tags.`sweeper.reason`",
        "attributes.`Duration`",
    ]


def _charts(sweep: Sweep, important: Sequence[str], *, has_epochs: bool) -> dict[str, Any]:
    """Return the charts: the objective by epoch, with all parameters, by each other goal, and by two parameters."""
    metric, names = fit_key(sweep.objective.metric), searched(sweep)
    # The chart of all parameters leaves out the runs that lack one.
    common = [fit_key(name) for name in names if not sweep.space[name].when][:MAX_PARAMETER_COLUMNS]
    charts = [_curves(metric, has_epochs=has_epochs)]
    if common:
        title = f"{sweep.objective.metric} by all parameters"
        charts.append(
            _chart("parallel", "PARALLEL", title)
            | {"selectedParams": common, "selectedMetrics": [metric], "showAllRuns": True}
        )
    others = [(goal.metric, "METRIC") for goal in sweep.goals[1:]]
    for name, kind in (*others, *((name, "PARAM") for name in (list(important) or names)[:2])):
        axes = {
            "xaxis": {"key": fit_key(name), "type": kind},
            "yaxis": {"key": metric, "type": "METRIC"},
        }
        charts.append(_chart(f"scatter-{name}", "SCATTER", f"{sweep.objective.metric} by {name}") | axes)
    section = {"uuid": _SECTION, "name": sweep.name, "display": True, "isReordered": True, "isGenerated": False}
    return {"compareRunSections": [section], "compareRunCharts": charts, "isAccordionReordered": True}


def _curves(metric: str, *, has_epochs: bool) -> dict[str, Any]:
    by_epoch = {"xAxisKey": "metric", "selectedXAxisMetricKey": EPOCH}
    by_step = {"xAxisKey": "step", "selectedXAxisMetricKey": ""}
    return (
        _chart("curves", "LINE", f"{metric} by {'epoch' if has_epochs else 'report'}")
        | (by_epoch if has_epochs else by_step)
        | {
            "metricKey": metric,
            "selectedMetricKeys": [metric],
            "selectedYAxisMetricKey": "metric",
            "xAxisScaleType": "linear",
            "scaleType": "linear",
            "lineSmoothness": 0,
            "useGlobalXaxisKey": False,
            "useGlobalLineSmoothing": False,
            "range": {},
        }
    )


def _chart(name: str, kind: str, title: str) -> dict[str, Any]:
    return {
        "uuid": f"sweeper-{name}",
        "type": kind,
        "metricSectionId": _SECTION,
        "displayName": title,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 10,
    }
