"""A copy of the study in MLflow: runs, the champion in the registry, links. Only this package imports mlflow."""

from __future__ import annotations

from sweeper.tracking.check import check_store
from sweeper.tracking.client import store_uri, tracking_uri
from sweeper.tracking.links import Link, sweep_links
from sweeper.tracking.packaging import package_model, read_evaluation, store_evaluation
from sweeper.tracking.projection import Projection, sync
from sweeper.tracking.registry import Champion, register_champion
from sweeper.tracking.ui import Ui, start_ui

__all__ = [
    "Champion",
    "Link",
    "Projection",
    "Ui",
    "check_store",
    "package_model",
    "read_evaluation",
    "register_champion",
    "start_ui",
    "store_evaluation",
    "store_uri",
    "sweep_links",
    "sync",
    "tracking_uri",
]
