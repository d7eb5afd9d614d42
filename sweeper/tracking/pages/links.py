"""Links into the MLflow UI that show a sweep: its trials in charts and as a table, the best one, its model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.core.trials import leaderboard
from sweeper.tracking import content
from sweeper.tracking.client import connect, has_file, open_experiment, search_runs
from sweeper.tracking.content import EPOCH
from sweeper.tracking.models.versions import CHAMPION_ALIAS
from sweeper.tracking.pages.view import order, save_view, view_key
from sweeper.tracking.server import short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORT = "report.html"
"""Name of the report among the files of the sweep's run."""

_USERINFO = re.compile(r"(?<=://)[^/]*@")


@dataclass(frozen=True)
class Link:
    """A page of the MLflow UI about a sweep."""

    title: str
    url: str


def sweep_links(study: content.Study, uri: str, base: str, *, important: Sequence[str] = ()) -> list[Link]:
    """Return links to the pages about a sweep in the UI at `base`, and save the view that two of them open.

    Args:
        important: the parameters that matter most, the first first; by default the first of the file.

    Raises:
        TrackingError: MLflow cannot be reached, or does not have the sweep.
    """
    if study.id is None:
        raise TrackingError(_unknown(study, uri))
    with _errors_explained(uri):
        client = connect(uri)
        experiment = open_experiment(client, uri, study.sweep.tracking.experiment)
        found = list(search_runs(client, experiment, f"tags.`sweeper.id` = '{study.id}'"))
    runs = {run.data.tags.get("sweeper.trial"): run for run in found}
    parent = runs.pop(None, None)
    if parent is None:
        raise TrackingError(_unknown(study, uri))
    has_epochs = any(EPOCH in run.data.metrics for run in runs.values())
    is_saved = save_view(
        client,
        experiment,
        study.id,
        study.sweep,
        parent.info.run_id,
        important=important,
        has_epochs=has_epochs,
    )
    view = {"viewStateShareKey": view_key(study.id)} if is_saved else _query(order(study.sweep, parent.info.run_id))
    pages = Pages(base, experiment)
    links = [
        Link("the trials in charts", pages.trials(view | {"compareRunsMode": "CHART"})),
        Link("all trials, best first", pages.trials(view)),
        Link("the sweep", pages.run(parent.info.run_id)),
    ]
    if has_file(client, parent.info.run_id, REPORT):
        links.append(Link("the report on it", pages.artifact(parent.info.run_id, REPORT)))
    valued = [row for row in study.rows() if row.state in ("COMPLETE", "PRUNED") and row.value is not None]
    ranked = leaderboard(valued, study.sweep.objective.direction)
    best = [runs[str(row.number)] for row in ranked if str(row.number) in runs]
    if best:
        links.append(Link("the best trial", pages.run(best[0].info.run_id)))
    if study.sweep.tracking.model is not None:
        links.append(Link(f"the model and its {CHAMPION_ALIAS}", pages.model(study.sweep.tracking.model)))
    return links


def comparison_link(sides: Sequence[tuple[content.Study, int | None]], uri: str, base: str) -> str:
    """Return the address of the page in the UI at `base` that compares these trials or sweeps.

    Args:
        sides: a study and the number of one of its trials each; None for the sweep itself.

    Raises:
        TrackingError: MLflow cannot be reached, or does not have one of them.
    """
    runs: list[str] = []
    experiments: list[str] = []
    with _errors_explained(uri):
        client = connect(uri)
        for study, number in sides:
            found = client.get_experiment_by_name(study.sweep.tracking.experiment)
            if found is None:
                raise TrackingError(_unknown(study, uri))
            runs.append(_run_of(client, found.experiment_id, study, number, uri))
            experiments.append(found.experiment_id)
    return Pages(base, experiments[0]).comparison(runs, list(dict.fromkeys(experiments)))


def _run_of(client: MlflowClient, experiment: str, study: content.Study, number: int | None, uri: str) -> str:
    # Only the sweep's own run has the tag with the number of its trials.
    which = "tags.`sweeper.trials` != ''" if number is None else f"tags.`sweeper.trial` = '{number}'"
    found = next(search_runs(client, experiment, f"tags.`sweeper.id` = '{study.id}' AND {which}"), None)
    if found is None:
        raise TrackingError(_unknown(study, uri))
    return str(found.info.run_id)


@contextmanager
def _errors_explained(uri: str) -> Iterator[None]:
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow at {redact(uri)}: {short_reason(error)}") from error


def _unknown(study: content.Study, uri: str) -> str:
    return f"MLflow at {redact(uri)} does not have sweep {study.name!r}; copy it with `sweeper sync {study.name}`"


class Pages:
    """Addresses of pages of MLflow's UI, which reads the page to show from the part behind the `#`.

    Without a base they are relative, for links from one page to another.
    """

    def __init__(self, base: str, experiment: str) -> None:
        self._base = f"{_USERINFO.sub('', base).rstrip('/')}/#" if base else "#"
        self._experiment = experiment

    def trials(self, query: dict[str, str]) -> str:
        return self._page(f"experiments/{self._experiment}/runs", query)

    def comparison(self, run_ids: list[str], experiments: list[str]) -> str:
        return self._page("compare-runs", {"runs": json.dumps(run_ids), "experiments": json.dumps(experiments)})

    def run(self, run_id: str) -> str:
        return self._page(f"experiments/{self._experiment}/runs/{run_id}", {})

    def artifact(self, run_id: str, path: str) -> str:
        return self._page(f"experiments/{self._experiment}/runs/{run_id}/artifacts/{quote(path)}", {})

    def model(self, name: str, version: int | None = None) -> str:
        return self._page(f"models/{quote(name, safe='')}" + ("" if version is None else f"/versions/{version}"), {})

    def logged_model(self, model_id: str) -> str:
        return self._page(f"experiments/{self._experiment}/models/{model_id}", {})

    def _page(self, path: str, query: dict[str, str]) -> str:
        # Without the workflow type the UI opens its view for language models. The comparison expects `runs` first.
        return f"{self._base}/{path}?{urlencode(query | {'workflowType': 'machine_learning'}, quote_via=quote)}"


def _query(order: dict[str, Any]) -> dict[str, str]:
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in order.items()}
