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
from typing import Any, Protocol

import psutil
from sqlalchemy.exc import SQLAlchemyError

from sweeper.core.errors import StopReason
from sweeper.core.files import PinnedPath
from sweeper.study.commands import Command
from sweeper.study.study import SweepStudy


class StopSignal:
    """Why a sweep is to end early, if it is: a signal, or its timeout. A second Ctrl-C leaves at once."""

    _REASONS = {
        signal.SIGINT: StopReason.INTERRUPTED,
        signal.SIGTERM: StopReason.TERMINATED,
        signal.SIGHUP: StopReason.TERMINATED,
    }

    def __init__(self, timeout: float | None) -> None:
        self.reason: StopReason | None = None
        self.detail = ""
        """A sentence about the reason, where its name does not say all."""
        self.is_announced = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # no other thread may have signal handlers
            self._before = {number: signal.getsignal(number) for number in self._REASONS}
            if self._before[signal.SIGHUP] is signal.SIG_IGN:  # `nohup`: the sweep is to outlive its terminal
                del self._before[signal.SIGHUP]
            reader, writer = self._pipe = os.pipe()
            os.set_blocking(writer, False)
            self._wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            threading.Thread(
                target=_exit_at_second_interrupt, args=(reader,), name="sweeper-signals", daemon=True
            ).start()
        for number in self._before:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._pipe[1])  # which ends the thread, and that closes the other end

    def is_set(self) -> bool:
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = StopReason.TIMEOUT
        return self.reason is not None

    def extend(self, seconds: float) -> None:
        """Give time back that the sweep could not use."""
        if self._deadline is not None:
            self._deadline += seconds

    def requested(self) -> StopReason | None:
        """Why the sweep is to end; None if it is not."""
        return self.reason if self.is_set() else None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.reason = self._REASONS[signal.Signals(number)]


def _exit_at_second_interrupt(reader: int) -> None:
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


POLL_INTERVAL_S = 1.0
"""Seconds between two looks at what another terminal wants."""


class Control(Protocol):
    """What may end or pause a run of trials."""

    def wait_or_stop(self) -> bool:
        """Return whether the run has to stop. Blocks while the sweep is paused."""

    def is_stopping(self) -> bool:
        """Return at once whether the run has to stop."""


class RunControl:
    """Decides, between two events, whether a sweep stops, and pauses it.

    A driver that does not answer holds up everything: a worker waits at its report, and computes nothing.
    """

    def __init__(self, study: SweepStudy, stop: StopSignal, folder: PinnedPath) -> None:
        self._study = study
        self._stop = stop
        self._folder = folder
        self._polled = 0.0
        self._command: Command | None = None

    def wait_or_stop(self) -> bool:
        """Return whether the run has to stop before its trials end. Blocks while the sweep is paused.

        Raises:
            LeaseLostError: another process owns the sweep now.
            StorageError: its folder is gone.
        """
        self._study.require_lease()
        self._folder.check_unchanged()
        self._pause_while_asked()
        if self._stop.reason is None and self._command == "stop":
            self._stop.reason = StopReason.COMMAND
        if self._stop.reason is None and (failures := self._study.retries.repeated_failure()):
            self._stop.reason, self._stop.detail = StopReason.REPEATED_FAILURE, failures
        if self._stop.is_set() and not self._stop.is_announced:
            self._stop.is_announced = True
            self._study.announce("Stopping. Progress is saved; press Ctrl-C again to exit immediately.")
        return self._stop.is_set()

    def is_stopping(self) -> bool:
        """Return at once whether the run has to stop."""
        return self._stop.is_set()

    def past_timeout(self) -> Control:
        """Return a control that stops for any other reason than the timeout, which limits the search only."""
        return _PastTimeout(self._stop)

    def _pause_while_asked(self) -> None:
        if time.monotonic() - self._polled < POLL_INTERVAL_S:
            return
        self._poll()
        if self._command != "pause":
            return
        since = time.monotonic()
        self._study.announce(f"paused; go on with: sweeper unpause {self._study.name}")
        while self._command == "pause" and not self._stop.is_set():
            self._study.require_lease()
            time.sleep(POLL_INTERVAL_S / 4)
            self._poll()
            self._stop.extend(time.monotonic() - since)
            since = time.monotonic()
        if not self._stop.is_set() and self._command is None:
            self._study.announce("going on")

    def _poll(self) -> None:
        """See what is wanted; a database that is away for the moment wants nothing new."""
        self._polled = time.monotonic()
        try:
            self._command = self._study.commands.acknowledge()
        except SQLAlchemyError:
            logger.debug("the orders for sweep %r cannot be read", self._study.name, exc_info=True)


class _PastTimeout:
    """Lets the evaluation of the best trial run after the timeout."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def wait_or_stop(self) -> bool:
        """Return whether something else than the timeout ended the run."""
        return self.is_stopping()

    def is_stopping(self) -> bool:
        """Return whether something else than the timeout ended the run."""
        return self._stop.reason is not StopReason.TIMEOUT
