"""What a trial prints: kept in its folder, one private and bounded file for each attempt; the metrics in its lines."""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sweeper.core.files import make_folder, open_regular, written_whole
from sweeper.core.sweep_folder import output_name
from sweeper.worker.command.supervisor import MAX_FILE_BYTES

CHECK_INTERVAL_S = 1.0
"""Seconds between two looks at the size of the file."""

MAX_TRACEBACK_CHARS = 50_000
"""Number of characters that are kept of a long traceback: so many of its beginning, and as many of its end."""


def shorten(text: str) -> str:
    """Cut out the middle of a text that is too long to keep."""
    if len(text) <= 2 * MAX_TRACEBACK_CHARS:
        return text
    start, end = text[:MAX_TRACEBACK_CHARS], text[-MAX_TRACEBACK_CHARS:]
    return f"{start}\n[{len(text) - 2 * MAX_TRACEBACK_CHARS} characters left out]\n{end}"


@contextmanager
def kept_output(folder: Path, attempt: int, notify: Callable[[str], None]) -> Iterator[None]:
    """Write what this process prints while the block runs to a file: Python, C code, and child processes.

    The file descriptors 1 and 2 are redirected, so that nothing is lost when the process is killed. A disk that is full
    loses output, but raises no error in Python code that prints.

    Args:
        folder: the folder of the trial.
        notify: called with a sentence if the file cannot be opened; the output then goes where it went before.
    """
    path = folder / output_name(attempt)
    try:
        make_folder(folder)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        notify(f"What the trial prints is not kept ({error.strerror}).")
        yield
        return
    streams = sys.stdout, sys.stderr
    _flush()
    saved = [os.dup(1), os.dup(2)]
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(file, path, ended), name="sweeper-output", daemon=True)
    try:
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        sys.stdout, sys.stderr = _UnfailingText(1), _UnfailingText(2)
        watcher.start()
        yield
    finally:
        _flush()
        for descriptor, before in zip((1, 2), saved, strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        sys.stdout, sys.stderr = streams
        ended.set()
        watcher.join()
        if not os.fstat(file).st_size:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # it has checkpoints
                folder.rmdir()
        os.close(file)


class _UnfailingFile(io.FileIO):
    def write(self, content: Any, /) -> int:
        with suppress(OSError):
            super().write(content)
        return memoryview(content).nbytes


class _UnfailingText(io.TextIOWrapper):
    """Text stream on a file descriptor, without a buffer; nothing that is written to it fails."""

    def __init__(self, descriptor: int) -> None:
        file: Any = _UnfailingFile(descriptor, "w", closefd=False)
        super().__init__(file, "utf-8", "backslashreplace", write_through=True)


def _flush() -> None:
    """Write out what is buffered, by Python and by the C library."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the trainable may have closed or replaced it
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _watch(file: int, path: Path, ended: threading.Event) -> None:
    while not ended.wait(CHECK_INTERVAL_S):
        with suppress(OSError):
            if os.fstat(file).st_size >= MAX_FILE_BYTES:
                _cut(file, path)


def _cut(file: int, path: Path) -> None:
    """Copy the file aside and empty it: its writers keep it open. What they write meanwhile is lost."""
    aside = path.with_suffix(".old.txt")
    with written_whole(aside) as beside, open_regular(path) as source:
        source.seek(-MAX_FILE_BYTES, os.SEEK_END)
        beside.write_bytes(source.read(MAX_FILE_BYTES))
    os.ftruncate(file, 0)
    note = f"[{MAX_FILE_BYTES >> 20} MB before this are in {aside.name}]\n"
    os.write(file, note.encode())


MAX_LINE_BYTES = 1 << 16
"""Longest line of output that may be a report."""

_NAME = re.compile(r"[A-Za-z_][\w./-]*")
_SEPARATOR = re.compile(r"[\s,;]+")


def metrics_in(line: str) -> dict[str, float]:
    """Return the metrics of a line that consists of `name=value` pairs or of one JSON object; {} for any other line.

    Values of a JSON object that are not numbers are left out.
    """
    text = line.strip().rpartition("\r")[2].strip()  # a progress bar may stand before it
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        is_number = {
            name: isinstance(value, int | float) and not isinstance(value, bool) for name, value in found.items()
        }
        return {name: _float(value) for name, value in found.items() if is_number[name]}
    pairs = [part.partition("=") for part in _SEPARATOR.split(text.rstrip(",;"))]
    try:
        numbers = {name: float(value) for name, _, value in pairs}
    except ValueError:
        return {}
    return numbers if all(map(_NAME.fullmatch, numbers)) else {}


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf
