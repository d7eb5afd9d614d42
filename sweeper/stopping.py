"""Why a sweep is to end before its trials do: a signal, or its timeout."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any


class StopRequest:
    """Why a sweep is to end early, if it is: a signal, or its timeout. A second Ctrl-C leaves at once."""

    _REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}

    def __init__(self, timeout: float | None) -> None:
        self.reason: str | None = None
        self.is_announced = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # no other thread may have signal handlers
            self._before = {number: signal.getsignal(number) for number in self._REASONS}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        for number in self._before:
            signal.signal(number, self._on_signal)

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
        if self.reason == "interrupted" and number == signal.SIGINT:
            os.write(2, b"\nleft at once; nothing is lost\n")
            os._exit(130)
        self.reason = self._REASONS[signal.Signals(number)]
