"""The state of a worker's process: what a trial changes is undone before the next trial."""

from __future__ import annotations

import gc
import locale
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
