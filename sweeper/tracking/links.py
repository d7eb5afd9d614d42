"""Links into the MLflow UI that show a sweep: its trials sorted, their curves, the best compared, its model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.core.trials import leaderboard
from sweeper.tracking import content
from sweeper.tracking.client import connect, open_experiment, search_runs
from sweeper.tracking.content import fit_key
from sweeper.tracking.models.versions import CHAMPION_ALIAS
from sweeper.tracking.server import short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sweeper.spec import Sweep

_USERINFO = re.compile(r"(?<=://)[^/]*@")

MAX_COMPARED_TRIALS = 10
"""Trials in the comparison of the best."""

MAX_PARAMETER_COLUMNS = 20
"""Columns for parameters in the table of trials."""


@dataclass(frozen=True)
class Link:
    """A page of the MLflow UI about a sweep."""

    title: str
    url: str


def sweep_links(study: content.Study, uri: str, base: str) -> list[Link]:
    """Return links to the pages about a sweep in the UI at `base`.

    Raises:
        TrackingError: MLflow cannot be reached, or does not have the sweep.
    """
    unknown = f"MLflow at {redact(uri)} does not have sweep {study.name!r}; copy it with `sweeper sync {study.name}`"
    if study.id is None:
        raise TrackingError(unknown)
    try:
        client = connect(uri)
        experiment = open_experiment(client, uri, study.sweep.tracking.experiment)
        found = list(search_runs(client, experiment, f"tags.`sweeper.id` = '{study.id}'"))
    except Exception as error:
        raise TrackingError(f"MLflow at {redact(uri)}: {short_reason(error)}") from error
    runs = {run.data.tags.get("sweeper.trial"): run.info.run_id for run in found}
    parent = runs.pop(None, None)
    if parent is None:
        raise TrackingError(unknown)
    order = _order(study.sweep, parent)
    view = _save_view(client, experiment, study.id, order, _columns(study.sweep))
    valued = [row for row in study.rows() if row.state in ("COMPLETE", "PRUNED") and row.value is not None]
    ranked = leaderboard(valued, study.sweep.objective.direction)
    best = [runs[str(row.number)] for row in ranked if str(row.number) in runs][:MAX_COMPARED_TRIALS]
    pages = _Pages(base, experiment)
    links = [
        Link("all trials, best first", pages.trials(view or _query(order))),
        Link("their curves", pages.trials(_query(order) | {"compareRunsMode": "CHART"})),
        Link("the sweep", pages.run(parent)),
    ]
    if len(best) > 1:
        links.insert(2, Link(f"the best {len(best)} compared", pages.comparison(best)))
    if best:
        links.append(Link("the best trial", pages.run(best[0])))
    if study.sweep.tracking.model is not None:
        links.append(Link(f"the model and its {CHAMPION_ALIAS}", pages.model(study.sweep.tracking.model)))
    return links


class _Pages:
    """Addresses of pages of MLflow's UI, which reads the page to show from the part behind the `#`."""

    def __init__(self, base: str, experiment: str) -> None:
        self._base = f"{_USERINFO.sub('', base).rstrip('/')}/#"
        self._experiment = experiment

    def trials(self, query: dict[str, str]) -> str:
        return self._page(f"experiments/{self._experiment}/runs", query)

    def comparison(self, run_ids: list[str]) -> str:
        return self._page("compare-runs", {"runs": json.dumps(run_ids), "experiments": json.dumps([self._experiment])})

    def run(self, run_id: str) -> str:
        return self._page(f"experiments/{self._experiment}/runs/{run_id}", {})

    def model(self, name: str) -> str:
        return self._page(f"models/{quote(name, safe='')}", {})

    def _page(self, path: str, query: dict[str, str]) -> str:
        # Without the workflow type the UI opens its view for language models. The comparison expects `runs` first.
        return f"{self._base}/{path}?{urlencode(query | {'workflowType': 'machine_learning'}, quote_via=quote)}"


def _order(sweep: Sweep, parent: str) -> dict[str, Any]:
    # Sorted by a metric, the table is flat. In the default order, trials are hidden until their parent is unfolded.
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{fit_key(sweep.objective.metric)}`",
        "orderByAsc": sweep.objective.direction == "minimize",
    }


def _query(order: dict[str, Any]) -> dict[str, str]:
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in order.items()}


def _columns(sweep: Sweep) -> list[str]:
    """Return the columns of the table of trials: the metric, the searched parameters, the state and its reason."""
    searched = [name for name, domain in sweep.space.items() if domain.count() != 1][:MAX_PARAMETER_COLUMNS]
    return [
        f"metrics.`{fit_key(sweep.objective.metric)}`",
        *(f"params.`{fit_key(name)}`" for name in searched),
        *(f"tags.`sweeper.{name}`" for name in ("state", "reason")),
        "attributes.`Duration`",
    ]


def _save_view(
    client: MlflowClient, experiment: str, name: str, order: dict[str, Any], columns: list[str]
) -> dict[str, str] | None:
    """Save the table with its columns as a shared view of the experiment: a link alone cannot select columns.

    Return the query that opens it; None if this user may not write.
    """
    view = order | {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_10_RUNS",
        "runListHidden": False,
    }
    try:
        client.set_experiment_tag(experiment, f"mlflow.sharedViewState.sweeper-{name}", json.dumps(view))
    except Exception:  # a user who may only read gets the table with MLflow's default columns
        return None
    return {"viewStateShareKey": f"sweeper-{name}"}
