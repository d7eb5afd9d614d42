"""The report on a sweep: made as a page, and logged with the sweep's run when it has ended."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sweeper.analysis.trials import folder_at_hand
from sweeper.core.errors import StopReason
from sweeper.core.text import first_line
from sweeper.core.trials import Champion
from sweeper.driver.stop import StopSignal

if TYPE_CHECKING:
    from sweeper.study.study import SweepStudy
    from sweeper.study.view import StudyView
    from sweeper.tracking import Registered

logger = logging.getLogger(__name__)


def log_page(study: SweepStudy, outcome: Registered, uri: str, stop: StopSignal, started: float) -> tuple[str, ...]:
    """Log the report with the run of a sweep that has ended; return a note if that fails: nothing else changes then."""
    from sweeper import tracking

    if not study.rows() or not (study.is_done() or stop.reason in (StopReason.TIMEOUT, StopReason.BUDGET)):
        return ()
    began = datetime.now(UTC) - timedelta(seconds=time.monotonic() - started)
    has_news = any(row.ended is not None and row.ended >= began for row in study.rows(with_fresh=True))
    try:
        tracking.log_report(study, uri, lambda: report_page(study, champion=outcome.champion), replace=has_news)
    except Exception as error:
        logger.debug("the report could not be logged", exc_info=True)
        return (f"MLflow has no report ({first_line(error)}); `sweeper report {study.name}` makes one as a file",)
    return ()


def report_page(study: StudyView, *, is_running: bool = False, champion: Champion | None = None) -> str:
    """Return the report on a sweep as an HTML page, with what its folder has of the best model's test."""
    from sweeper.analysis.report.material import Evaluated
    from sweeper.analysis.report.page import make_page
    from sweeper.worker.champion import known_test

    place, best = folder_at_hand(study), study.best()
    metrics, predictions = known_test(place, best, study.facts) if place and best else (None, None)
    return make_page(study, Evaluated(metrics, predictions, champion, place is not None), is_running=is_running)
