"""The terminal of a command that shows something until it is left: single keys, a closed pipe, an end in order."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

KEY_INTERVAL_S = 0.2
"""Longest wait for a key, or for the end of the reader of stdout."""


@contextmanager
def orderly_end() -> Iterator[None]:
    """Leave the block without an error at Ctrl-C, and restore the terminal at SIGTERM and SIGHUP too."""
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: sys.exit(143)) for number in numbers}
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def keys() -> Iterator[Callable[[], bool]]:
    """Take single keys from the terminal in the block; yield a function that waits a moment for a `q`.

    Ctrl-C stays a signal. Where keys cannot be taken (stdin is no terminal, or this process is in the background and
    would be suspended), the function only waits.
    """
    try:
        fd = sys.stdin.fileno()
        is_ours = os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
        before = termios.tcgetattr(fd) if is_ours else None
    except (OSError, ValueError, termios.error):
        before = None

    def is_asked_to_leave() -> bool:
        if before is None:
            time.sleep(KEY_INTERVAL_S)
            return False
        is_ready, _, _ = select.select([fd], [], [], KEY_INTERVAL_S)
        if not is_ready:
            return False
        typed = os.read(fd, 64)
        return not typed or b"q" in typed.lower()  # nothing: the terminal is gone

    try:
        if before is not None:
            tty.setcbreak(fd, termios.TCSADRAIN)
        yield is_asked_to_leave
    finally:
        if before is not None:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def reader() -> Iterator[Callable[[], bool]]:
    """Yield a function that waits a moment, and returns whether nobody reads stdout any more, as after `| head`."""
    try:
        copy = os.dup(sys.stdout.fileno())  # after the first failed write stdout is the null device
    except (OSError, ValueError):  # it is no file of the system
        yield lambda: threading.Event().wait(KEY_INTERVAL_S)
        return
    poll = select.poll()
    poll.register(copy, 0)
    try:
        yield lambda: any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(KEY_INTERVAL_S * 1000))
    finally:
        os.close(copy)
