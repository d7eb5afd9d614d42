"""The process of a command, as its worker sees it: started, followed by its calls and its lines, and ended."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from sweeper.core.files import private_folder
from sweeper.worker.command import supervisor
from sweeper.worker.output import MAX_LINE_BYTES, metrics_in
from sweeper.worker.script import SOCKET_VARIABLE

LINE_DELAY_S = 0.1
"""Time between a line with metrics and its report. A script that also calls `sweeper.report` does so within it."""

CALL_TIMEOUT_S = 10.0
"""Longest time that a script may take to send the metrics of a call."""

MAX_CALL_BYTES = 1 << 20

MIN_SOCKET_AGE_S = 60.0
"""A younger socket may be one that its worker does not listen to yet."""

END_LIMIT_S = supervisor.TERM_GRACE_S + supervisor.KILL_LIMIT_S + 5.0
"""Longest time to wait for the end of all processes of a command."""

_RAY_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_CLIENT_MODE", "RAY_JOB_ID", "RAY_RAYLET_PID", "SPT_NOENV")
"""Variables that Ray and sweeper set for workers. A script that uses a Ray of its own must not have them."""


def inherited_environment() -> dict[str, str]:
    """Return the environment of this process without what is meant for Ray's workers."""
    breakpoint_hook = os.environ.get("PYTHONBREAKPOINT", "")
    hidden = {*_RAY_VARIABLES, *(["PYTHONBREAKPOINT"] if breakpoint_hook.startswith("ray.") else [])}
    return {name: value for name, value in os.environ.items() if name not in hidden}


class Report(Protocol):
    """Makes a report; returns whether more may follow."""

    def __call__(self, metrics: Mapping[str, Any], *, is_waiting: bool) -> bool: ...


class CommandProcess:
    """A command that runs in a session of its own. At the end of the block all of its processes have ended.

    Args:
        output: the file that keeps what it prints.
        work: a folder that is removed if this process dies.
        objective: the metric without which a line is no report.
    """

    def __init__(
        self, words: list[str], folder: Path, environment: dict[str, str], output: Path, *, objective: str, work: Path
    ):
        self.uses_calls = False
        """Whether it reports by `sweeper.report`. Its lines are not reports then."""
        self._objective = objective
        self._line_reports = 0
        self._held: tuple[float, dict[str, float]] | None = None
        self._partial = b""
        self._has_lines = True
        self._near_miss = ""
        _remove_dead_sockets(private_folder())
        self._socket = str(private_folder() / f"{os.getpid()}-{uuid4().hex[:8]}.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._socket)
        self._listener.listen(128)
        control, self._control = os.pipe()
        self._status, status = os.pipe()
        self._lines, lines = os.pipe()
        passed = (control, status, lines)
        command = [sys.executable, "-I", "-S", supervisor.__file__, *map(str, passed)]
        command += [str(output), self._socket, str(work), str(folder), *words]
        try:
            self._guard = subprocess.Popen(
                command,
                env=environment | {SOCKET_VARIABLE: self._socket},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,
            )
        except BaseException:
            self._close(self._control, self._status, self._lines)
            raise
        finally:
            for end in passed:
                os.close(end)

    def __enter__(self) -> CommandProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """End the command, if it has not ended, and wait until all of its processes have."""
        deadline = time.monotonic() + END_LIMIT_S
        for end in (self._control, self._lines):  # nobody reads the lines any more
            os.close(end)
        self._has_lines = False
        while self._poll(seconds=deadline - time.monotonic()):
            if not os.read(self._status, 1 << 16):  # the supervisor has ended
                break
        else:
            self._guard.kill()
        self._guard.wait()
        self._close(self._status)

    def _close(self, *ends: int) -> None:
        for end in ends:
            os.close(end)
        self._listener.close()
        with suppress(FileNotFoundError):
            os.unlink(self._socket)

    def follow(self, report: Report, notify: Callable[[str], None]) -> str:
        """Make the reports of the command until it ends; return how it ended, see `supervisor`."""
        while True:
            ready = self._poll(self._listener.fileno(), seconds=self._time_to_report())
            if self._listener.fileno() in ready:
                self._answer(self._listener.accept()[0], report, notify)
            if self._held is not None and time.monotonic() >= self._held[0]:
                self._report_line(report)
            if self._lines in ready:
                self._read_lines(report)
            elif self._status in ready:  # it is written after all lines
                self._take_line(self._partial, report)
                self._report_line(report)
                with open(self._status, "rb", closefd=False) as file:
                    return file.read().decode(errors="replace")

    def wait(self, seconds: float) -> None:
        """Wait until the command ends, at most so long, without making reports."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ready = self._poll(seconds=left)
            if self._lines in ready:
                self._has_lines = bool(os.read(self._lines, 1 << 16))
            elif self._status in ready:
                return

    def missed_report(self) -> str:
        """Return what a script has to do that has made no report."""
        way = f"print a line such as {self._objective}=0.93, or call sweeper.report({self._objective}=0.93)"
        return f"its line {self._near_miss!r} has more than pairs name=value; {way}" if self._near_miss else way

    def _poll(self, *others: int, seconds: float | None) -> set[int]:
        """Return what can be read within so many seconds: lines, the status, and others."""
        poll = select.poll()
        for source in (*others, self._status, *([self._lines] if self._has_lines else [])):
            poll.register(source, select.POLLIN)
        return {source for source, _ in poll.poll(None if seconds is None else max(0.0, seconds) * 1000)}

    def _time_to_report(self) -> float | None:
        return None if self._held is None else self._held[0] - time.monotonic()

    def _answer(self, connection: socket.socket, report: Report, notify: Callable[[str], None]) -> None:
        """Make the report of one call of `sweeper.report`, and send its verdict."""
        connection.settimeout(CALL_TIMEOUT_S)
        with connection, connection.makefile("rwb") as stream:
            try:
                metrics = json.loads(stream.readline(MAX_CALL_BYTES))
            except (OSError, ValueError):  # the process that called has ended
                return
            if not self.uses_calls and self._line_reports:
                notify(
                    f"The script has made {self._line_reports} reports by lines of output, and now calls "
                    "sweeper.report(). Its lines are no reports from here on."
                )
            self.uses_calls, self._held = True, None
            answer: dict[str, Any] = {"continue": False}
            try:
                answer = {"continue": report(metrics, is_waiting=True)}
            except (TypeError, ValueError) as error:
                answer = {"refused": str(error)}
            finally:
                with suppress(OSError):
                    stream.write(json.dumps(answer).encode() + b"\n")
                    stream.flush()

    def _read_lines(self, report: Report) -> None:
        content = os.read(self._lines, 1 << 16)
        if not content:
            self._has_lines = False
            return
        *lines, self._partial = (self._partial + content).split(b"\n")
        self._partial = self._partial[-MAX_LINE_BYTES:]
        for line in lines:
            self._take_line(line, report)

    def _take_line(self, line: bytes, report: Report) -> None:
        """Hold a line with metrics back for a moment; a call of `sweeper.report` then replaces it."""
        if self.uses_calls or len(line) > MAX_LINE_BYTES:
            return
        text = line.decode(errors="replace")
        metrics = metrics_in(text)
        if self._objective in metrics:
            self._report_line(report)
            self._held = time.monotonic() + LINE_DELAY_S, metrics
        elif self._objective in text:
            self._near_miss = text.strip()[:100]

    def _report_line(self, report: Report) -> None:
        if self._held is not None:
            (_, metrics), self._held = self._held, None
            self._line_reports += 1
            report(metrics, is_waiting=False)


def _remove_dead_sockets(folder: Path) -> None:
    """Remove the sockets of workers that were killed together with their guards and supervisors."""
    for path in folder.glob("*.sock"):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            if time.time() - path.lstat().st_mtime < MIN_SOCKET_AGE_S:
                continue
            client.setblocking(False)
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
