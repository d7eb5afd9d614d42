"""`sweeper watch` beside a study that another process writes: a real terminal, pipes, a database that is away."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.core.trials import Failure, Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]
ROOT = Path(__file__).parents[3]
WAIT_S = 60

WRITER = """
import sys, time
from pathlib import Path
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study

with open_study(Sweep.model_validate_json(Path("sweep.json").read_text())) as study:
    first = study.ask()
    for step in range(1, 10):
        study.report(first.number, Report(step, time.time(), {"score": step / 10}))
    for _ in range(5):
        row = study.ask()
        for step in range(1, 10):
            study.report(row.number, Report(step, time.time(), {"score": step / 20}))
            while step == 2 and row.number == 1 and not Path("go").exists():
                Path("waits").touch()
                time.sleep(0.05)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}


@contextmanager
def writer(sweep: Sweep) -> Iterator[subprocess.Popen[bytes]]:
    """Run a sweep in another process: trial 0 completes, and trial 1 waits at report 2 until the file `go` exists."""
    Path("sweep.json").write_text(sweep.model_dump_json())
    with subprocess.Popen([sys.executable, "-c", WRITER], env=environment()) as process:
        try:
            deadline = time.monotonic() + WAIT_S
            while not Path("waits").exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            yield process
        finally:
            process.kill()


class Terminal:
    """A command on a terminal of its own, which is its controlling terminal."""

    def __init__(self, *arguments: str) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (40, 100))
        self.before = termios.tcgetattr(self.theirs)
        self.written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweeper", *arguments],
            env=environment(),
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0),
        )
        os.set_blocking(self.ours, False)

    @property
    def text(self) -> str:
        """What is written, without styles."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.written.decode(errors="replace"))

    def read_until(self, *texts: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not all(text in self.text for text in texts):
            assert time.monotonic() < deadline, self.text
            self._read()

    def end(self) -> int:
        """Wait for the end of the command; check that the terminal is as it was."""
        deadline = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self._read()
        self._read()
        assert termios.tcgetattr(self.theirs) == self.before
        assert self.text.rindex("\x1b[?25h") > self.text.rindex("\x1b[?25l"), "the cursor is hidden"
        os.close(self.ours)
        os.close(self.theirs)
        return self.process.returncode

    def _read(self) -> None:
        try:
            self.written += os.read(self.ours, 1 << 16)
        except BlockingIOError:
            time.sleep(0.05)


def test_watch_shows_a_sweep_of_another_process_until_it_ends(make_sweep: MakeSweep) -> None:
    with writer(make_sweep()) as process:
        left = Terminal("watch", "climbing")
        left.read_until("q leaves", "best 0.9000 in trial 0", "2/9", "1 running, 1 complete")
        assert not termios.tcgetattr(left.theirs)[3] & termios.ICANON
        os.write(left.ours, b"q")
        assert left.end() == 0
        assert "climbing continues. Watch it again with: sweeper watch climbing" in left.text
        assert "interrupted" not in left.text
        stays = Terminal("watch")
        stays.read_until("q leaves")
        assert process.poll() is None
        Path("go").touch()
        assert stays.end() == 0
        assert process.wait(WAIT_S) == 0
    assert "climbing is done: 6 complete; best 0.9000 (trial 0)" in stays.text
    assert "next  sweeper show climbing" in stays.text and "sweeper resume" not in stays.text


@pytest.mark.parametrize(("key", "number", "code"), [(b"\x03", None, 130), (b"", signal.SIGTERM, 143)])
def test_watch_that_is_ended_restores_the_terminal_and_disturbs_nothing(
    make_sweep: MakeSweep, key: bytes, number: signal.Signals | None, code: int
) -> None:
    with open_study(make_sweep()) as study:
        study.report(study.ask().number, Report(1, time.time(), {"score": 0.5}))
        terminal = Terminal("watch", "climbing")
        terminal.read_until("q leaves")
        os.write(terminal.ours, key)
        if number is not None:
            terminal.process.send_signal(number)
        assert terminal.end() == code
        study.report(0, Report(2, time.time(), {"score": 0.5}))
        assert study.row(0).step == 2
    assert "Traceback" not in terminal.text


def test_watch_once_prints_the_state_and_ends(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    with open_study(make_sweep()) as study:
        for step in range(1, 10):
            study.report(study.ask().number if step == 1 else 0, Report(step, time.time(), {"score": step / 10}))
        study.report(study.ask().number, Report(1, time.time(), {"score": 0.25}))
        study.fail(study.ask().number, Failure("error", "ValueError: no"))
        assert main(["watch", "climbing", "--once"]) == 0
        text = capsys.readouterr().out
        assert main(["watch", "climbing", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
    assert "1 running, 1 complete, 1 failed, 3 to come" in text and "\x1b" not in text
    assert "q leaves" not in text and "1/9" in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert document["state"] == "running" and document["counts"] == {"COMPLETE": 1, "RUNNING": 1, "FAIL": 1}
    assert document["process"]["pid"] == os.getpid()
    assert [row["number"] for row in document["running"]] == [1] and document["best"]["number"] == 0
    curves = {curve["number"]: curve["values"] for curve in document["curves"]}
    assert curves == {0: [step / 10 for step in range(1, 10)], 1: [0.25]}


def test_sweep_that_does_not_run_is_shown_once_with_the_command_to_resume(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(storage="sqlite:///other.db")
    with open_study(sweep) as study:
        study.report(study.ask().number, Report(1, time.time(), {"score": 0.5}))
        study.fail(study.ask().number, Failure("error", "ValueError: no"))
    assert main(["watch", "climbing", "--storage", "sqlite:///other.db"]) == 0
    text = capsys.readouterr().out
    assert "climbing has stopped: 1 interrupted, 1 failed, 4 to come" in text
    assert "next  sweeper resume climbing --storage sqlite:///other.db" in text
    assert "sweeper retry climbing --storage sqlite:///other.db" in text
    assert main(["watch", "climbin", "--storage", "sqlite:///other.db"]) == 2
    assert "no sweep 'climbin'" in capsys.readouterr().err
    assert main(["watch", "climbing:0", "--storage", "sqlite:///other.db"]) == 2
    assert "To follow one trial: sweeper logs climbing 0 --follow" in capsys.readouterr().err


def test_watch_in_a_pipe_prints_lines_and_waits_for_its_database(make_sweep: MakeSweep) -> None:
    command = [sys.executable, "-m", "sweeper", "watch", "climbing"]
    sweeping = ExitStack()
    study = sweeping.enter_context(open_study(make_sweep()))
    with sweeping, subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "climbing runs: no trials, 6 to come" in process.stdout.readline()
        assert "No trial has started yet." in process.stdout.readline()
        Path("sweeper.db").rename("away.db")
        assert "cannot be used" in (line := process.stdout.readline()) and "Trying again" in line
        Path("away.db").rename("sweeper.db")
        for number in range(6):
            study.ask()
            study.report(number, Report(9, time.time(), {"score": number / 10}))
        assert "can be read again" in process.stdout.readline()
        sweeping.close()
        text = process.stdout.read()
        assert process.wait(WAIT_S) == 0
    assert "climbing is done: 6 complete; best 0.5000 (trial 5)" in text and "\x1b" not in text


def test_watch_ends_when_the_reader_of_its_pipe_has_gone(make_sweep: MakeSweep) -> None:
    command = f"{sys.executable} -m sweeper watch climbing | head -1; echo ${{PIPESTATUS[0]}}"
    with open_study(make_sweep()):
        done = subprocess.run(
            ["bash", "-c", command], env=environment(), capture_output=True, text=True, timeout=WAIT_S
        )
    assert done.stdout.splitlines()[1:] == ["0"] and "Traceback" not in done.stderr
