"""The state of a worker's process: what a trial changes is undone before the next trial."""

from __future__ import annotations

import functools
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from sweeper.core.code.user_code import is_own_code

_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CORE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


@contextmanager
def restored_process() -> Iterator[None]:
    """Restore, after the block, what belongs to the whole process and not to a trial.

    Signal handlers are not among it: a trial runs in a thread, and Python lets only the main thread set them.
    """
    folder, umask, variables, path = os.getcwd(), _umask(), dict(os.environ), list(sys.path)
    streams = sys.stdin, sys.stdout, sys.stderr
    settings = locale.setlocale(locale.LC_ALL), sys.getrecursionlimit(), socket.getdefaulttimeout(), gc.isenabled()
    limits = {limit: resource.getrlimit(limit) for limit in _LIMITS}
    timers = {timer for timer in _TIMERS if signal.getitimer(timer)[0]}
    try:
        yield
    finally:
        with suppress(OSError):  # the folder was removed
            os.chdir(folder)
        os.umask(umask)
        _restore_environment(variables)
        sys.path[:] = path
        sys.stdin, sys.stdout, sys.stderr = streams
        locale.setlocale(locale.LC_ALL, settings[0])
        sys.setrecursionlimit(settings[1])
        socket.setdefaulttimeout(settings[2])
        (gc.enable if settings[3] else gc.disable)()
        for timer in set(_TIMERS) - timers:
            signal.setitimer(timer, 0)  # its signal would end the worker
        for limit, value in limits.items():
            if resource.getrlimit(limit) != value:
                with suppress(OSError, ValueError):  # no process may raise a hard limit that was lowered
                    resource.setrlimit(limit, value)


def has_own_threads() -> bool:
    """Return whether threads other than this one and the main one run the user's code. Nothing can end them.

    Threads of libraries, such as an idle pool, do not count.
    """
    known = threading.main_thread(), threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread not in known]
    frames = sys._current_frames() if others else {}
    return any(_runs_own_code(frames.get(thread.ident or 0)) for thread in others)


def _runs_own_code(frame: FrameType | None) -> bool:
    while frame is not None:
        if _is_own_code(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False


@functools.lru_cache(maxsize=1000)
def _is_own_code(file: str) -> bool:
    return os.path.isfile(file) and is_own_code(file)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _restore_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
