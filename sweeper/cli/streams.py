"""Standard streams that are missing, full or broken: a sweep continues without them."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sweeper.core.secrets import redact


def open_missing_streams() -> None:
    """Open the null device for each standard stream that the process was started without, as with `2>&-`.

    Otherwise Python has None in its place, which Ray and others cannot use, and the next file that is opened becomes
    the stream of every child process.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the missing one
            os.set_inheritable(descriptor, True)
            stream = open(descriptor, mode, closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


@contextmanager
def unfailing_streams() -> Iterator[Callable[[], OSError | None]]:
    """Let no write to stdout or stderr fail while the block runs, and mask secrets in what goes to stderr.

    After the first error of a stream, the rest of its output goes to the null device. Streams that a test has replaced
    are left alone.

    Yields:
        A function that writes out what is buffered, and returns why stdout lost output; None if it did not, or if its
        reader closed the pipe, as in `sweeper show NAME | head`.
    """
    before = sys.stdout, sys.stderr
    results = _wrap(sys.stdout, 1, io.TextIOWrapper)
    notes = _wrap(sys.stderr, 2, _MaskedText)
    sys.stdout, sys.stderr = results or sys.stdout, notes or sys.stderr

    def lost_output() -> OSError | None:
        if results is None:
            return None
        results.flush()
        error: OSError | None = results.buffer.raw.error  # type: ignore[attr-defined]
        return None if isinstance(error, BrokenPipeError) else error

    try:
        yield lost_output
    finally:
        for stream in (results, notes):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


class _UnfailingFile(io.FileIO):
    """A file descriptor that continues as the null device after its first error."""

    error: OSError | None = None

    def write(self, content: Any, /) -> int:
        try:
            while (written := super().write(content)) is None:  # a full pipe that its other users made non-blocking
                select.select((), (self,), ())
            return written
        except OSError as error:
            self.error = self.error or error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(content).nbytes


class _MaskedText(io.TextIOWrapper):
    """Text in which secrets are masked: libraries log to stderr what a server said, or a part of a URL."""

    def write(self, text: str, /) -> int:
        super().write(redact(text))
        return len(text)


def _wrap(stream: Any, descriptor: int, kind: type[io.TextIOWrapper]) -> io.TextIOWrapper | None:
    """Return a stream on the same descriptor whose writes do not fail; None if this is not the process's own."""
    try:
        if stream.fileno() != descriptor:
            return None
    except (AttributeError, OSError, ValueError):
        return None
    stream.flush()
    file = io.BufferedWriter(_UnfailingFile(descriptor, "w", closefd=False))
    lines = descriptor == 2 or os.isatty(descriptor)
    return kind(file, stream.encoding, "backslashreplace", line_buffering=lines)
