"""Projection of a running study into MLflow: a thread of its own, so that a slow MLflow does not slow the sweep."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sweeper.core.errors import StorageError, TrackingError
from sweeper.core.secrets import redact
from sweeper.tracking.client import configure_mlflow, connect, has_file, open_experiment, search_runs
from sweeper.tracking.pages.links import REPORT
from sweeper.tracking.pages.note import with_report
from sweeper.tracking.server import short_reason
from sweeper.tracking.sync import StudySync

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.spec import Sweep
    from sweeper.tracking.content import Study

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 1.0
"""Seconds between two deliveries of what has changed."""

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds to wait after the first, second, ... consecutive failure."""

MAX_TURN_S = 0.0005
"""Longest time in seconds that the thread computes while the driver, which has an answer of its database, waits for
Python's lock. Python's own 0.005 s count each time: a transaction waits for several answers and sockets."""

_UNAVAILABLE = "MLflow at %s does not answer (%s). The sweep continues; `sweeper sync %s` delivers what is missing."
_AVAILABLE_AGAIN = "MLflow at %s answers again: %d records delivered."


class Projection:
    """Listener that copies the changes of a study into MLflow, about once a second.

    It remembers only which trials changed, and reads their reports from the study when it delivers them. So an outage
    of MLflow costs no memory, delays no trial and loses no data. The next `start` or `sync` delivers what is missing
    when the process ends.

    Attributes:
        outcome: further tags of the sweep's run, delivered at the latest when it is closed.
    """

    FIRST_REPORT_WAIT_S = 20.0
    """Longest wait for a first report before MLflow is opened: until then the starting workers need the processor."""

    def __init__(self, sweep: Sweep, uri: str) -> None:
        self.name = sweep.name
        self.uri = uri
        self.outcome: dict[str, str] = {}
        self._sync: StudySync | None = None
        self._changed: dict[int, TrialRecord] = {}
        self._state = threading.Condition()
        self._wake = threading.Event()
        self._first_report = threading.Event()
        self._first_report_wait_s = 0.0
        self._is_closing = False
        self._is_abandoned = False
        self._is_idle = False
        self._failures = 0
        self._attempts = 0
        self._thread = threading.Thread(target=self._work, name="sweeper-mlflow", daemon=True)

    def start(self, study: Study, *, first_report_wait_s: float = 0.0) -> None:
        """Start the thread, which first delivers everything that MLflow lacks of the study.

        Args:
            first_report_wait_s: longest wait for a report before the store is opened, in seconds. Opening takes 5 s of
                CPU time, which the first trials need more.
        """
        configure_mlflow()
        self._first_report_wait_s = first_report_wait_s
        self._sync = StudySync(study, self.uri, self.outcome)
        with self._state:
            self._changed = {**{row.number: row for row in study.rows(with_fresh=True)}, **self._changed}
        self._thread.start()

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        with self._state:
            self._changed[row.number] = row
            self._is_idle = False
        if report is not None:
            self._first_report.set()

    def on_phase(self, message: str) -> None:
        pass

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until MLflow has everything; return False if it cannot be reached or the time runs out."""
        self._first_report.set()
        with self._state:
            self._is_idle = False
            self._wake.set()
            tried = self._attempts + 1
            self._state.wait_for(lambda: self._is_idle or (self._failures > 1 and self._attempts >= tried), timeout)
            return self._is_idle

    def stop_writing(self) -> None:
        """Stop at once, without a last delivery: another process owns the sweep now, and delivers it too."""
        self._is_abandoned = True
        self._first_report.set()
        self._wake.set()

    def close(self, timeout: float = 30.0) -> bool:
        """Deliver the rest and the end of the sweep, and stop; return False if MLflow does not have everything."""
        if self._thread.ident is None or self._is_abandoned:
            return True
        self._is_closing = True
        self._first_report.set()
        self._wake.set()
        self._thread.join(timeout)
        return self._is_idle and not self._thread.is_alive()

    def _work(self) -> None:
        self._first_report.wait(self._first_report_wait_s)
        before = sys.getswitchinterval()
        sys.setswitchinterval(MAX_TURN_S)
        try:
            self._deliver_until_closed()
        finally:
            sys.setswitchinterval(before)

    def _deliver_until_closed(self) -> None:
        while not self._is_abandoned:
            self._wake.clear()
            is_closing = self._is_closing
            is_delivered = self._deliver(is_live=not is_closing)
            if is_closing and (is_delivered or self._failures > 1):
                return
            # When the sweep ends, two more attempts follow shortly; they do not wait for the end of an outage.
            wait = BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1] if self._failures else POLL_INTERVAL_S
            if is_closing:
                time.sleep(POLL_INTERVAL_S / 2)
            else:
                self._wake.wait(wait)

    def _deliver(self, *, is_live: bool) -> bool:
        """Write all changes up to now; return whether MLflow has everything. No error here may end the thread."""
        assert self._sync is not None
        with self._state:
            rows, self._changed = self._changed, {}
        try:
            if rows or not is_live or not self._attempts or self._failures:
                self._sync.write(rows.values(), is_live=is_live)
        except Exception as error:
            with self._state:
                self._changed = {**rows, **self._changed}
                self._attempts, self._failures = self._attempts + 1, self._failures + 1
                self._state.notify_all()
            # A single failure may be one lost answer: it is not reported. The study reports failures of its database.
            if self._failures == 2 and not isinstance(error, StorageError):
                logger.warning(_UNAVAILABLE, redact(self.uri), short_reason(error), self.name)
            logger.debug("MLflow failed", exc_info=True)
            return False
        if self._failures > 1:
            logger.warning(_AVAILABLE_AGAIN, redact(self.uri), self._sync.written)
        with self._state:
            self._attempts, self._failures, self._sync.written = self._attempts + 1, 0, 0
            self._is_idle = not self._changed
            self._state.notify_all()
        return self._is_idle


def sync(study: Study, uri: str, outcome: Mapping[str, str] | None = None) -> int:
    """Write into MLflow what it lacks of a study; return the number of records written.

    Args:
        outcome: further tags of the sweep's run.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    configure_mlflow()
    study_sync = StudySync(study, uri, outcome or {})
    for attempt in range(3):
        try:
            study_sync.write(study.rows(with_fresh=True), is_live=False)
            return study_sync.written
        except Exception as error:
            if attempt == 2:
                raise TrackingError(f"MLflow at {redact(uri)}: {short_reason(error)}") from error
            time.sleep(POLL_INTERVAL_S)
    raise AssertionError("the loop returns or raises")


def log_report(study: Study, uri: str, make: Callable[[], str], *, replace: bool) -> bool:
    """Log the report on a sweep with the sweep's run, and link it in its description; return whether it was logged.

    Args:
        make: makes the page.
        replace: whether to replace one that the run has; otherwise nothing is made then.

    Raises:
        TrackingError: MLflow does not have the sweep.
        Exception: it cannot be reached, or refuses.
    """
    client = connect(uri)
    experiment = open_experiment(client, uri, study.sweep.tracking.experiment)
    # Only the sweep's own run has this tag.
    found = search_runs(client, experiment, f"tags.`sweeper.id` = '{study.id}' and tags.`sweeper.trials` != ''")
    if (run := next(found, None)) is None:
        raise TrackingError(f"MLflow at {redact(uri)} does not have sweep {study.name!r}")
    if not replace and has_file(client, run.info.run_id, REPORT):
        return False
    client.log_text(run.info.run_id, make(), REPORT)
    note = with_report(run.data.tags.get("mlflow.note.content", ""), experiment, run.info.run_id)
    client.set_tag(run.info.run_id, "mlflow.note.content", note)
    return True
