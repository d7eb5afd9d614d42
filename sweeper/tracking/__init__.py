"""MLflow as a picture of the study: runs, the champion in the registry, links. Only this package imports mlflow."""

from __future__ import annotations

from sweeper.tracking.client import tracking_uri
from sweeper.tracking.links import Link, sweep_links
from sweeper.tracking.packaging import digest, package_model
from sweeper.tracking.projection import Projection, sync
from sweeper.tracking.registry import Champion, register_champion
from sweeper.tracking.ui import Ui, start_ui

__all__ = [
    "Champion",
    "Link",
    "Projection",
    "Ui",
    "digest",
    "package_model",
    "register_champion",
    "start_ui",
    "sweep_links",
    "sync",
    "tracking_uri",
]
