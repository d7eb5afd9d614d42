"""Keeps MLflow up to date while a sweep runs, from a thread of its own that may be as slow as MLflow is."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from sweeper.core.errors import StorageError, TrackingError
from sweeper.core.secrets import redact
from sweeper.tracking.client import configure_mlflow, short_reason
from sweeper.tracking.sync import StudySync

if TYPE_CHECKING:
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.spec import Sweep
    from sweeper.tracking.content import Study

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 1.0
"""Seconds between two looks at what has changed."""

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds to wait after the first, second, ... failure in a row."""


class Projection:
    """Copies what happens in a study into MLflow, about once a second.

    It remembers only which trials changed, and reads their reports from the study when MLflow takes them: an outage
    costs no memory, delays nobody and loses nothing. What was not delivered when the process ends, the next
    `start` or `sync` delivers.
    """

    def __init__(self, sweep: Sweep, uri: str) -> None:
        self.name = sweep.name
        self.uri = uri
        self._mirror: StudySync | None = None
        self._changed: dict[int, TrialRecord] = {}
        self._state = threading.Condition()
        self._wake = threading.Event()
        self._has_news = threading.Event()
        self._patience = 0.0
        self._is_closing = False
        self._is_abandoned = False
        self._is_idle = False
        self._failures = 0
        self._attempts = 0
        self._thread = threading.Thread(target=self._work, name="sweeper-mlflow", daemon=True)

    def start(self, study: Study, *, first_report_wait_s: float = 0.0) -> None:
        """Begin with everything the study holds and MLflow lacks; the store is opened in the background.

        Args:
            first_report_wait_s: seconds to wait for a report before that: it is five seconds of a processor's work, which a sweep
                that begins has better use for.
        """
        configure_mlflow()
        self._patience = first_report_wait_s
        self._mirror = StudySync(study, self.uri)
        with self._state:
            self._changed = {**{row.number: row for row in study.rows()}, **self._changed}
        self._thread.start()

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        with self._state:
            self._changed[row.number] = row
            self._is_idle = False
        if report is not None:
            self._has_news.set()

    def on_phase(self, message: str) -> None:
        pass

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until MLflow has everything; False when it cannot be reached or is not done in time."""
        self._has_news.set()
        with self._state:
            self._is_idle = False
            self._wake.set()
            tried = self._attempts + 1
            self._state.wait_for(lambda: self._is_idle or (self._failures > 1 and self._attempts >= tried), timeout)
            return self._is_idle

    def stop_writing(self) -> None:
        """Write nothing any more: the sweep is another process's, which copies it as well."""
        self._is_abandoned = True
        self._has_news.set()
        self._wake.set()

    def close(self, timeout: float = 30.0) -> bool:
        """Deliver the rest, say that the sweep has ended, and end; False if MLflow does not have everything."""
        if self._thread.ident is None or self._is_abandoned:
            return True
        self._is_closing = True
        self._has_news.set()
        self._wake.set()
        self._thread.join(timeout)
        return self._is_idle and not self._thread.is_alive()

    def _work(self) -> None:
        self._has_news.wait(self._patience)
        while not self._is_abandoned:
            self._wake.clear()
            is_closing = self._is_closing
            is_delivered = self._deliver(is_live=not is_closing)
            if is_closing and (is_delivered or self._failures > 1):
                return
            # The last attempts before the end do not wait for an outage to pass.
            wait = BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1] if self._failures else POLL_INTERVAL_S
            if is_closing:
                time.sleep(POLL_INTERVAL_S / 2)
            else:
                self._wake.wait(wait)

    def _deliver(self, *, is_live: bool) -> bool:
        """Write all changes up to now; nothing that goes wrong here may end the thread."""
        assert self._mirror is not None
        with self._state:
            rows, self._changed = self._changed, {}
        try:
            if rows or not is_live or not self._attempts or self._failures:
                self._mirror.write(rows.values(), is_live=is_live)
        except Exception as error:
            with self._state:
                self._changed = {**rows, **self._changed}
                self._attempts, self._failures = self._attempts + 1, self._failures + 1
                self._state.notify_all()
            # A single failure may be one lost answer, and is nobody's concern; of the database the study speaks itself.
            if self._failures == 2 and not isinstance(error, StorageError):
                logger.warning("MLflow at %s is away (%s); the sweep goes on", redact(self.uri), short_reason(error))
            logger.debug("MLflow failed", exc_info=True)
            return False
        if self._failures > 1:
            logger.warning("MLflow at %s is back: %d records delivered", redact(self.uri), self._mirror.written)
        with self._state:
            self._attempts, self._failures, self._mirror.written = self._attempts + 1, 0, 0
            self._is_idle = not self._changed
            self._state.notify_all()
        return self._is_idle


def sync(study: Study, uri: str) -> int:
    """Write into MLflow whatever it lacks of a study; the number of records written. Run it as often as you like.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    configure_mlflow()
    mirror = StudySync(study, uri)
    for attempt in range(3):
        try:
            mirror.write(study.rows(), is_live=False)
            return mirror.written
        except Exception as error:
            if attempt == 2:
                raise TrackingError(f"MLflow at {redact(uri)}: {short_reason(error)}") from error
            time.sleep(POLL_INTERVAL_S)
    raise AssertionError("the loop returns or raises")
