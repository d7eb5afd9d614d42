"""What ends or holds up a running sweep: a signal, its timeout, another terminal, another owner, a hopeless cause."""

from __future__ import annotations

import logging
import time

from sqlalchemy.exc import SQLAlchemyError

from sweeper.core.files import Place
from sweeper.stopping import StopRequest
from sweeper.study.commands import Order
from sweeper.study.study import SweepStudy

logger = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at what another terminal wants."""


class Control:
    """Asked between events whether a sweep is to end; while it is paused, the answer is a long time coming.

    A driver that does not answer holds up all: a worker waits at its report for the word to go on, and computes
    nothing.
    """

    def __init__(self, study: SweepStudy, stop: StopRequest, folder: Place) -> None:
        self._study = study
        self._stop = stop
        self._folder = folder
        self._looked = 0.0
        self._order: Order | None = None

    def is_over(self) -> bool:
        """Whether the run is to end before its trials do; says so the first time.

        Raises:
            LeaseLostError: another process goes on with the sweep.
            StorageError: its folder is gone.
        """
        self._study.require_lease()
        self._folder.require()
        self._obey()
        if self._stop.reason is None:
            self._stop.reason = self._reason()
        if not self._stop.is_requested():
            return False
        if not self._stop.is_announced:
            self._stop.is_announced = True
            self._study.announce("stopping; the state is safe, and Ctrl-C again leaves at once")
        return True

    def _reason(self) -> str | None:
        return "stopped" if self._order == "stop" else self._study.history.hopeless()

    def _obey(self) -> None:
        if time.monotonic() - self._looked < _LOOK:
            return
        self._look()
        if self._order != "pause":
            return
        since = time.monotonic()
        self._study.announce(f"paused; go on with: sweeper continue {self._study.name}")
        while self._order == "pause" and not self._stop.is_requested():
            self._study.require_lease()
            time.sleep(_LOOK / 4)
            self._look()
            self._stop.extend(time.monotonic() - since)
            since = time.monotonic()
        if not self._stop.is_requested() and self._order is None:
            self._study.announce("going on")

    def _look(self) -> None:
        """See what is wanted; a database that is away for the moment wants nothing new."""
        self._looked = time.monotonic()
        try:
            self._order = self._study.orders.obey()
        except SQLAlchemyError:
            logger.debug("the orders for sweep %r cannot be read", self._study.name, exc_info=True)
