"""A copy of the study in MLflow: runs, the champion in the registry, links. Only this package imports mlflow."""

from __future__ import annotations

from sweeper.tracking.check import check_store
from sweeper.tracking.client import store_uri, tracking_uri
from sweeper.tracking.models.classifier import Classifier, load_classifier
from sweeper.tracking.models.exporting import export_model
from sweeper.tracking.models.fetching import KeptModel, download_model, find_kept_model, has_model
from sweeper.tracking.models.saving import can_save, save_model
from sweeper.tracking.packaging import PACKED, read_evaluation, read_test, store_evaluation
from sweeper.tracking.pages.links import Link, comparison_link, sweep_links
from sweeper.tracking.pages.ui import Ui, start_server, start_ui
from sweeper.tracking.projection import Projection, log_report, sync
from sweeper.tracking.registry import Registered, promote, register_best, register_champion
from sweeper.tracking.removal import delete_runs, lost_model_notes

__all__ = [
    "Classifier",
    "KeptModel",
    "Link",
    "PACKED",
    "Projection",
    "Registered",
    "Ui",
    "can_save",
    "check_store",
    "comparison_link",
    "delete_runs",
    "download_model",
    "export_model",
    "find_kept_model",
    "has_model",
    "load_classifier",
    "log_report",
    "lost_model_notes",
    "promote",
    "read_evaluation",
    "read_test",
    "register_best",
    "register_champion",
    "save_model",
    "start_server",
    "start_ui",
    "store_evaluation",
    "store_uri",
    "sweep_links",
    "sync",
    "tracking_uri",
]
