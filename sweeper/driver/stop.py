"""Stop or pause a running sweep: on a signal, its timeout, a command, a lost lease or repeated failures."""

from __future__ import annotations

import logging
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import psutil
from sqlalchemy.exc import SQLAlchemyError

from sweeper.core.errors import StopReason
from sweeper.core.files import PinnedPath
from sweeper.core.secrets import redact

if TYPE_CHECKING:
    from sweeper.study.storage.commands import Command
    from sweeper.study.study import SweepStudy

logger = logging.getLogger(__name__)


POLL_INTERVAL_S = 1.0
"""Interval between two reads of the commands that other processes send."""


RAY_START_GRACE_S = 1.0
"""Time that Ray has, after a signal, to finish its start. Then the process exits: there is nothing to save yet."""


WATCH_INTERVAL_S = 0.2
"""Interval, after a signal, between two looks whether a call that must not last longer has ended."""


def how_to_resume() -> str:
    """Return a sentence with the command that resumes the sweep of this process, if a command of sweeper runs it."""
    program = Path(sys.argv[0] if sys.argv else "")
    if program.name == "sweeper" or program.parts[-2:] == ("sweeper", "__main__.py"):
        return f"Progress is saved. Resume with: {redact(shlex.join(['sweeper', *sys.argv[1:]]))}"
    return "Progress is saved; run the same command again to resume."


STOPPED_AT_START = f"Stopped while Ray was starting. {how_to_resume()}"


class StopSignal:
    """The reason to stop a sweep early, once there is one: a signal or its timeout. A second Ctrl-C exits at once."""

    _REASONS = {
        signal.SIGINT: StopReason.INTERRUPTED,
        signal.SIGTERM: StopReason.TERMINATED,
        signal.SIGHUP: StopReason.TERMINATED,
    }

    def __init__(self, timeout: float | None) -> None:
        self.reason: StopReason | None = None
        self.detail = ""
        """Sentence about the reason, if its name is not enough."""
        self.is_announced = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._pipe: tuple[int, int] | None = None
        self._time_limit: tuple[float, str] | None = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # no other thread may set signal handlers
            self._before = {number: signal.getsignal(number) for number in self._REASONS}
            if self._before[signal.SIGHUP] is signal.SIG_IGN:  # `nohup`: the sweep must outlive its terminal
                del self._before[signal.SIGHUP]
            reader, writer = self._pipe = os.pipe()
            os.set_blocking(writer, False)
            self._wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), name="sweeper-signals", daemon=True).start()
        for number in self._before:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._pipe[1])  # ends the thread, which closes the other end

    def is_set(self) -> bool:
        """Return whether the sweep has to stop; check its timeout."""
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = StopReason.TIMEOUT
        return self.reason is not None

    def extend(self, seconds: float) -> None:
        """Move the timeout by the seconds that the sweep was paused."""
        if self._deadline is not None:
            self._deadline += seconds

    @contextmanager
    def exiting(self, after_s: float, message: str) -> Iterator[None]:
        """Exit the process with a message if the block has not ended so many seconds after a signal.

        For calls that obey no signal and may wait for long, such as Ray's start.
        """
        self._time_limit = after_s, message
        try:
            yield
        finally:
            self._time_limit = None

    def requested(self) -> StopReason | None:
        """Return why the sweep has to stop; None if it has not."""
        return self.reason if self.is_set() else None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.reason = self._REASONS[signal.Signals(number)]

    def _watch(self, reader: int) -> None:
        """Exit the process, from a thread, at the second Ctrl-C, or when a block of `exiting` lasts too long.

        Python runs signal handlers in the main thread only, after any call into C that it waits for, such as Ray's
        start or shutdown. It writes the number of each signal into the pipe at once.
        """
        interrupts = 0
        first: tuple[StopReason, float] | None = None
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while True:
                if poll.poll(None if first is None else WATCH_INTERVAL_S * 1000):
                    numbers = pipe.read(64)
                    if not numbers:
                        return
                    interrupts += numbers.count(bytes([signal.SIGINT]))
                    reasons = [self._REASONS[number] for number in self._before if number in numbers]
                    if reasons and first is None:
                        first = reasons[0], time.monotonic()
                        self.reason = self.reason or first[0]  # at once, wherever the main thread is
                if interrupts > 1:
                    exit_now(StopReason.INTERRUPTED.exit_code, f"Exited immediately. {how_to_resume()}")
                limit = self._time_limit
                if first is not None and limit is not None and time.monotonic() - first[1] >= limit[0]:
                    exit_now(first[0].exit_code, limit[1])


def exit_now(code: int, message: str) -> NoReturn:
    """Print a message, kill all descendants and exit, from any thread."""
    shown_cursor = "\x1b[?25h" if os.isatty(2) else ""  # the live display has hidden it
    with suppress(OSError):
        os.write(2, f"{shown_cursor}\n{message}\n".encode())
    _kill_children()
    os._exit(code)


def _kill_children() -> None:
    """Kill all descendants of this process; they would end by themselves, but later.

    First suspend all of them, because a suspended process starts no others; otherwise those that start during the
    killing would survive. The main thread may be about to start Ray, so it must start no process either.
    """
    subprocess.Popen.__init__ = lambda *_, **__: time.sleep(3600)  # type: ignore[method-assign]
    me = psutil.Process()
    suspended: set[psutil.Process] = set()
    while new := set(me.children(recursive=True)) - suspended:
        for child in new:
            with suppress(psutil.NoSuchProcess):
                child.suspend()
        suspended |= new
    own = set(me.children())
    for child in [*(suspended - own), *own]:  # direct children last: the main thread may wait for one, and would resume
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


class Control(Protocol):
    """Decides whether a run of trials stops or pauses."""

    def wait_or_stop(self) -> bool:
        """Return whether the run has to stop. Blocks while the sweep is paused."""

    def is_stopping(self) -> bool:
        """Return at once whether the run has to stop."""


class RunControl:
    """Decides, between two events, whether a sweep stops, and pauses it.

    To pause, the driver just waits: each worker then waits for the answer to its report, and computes nothing.
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
            StorageError: the folder of the sweep was removed or replaced.
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
            at_terminal = os.isatty(0) or os.isatty(2)
            again = "; press Ctrl-C again to exit immediately" if at_terminal else ""
            self._study.announce(f"Stopping. Progress is saved{again}.")
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
        self._study.announce(f"Paused. Continue with: sweeper unpause {self._study.name}")
        while self._command == "pause" and not self._stop.is_set():
            self._study.require_lease()
            time.sleep(POLL_INTERVAL_S / 4)
            self._poll()
            self._stop.extend(time.monotonic() - since)
            since = time.monotonic()
        if not self._stop.is_set() and self._command is None:
            self._study.announce("The sweep continues.")

    def _poll(self) -> None:
        """Read the current command; keep the last one while the database is unavailable."""
        self._polled = time.monotonic()
        try:
            self._command = self._study.commands.acknowledge()
        except SQLAlchemyError:
            logger.debug("cannot read the commands for sweep %r", self._study.name, exc_info=True)


class _PastTimeout:
    """Lets the evaluation of the best trial run after the timeout."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def wait_or_stop(self) -> bool:
        """Return whether something other than the timeout stops the run. Never blocks: the pause was for the search."""
        return self.is_stopping()

    def is_stopping(self) -> bool:
        """Return whether something other than the timeout stops the run."""
        return self._stop.reason is not StopReason.TIMEOUT
