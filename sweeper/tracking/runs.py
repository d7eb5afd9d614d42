"""Single runs in MLflow: finding them, what is known of one, what is attached to one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeper.tracking import describe
from sweeper.tracking.store import explain

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """What MLflow is known to hold of one run; `steps` is None until its history was looked at."""

    id: str
    status: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    steps: set[int] | None = field(default_factory=set)


def search_runs(client: MlflowClient, experiment: str, filter_string: str) -> Iterator[MlflowRun]:
    """All runs of an experiment that a filter finds, page after page."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment], filter_string, max_results=500, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def log_dataset(client: MlflowClient, run_id: str, facts: Mapping[str, Any]) -> None:
    """Note on a run what data it was trained on; MLflow keeps one of equals."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = describe.dataset_facts(facts)
    if {"name", "digest"} <= found.keys():
        source = json.dumps({"uri": str(found.get("source", found["name"]))})
        sizes = {name: value for name, value in found.items() if isinstance(value, int)}
        # MLflow takes 36 characters of a digest; the whole of it is in the tags.
        dataset = Dataset(str(found["name"]), str(found["digest"])[:36], "local", source, profile=json.dumps(sizes))
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def attach(client: MlflowClient, run_id: str, text: str, name: str) -> None:
    """Keep a small file with a run; a store that takes no files does not hold up the rest."""
    try:
        client.log_text(run_id, text, name)
    except Exception as error:
        logger.warning("MLflow does not keep %s: %s", name, explain(error))


def known(run: MlflowRun) -> Run:
    """A run as MLflow has just described it; its history is not part of that."""
    return Run(
        id=run.info.run_id,
        status=run.info.status,
        params=set(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        steps=None,
    )
