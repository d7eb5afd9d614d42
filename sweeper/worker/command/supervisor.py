"""Process between a worker and a command: it keeps the output, and ends every process of the command.

    worker -> guard -> supervisor -> command -> ...

A worker starts this file with `python -I -S`. Guard and supervisor adopt orphans: no process of the command gets
away, not even one with a session of its own. The supervisor ends the command when the worker closes the pipe `control`,
or dies: by SIGTERM, then by SIGKILL. Ray kills the children of a worker that it ends, here the guard; if the supervisor
is killed, the guard ends the command.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TERM_GRACE_S, KILL_LIMIT_S = 3.0, 10.0
"""Time between SIGTERM and SIGKILL, and the longest to wait for processes that SIGKILL does not end."""

MAX_FILE_BYTES = 8 << 20
"""Size of a file of output at which it is moved aside. The file that was moved aside before is replaced."""

MAX_PENDING_BYTES, MAX_TAIL_BYTES = 1 << 20, 32 << 10
"""Output that may wait for the worker before the command has to, and the end of stderr that is kept for a reason."""

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
HAS_PROC = os.path.isdir("/proc/self")
ENDED: dict[int, int] = {}  # the status of each child process that has ended, by its id


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants() -> list[int]:
    """Return the ids of all processes below this one, except zombies."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if HAS_PROC else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
            except OSError:
                continue
            if fields[0] != b"Z":
                parents[int(name)] = int(fields[1])
    found = {os.getpid()}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return sorted(found - {os.getpid()})


def _reap() -> None:
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ENDED[found[0]] = found[1]
    except ChildProcessError:
        pass


def _signal_all(command: int, number: int) -> bool:
    """Signal all descendants, without /proc the command's process group; return whether there are any."""
    found = 0
    for pid in descendants() if HAS_PROC else [-command] * bool(command):
        try:
            os.kill(pid, number)
            found += 1
        except (ProcessLookupError, PermissionError):
            continue
    return found > 0


def _kill_all(command: int = 0) -> None:
    """Kill all descendants, and those that they start meanwhile."""
    deadline = time.monotonic() + KILL_LIMIT_S
    while _signal_all(command, signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(0.01)
        _reap()


class OutputFile:
    """File that keeps output. It is bounded, and a full disk loses output but raises no error."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lost = 0
        self._file = self._open()
        self._size = 0 if self._file is None else os.fstat(self._file).st_size

    def _open(self) -> int | None:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return None

    def write(self, content: bytes) -> None:
        if self._size >= MAX_FILE_BYTES:
            self._move_aside()
        if self._lost and self._write(f"\n[{self._lost:,} bytes could not be written: the disk was full]\n".encode()):
            self._lost = 0
        if not self._write(content):
            self._lost += len(content)

    def _write(self, content: bytes) -> bool:
        try:
            while content and self._file is not None:
                written = os.write(self._file, content)
                self._size += written
                content = content[written:]
        except OSError:
            return False
        return self._file is not None

    def _move_aside(self) -> None:
        aside = f"{os.path.splitext(self._path)[0]}.old.txt"
        try:
            os.replace(self._path, aside)
        except OSError:
            return
        if self._file is not None:
            os.close(self._file)
        self._file, self._size = self._open(), 0
        self._write(f"[{MAX_FILE_BYTES >> 20} MB before this are in {os.path.basename(aside)}]\n".encode())


class Supervisor:
    """Starts a command, passes its output on, and ends it."""

    def __init__(self, control: int, status: int, forward: int, output: str) -> None:
        self._control, self._status, self._forward = control, status, forward
        self._output = OutputFile(output)
        self._pending, self._tail = bytearray(), b""
        self._command = 0
        self._kill_at: float | None = None
        os.set_blocking(forward, False)

    def run(self, folder: str, words: list[str]) -> None:
        wakeup, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        self._command = _start(folder, words, out_end, err_end, self._status)
        self._streams, self._out = [out, err], out
        while self._command not in ENDED and not self._gives_up():
            self._turn(wakeup)
        # The command has ended. What it has left in the background ends too, and so does the output of that.
        self._control = -1
        if self._kill_at is None:
            self._kill_at = time.monotonic() + TERM_GRACE_S
            _signal_all(self._command, signal.SIGTERM)
        while (self._streams or descendants()) and not self._gives_up():
            self._turn(wakeup)
        if self._forward >= 0:
            os.set_blocking(self._forward, True)
            self._pass_on()
        code = os.waitstatus_to_exitcode(ENDED.get(self._command, signal.SIGKILL))
        os.write(self._status, (f"exit {code}\n" if code >= 0 else f"signal {-code}\n").encode() + self._tail)

    def _gives_up(self) -> bool:
        return self._kill_at is not None and time.monotonic() > self._kill_at + KILL_LIMIT_S

    def _turn(self, wakeup: int) -> None:
        """Wait for the next thing to happen, and handle it."""
        poll, has_room = select.poll(), len(self._pending) < MAX_PENDING_BYTES or self._control < 0
        for source in (wakeup, self._control, *(self._streams if has_room else ())):
            if source >= 0:
                poll.register(source, select.POLLIN)
        if self._pending and self._forward >= 0:
            poll.register(self._forward, select.POLLOUT)
        timeout = None if self._kill_at is None else max(0.01, min(self._kill_at - time.monotonic(), 0.1))
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        if wakeup in ready:
            os.read(wakeup, 4096)
        _reap()
        if self._control in ready:
            self._control = -1
            self._kill_at = time.monotonic() + TERM_GRACE_S
            _signal_all(self._command, signal.SIGTERM)
        elif self._kill_at is not None and time.monotonic() > self._kill_at:
            _kill_all(self._command)
        for stream in [stream for stream in self._streams if stream in ready]:
            self._read(stream)
        self._pass_on()

    def _read(self, stream: int) -> None:
        content = os.read(stream, 1 << 16)
        if not content:
            os.close(stream)
            self._streams.remove(stream)
            return
        self._output.write(content)
        if stream != self._out:
            self._tail = (self._tail + content)[-MAX_TAIL_BYTES:]
        elif self._forward >= 0:
            self._pending += content

    def _pass_on(self) -> None:
        """Write to the worker what it can take now."""
        try:
            while self._pending:
                del self._pending[: os.write(self._forward, self._pending)]
        except BlockingIOError:
            return
        except OSError:  # the worker is gone
            os.close(self._forward)
            self._forward = -1
            self._pending.clear()


def _start(folder: str, words: list[str], out: int, err: int, status: int) -> int:
    """Start the command in a session of its own; return its process id."""
    supervisor = os.getpid()
    if pid := os.fork():
        os.close(out)
        os.close(err)
        return pid
    try:
        os.setsid()
        _prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it was killed before this process could ask for the signal
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        os.chdir(folder)
        os.execvp(words[0], words)
    except OSError as error:
        os.write(status, f"start {error.strerror}: {error.filename or words[0]}\n".encode())
    finally:
        os._exit(127)


def _clean_up(parent: int, socket: str, work: str) -> None:
    """Remove what the worker would have removed, if it has died. Ray kills the guard together with it."""
    if os.getppid() != parent:
        import shutil

        shutil.rmtree(work, ignore_errors=True)
        if os.path.lexists(socket):
            os.unlink(socket)


def main() -> None:
    """Guard the supervisor, which is a fork of this process, and clean up after both."""
    control, status, forward = map(int, sys.argv[1:4])
    output, socket, work, folder = sys.argv[4:8]
    worker, guard = os.getppid(), os.getpid()
    _prctl(_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    for descriptor in (control, status, forward):
        os.set_inheritable(descriptor, False)
    supervisor = os.fork()
    if not supervisor:
        try:
            _prctl(_SET_CHILD_SUBREAPER, 1)
            Supervisor(control, status, forward, output).run(folder, sys.argv[8:])
        finally:
            _kill_all()
            _clean_up(guard, socket, work)
            os._exit(0)
    for descriptor in (control, status, forward):
        os.close(descriptor)
    while os.waitpid(-1, 0)[0] != supervisor:
        pass
    _kill_all()
    _clean_up(worker, socket, work)


if __name__ == "__main__":
    main()
