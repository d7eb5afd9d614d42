"""Why a running sweep stops or waits: signals, its timeout, commands, repeated failures."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import psutil
from sqlalchemy.exc import SQLAlchemyError

from sweeper.core.files import Place
from sweeper.study.commands import Order
from sweeper.study.study import SweepStudy


class StopRequest:
    """Why a sweep is to end early, if it is: a signal, or its timeout. A second Ctrl-C leaves at once."""

    _REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}

    def __init__(self, timeout: float | None) -> None:
        self.reason: str | None = None
        self.is_announced = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # no other thread may have signal handlers
            self._before = {number: signal.getsignal(number) for number in self._REASONS}
            if self._before[signal.SIGHUP] is signal.SIG_IGN:  # `nohup`: the sweep is to outlive its terminal
                del self._before[signal.SIGHUP]
            reader, writer = self._pipe = os.pipe()
            os.set_blocking(writer, False)
            self._wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            threading.Thread(target=_leave_at_the_second, args=(reader,), name="sweeper-signals", daemon=True).start()
        for number in self._before:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._pipe[1])  # which ends the thread, and that closes the other end

    def is_requested(self) -> bool:
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "timeout"
        return self.reason is not None

    def extend(self, seconds: float) -> None:
        """Give time back that the sweep could not use."""
        if self._deadline is not None:
            self._deadline += seconds

    def requested(self) -> str | None:
        """Why the sweep is to end; None if it is not."""
        return self.reason if self.is_requested() else None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.reason = self._REASONS[signal.Signals(number)]


def _leave_at_the_second(reader: int) -> None:
    """End the process at the second Ctrl-C, from a thread.

    Python's handlers run in the main thread, and only when it comes back from what it waits for: Ray's shutdown, say.
    The number of each signal, though, is written into the pipe at once.
    """
    seen = 0
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while numbers := pipe.read(64):
            seen += numbers.count(bytes([signal.SIGINT]))
            if seen > 1:
                os.write(2, b"\nleft at once; nothing is lost\n")
                _kill_children()
                os._exit(130)


def _kill_children() -> None:
    """End all that descends from this process; it would end by itself, but later.

    What is halted starts nothing any more, so that none slips through that began while the others were ended; nor does
    the main thread, which may be about to start Ray.
    """
    subprocess.Popen.__init__ = lambda *_, **__: time.sleep(3600)  # type: ignore[method-assign]
    me = psutil.Process()
    halted: set[psutil.Process] = set()
    while new := set(me.children(recursive=True)) - halted:
        for child in new:
            with suppress(psutil.NoSuchProcess):
                child.suspend()
        halted |= new
    own = set(me.children())
    for child in [*(halted - own), *own]:  # the main thread may wait for one of its own, and must not get to go on
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


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
