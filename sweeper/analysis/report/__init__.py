"""The report on a sweep: one HTML page that stands alone. Plain values first, then figures, then the page."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module

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
