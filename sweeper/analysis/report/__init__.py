"""The report on a sweep: one HTML page that stands alone. Plain values first, then figures, then the page."""

from __future__ import annotations

import json
import threading
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from sweeper.core.files import read_small
from sweeper.core.sweep_folder import MARKER, MAX_MARKER_BYTES, SweepFolder

if TYPE_CHECKING:
    from sweeper.study.view import StudyView

_HEAVY = ("plotly.graph_objects", "optuna.visualization", "optuna.importance", "sweeper.analysis.report.page")


@cache
def import_in_background() -> None:
    """Begin to import what makes the report, which takes seconds, in a thread; once in a process."""
    threading.Thread(target=_import, name="sweeper-report", daemon=True).start()


def _import() -> None:
    for module in _HEAVY:
        try:
            import_module(module)
        except Exception:  # whoever makes the report meets the same error, and reports it
            return


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
