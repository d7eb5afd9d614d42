from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from sweeper.core.code.copies import freeze_user_code
from sweeper.core.code.user_code import digest_user_code
from sweeper.core.files import private_folder
from sweeper.core.sweep_folder import SweepFolder
from sweeper.spec import Sweep
from sweeper.worker.command.process import CommandProcess
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Event, Task, WorkerContext
from tests.worker.processes import command_of, marked

SCRIPTED = str(Path(__file__).with_name("scripted.py"))
ROOT = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark this process and all that it starts; fail if one of those is left."""
    mark = uuid4().hex
    monkeypatch.setenv("COMMAND_TEST_MARK", mark)
    monkeypatch.setenv("PYTHONPATH", ROOT)
    yield mark
    assert not [command_of(process) for process in marked(mark)]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., TaskRunner]:
    """Return a function that starts a trial of a command: words, or the text of a Python script."""

    def start(
        command: Any, *, script: str | None = None, attempt: int = 1, epochs: int = 4, **others: Any
    ) -> TaskRunner:
        if script is not None:
            (tmp_path / "train.py").write_text(script)
        declared = {
            "name": "scripted",
            "trainable": {"command": command, **others},
            "objective": {"metric": "score"},
            "budget": {"trials": 1, "epochs": epochs},
            "space": {
                "height": {"type": "float", "low": 0.0, "high": 1.0},
                "momentum": {"type": "categorical", "choices": [None, 0.5]},
            },
            "pruner": {"type": "none"},
        }
        context = WorkerContext(Sweep.from_mapping(declared), SweepFolder(tmp_path / "sweep"))
        return TaskRunner(context, Task(0, {"height": 0.5, "momentum": None}, attempt=attempt))

    return start


def events_of(run: TaskRunner, limit: int = 20) -> list[Event]:
    """Return all events of a trial; the driver would stop it after the last report."""
    events = []
    for _ in range(limit):
        events.append(run.next_event())
        if events[-1].report is None and events[-1].notice is None:
            break
    run.stop()
    return events


def values(events: list[Event], metric: str = "score") -> list[float]:
    return [event.report.metrics[metric] for event in events if event.report is not None]


Start = Callable[..., TaskRunner]

LINES = """
import sys
print("starting", sys.argv[1:])
for epoch in range(4):
    print(f"epoch {epoch}: score={epoch}")
    print(f"score={epoch / 10} loss={1 - epoch / 10}")
"""


def test_lines_of_pairs_are_reports(start: Start, tmp_path: Path) -> None:
    events = events_of(start("python train.py --momentum {momentum} --h {height} -x", script=LINES))
    assert values(events) == [0.0, 0.1, 0.2, 0.3] and values(events, "loss")[0] == 1.0
    last = replace(events[-1], has_threads=False)  # a thread of another test may still end
    assert last == Event(node=last.node, pid=last.pid)
    kept = (tmp_path / "sweep/trials/0000/output-001.txt").read_text()
    assert kept.startswith("starting ['--h', '0.5', '-x']\nepoch 0: score=0\nscore=0.0 loss=1.0\n")


CALLS = """
import os, subprocess, sys, threading
import sweeper
print("score=7")  # a script has one way to report
answers = [sweeper.report(score=0.0, loss=1), sweeper.report({"score": 0.1, "val/acc": 0.5})]
thread = threading.Thread(target=lambda: answers.append(sweeper.report(score=0.2)))
thread.start(); thread.join()
code = "import sweeper; print('last', sweeper.report(score=0.3))"
subprocess.run([sys.executable, "-c", code], check=True)
print(answers)
"""


def test_calls_are_reports_from_threads_and_children_too(start: Start, tmp_path: Path) -> None:
    events = events_of(start("python train.py", script=CALLS))
    assert values(events) == [0.0, 0.1, 0.2, 0.3]
    kept = (tmp_path / "sweep/trials/0000/output-001.txt").read_text()
    assert "last False\n" in kept and "[True, True, True]" in kept


def test_script_alone_prints_its_reports_and_imports_nothing_heavy() -> None:
    code = "import sys, sweeper; print(sweeper.report(score=0.25, loss=1)); "
    code += "print({'pydantic', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "score=0.25 loss=1\nTrue\nset()\n", done.stderr


def test_refused_report_is_an_error_of_the_call(start: Start) -> None:
    script = "import sweeper\ntry:\n    sweeper.report({'n' * 300: 1})\nexcept ValueError as error:\n    print(error)\n"
    script += "sweeper.report(score=1)\nsweeper.report(score='high')"
    events = events_of(start("python train.py", script=script))
    assert values(events) == [1.0]
    failure = events[-1].failure
    assert failure is not None and failure.reason.startswith("exited with 1: TypeError: metric 'score' is not a number")


def test_resumed_command_goes_on_from_its_checkpoint(start: Start, tmp_path: Path) -> None:
    words = ["python", SCRIPTED, "{height}", "{epochs}", "{checkpoint}", "calls"]
    whole = values(events_of(start(words)))
    (tmp_path / "history").unlink()
    for path in (tmp_path / "sweep/trials/0000").glob("attempt-*"):
        path.rename(tmp_path / path.name)
    run = start(words)
    first = [run.next_event() for _ in range(2)]
    run.stop()
    again = events_of(start(words, attempt=2))
    assert [event.report.step for event in again if event.report] == [2, 3, 4]
    assert values(first) + values(again)[1:] == whole
    assert (tmp_path / "history").read_text().splitlines() == ["0 0 0", "0 2 2"]
    assert not list((tmp_path / "sweep/trials/0000").glob("work-*"))


def test_checkpoint_of_a_script_that_does_not_wait_is_not_saved(start: Start, tmp_path: Path) -> None:
    events = events_of(start(["python", SCRIPTED, "{height}", "{epochs}", "{checkpoint}", "lines"]))
    (notice,) = [event.notice for event in events if event.notice]
    assert notice.startswith("The checkpoint of the trial is not saved, because its script does not wait")
    assert not list((tmp_path / "sweep/trials/0000").glob("attempt-*"))


def test_checkpoint_that_has_not_changed_is_not_saved_again(start: Start, tmp_path: Path) -> None:
    script = """
import os, sweeper
for epoch in range(4):
    if epoch == 1:
        open(os.environ["SWEEPER_CHECKPOINT"] + "/state", "w").write("1")
    sweeper.report(score=epoch)
"""
    events_of(start("python train.py", script=script))
    assert [path.name for path in (tmp_path / "sweep/trials/0000").glob("attempt-*")] == ["attempt-001-step-00000002"]


@pytest.mark.parametrize("way", ["lines", "calls"])
def test_stopped_command_ends_with_all_of_its_processes(start: Start, mark: str, way: str) -> None:
    run = start(["python", SCRIPTED, "{height}", "100", "{checkpoint}", way], epochs=100)
    run.next_event()
    assert len(marked(mark)) >= 6  # the guard, the supervisor, the script and its three
    began = time.monotonic()
    run.stop()
    assert time.monotonic() - began < 8
    assert not marked(mark)


def test_command_that_ignores_the_signal_is_killed(start: Start) -> None:
    script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('score=1')\ntime.sleep(600)"
    run = start("python train.py", script=script)
    run.next_event()
    began = time.monotonic()
    run.stop()
    assert 2 < time.monotonic() - began < 8


def test_script_that_breaks_its_loop_at_false_may_finish(start: Start, tmp_path: Path) -> None:
    script = "import sweeper\nwhile sweeper.report(score=1):\n    pass\nprint('finished')\n"
    run = start("python train.py", script=script)
    run.next_event()
    run.stop()
    assert "finished" in (tmp_path / "sweep/trials/0000/output-001.txt").read_text()


def test_report_beyond_the_budget_ends_the_command(start: Start) -> None:
    script = "import itertools, time\nfor i in itertools.count():\n    print(f'score={i}')\n    time.sleep(0.15)"
    run = start("python train.py", script=script, epochs=3)
    events = [run.next_event() for _ in range(3)]
    run.stop()
    assert values(events) == [0, 1, 2]


FAILURES = {
    "print('score=1'); raise ValueError('too high')": ("error", "exited with 1: ValueError: too high"),
    "import sys; sys.exit(3)": ("error", "exited with 3"),
    "import sys; sys.exit(2)": ("error", "exited with 2"),  # a usage that no retry mends
    "import sys; sys.exit(127)": ("error", "exited with 127"),  # a command that does not exist
    "raise MemoryError": ("memory", "exited with 1: MemoryError"),
    "raise ConnectionResetError('gone')": ("io", "exited with 1: ConnectionResetError: gone"),
    "open('missing')": ("error", "exited with 1: FileNotFoundError: "),
    "import os; os.kill(os.getpid(), 11)": ("crash", "was killed by SIGSEGV"),
    "import os; os.kill(os.getpid(), 9)": ("crash", "was killed by SIGKILL, perhaps because memory was short"),
    "import os; os._exit(137)": ("crash", "exited with 137 (SIGKILL)"),
    "print('score=nan')": ("diverged", "diverged (score=nan at epoch 1)"),
    "print('accuracy=1')": ("error", "ended without a report of 'score'; print a line such as score=0.93, or call"),
    "print('epoch 1: score=3')": (
        "error",
        "ended without a report of 'score'; its line 'epoch 1: score=3' has more than pairs name=value; print a line",
    ),
}


@pytest.mark.parametrize("script", FAILURES)
def test_failed_command_gives_its_kind_and_reason(start: Start, tmp_path: Path, script: str) -> None:
    kind, reason = FAILURES[script]
    failure = events_of(start("python train.py", script=script))[-1].failure
    assert failure is not None and (failure.kind, failure.reason[: len(reason)]) == (kind, reason)
    if "raise" in script:
        assert "Traceback" in (tmp_path / "sweep/trials/0000/error.txt").read_text()


def test_program_that_cannot_be_started_fails_the_trial(start: Start, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("no program")
    (tmp_path / "tool").chmod(0o755)
    failure = events_of(start(["./tool"]))[-1].failure
    assert failure is not None and failure.reason == "could not be started: Exec format error: ./tool"


def test_environment_and_folder_are_those_declared(start: Start, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    script = "import json, os, sys\nprint(json.dumps({'score': 1}))\n"
    script += "print(os.getcwd(), os.environ['H'], 'M' in os.environ)\n"
    script += "print(os.environ['SWEEPER_PARAMS'], os.environ['SWEEPER_EPOCHS'], sys.stdin.read() == '')"
    words = ["python", str(tmp_path / "train.py")]
    events_of(start(words, script=script, folder="there", env={"H": "{height}!", "M": "{momentum}"}))
    kept = (tmp_path / "sweep/trials/0000/output-001.txt").read_text().splitlines()
    assert kept[1:] == [f"{tmp_path / 'there'} 0.5! False", f"{json.dumps({'height': 0.5, 'momentum': None})} 4 True"]


def test_long_output_is_moved_aside_and_stops_nobody(start: Start, tmp_path: Path) -> None:
    script = "for i in range(100_000):\n    print('x' * 200)\nprint('score=1')"
    assert values(events_of(start("python train.py", script=script))) == [1.0]
    old, new = SweepFolder(tmp_path / "sweep").outputs(0)
    assert old.stat().st_size < 9 << 20 and "score=1" in new.read_text()


def test_background_process_ends_with_the_command(start: Start, mark: str) -> None:
    events_of(start(["sh", "-c", "sleep 600 & echo score=1"]))
    assert not marked(mark)


def test_script_that_was_sent_to_another_node_is_found_there(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start("python train.py", script="import helper\nprint(f'score={helper.VALUE}')")
    for name in ("sent", "also-sent"):  # Ray unpacks each module into a folder of its own
        (tmp_path / name).mkdir()
        monkeypatch.syspath_prepend(tmp_path / name)
    (tmp_path / "train.py").rename(tmp_path / "sent/train.py")
    (tmp_path / "also-sent/helper.py").write_text("VALUE = 3")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'also-sent'}:{ROOT}")
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    away = TaskRunner(replace(run._context, started_in=tmp_path / "nowhere"), run._task)
    assert values(events_of(away)) == [3.0]


@pytest.mark.parametrize("words", [["python", "train.py"], ["python", "-u", "./train.py"], ["python", "-m", "train"]])
def test_command_runs_the_code_that_the_sweep_began_with(start: Start, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "helper.py").write_text("VALUE = 1")
    run = start(words, script="import helper\nprint(f'score={helper.VALUE}')")
    command = run._context.sweep.trainable
    code = freeze_user_code(command, tmp_path / "frozen/code", digest_user_code(command))
    for name in ("train.py", "helper.py"):
        (tmp_path / name).write_text("VALUE = 2\nprint('score=2')")
    frozen = TaskRunner(replace(run._context, code=code), run._task)
    assert values(events_of(frozen)) == [1.0]


WORKER = """
import sys, time
from pathlib import Path
from sweeper.worker.command.process import CommandProcess
words = [sys.executable, {script!r}, "0.5", "1000", ".", "lines"]
import os
environment = os.environ | {{"SWEEPER_TRIAL": "0", "SWEEPER_STEP": "0"}}
Path("work").mkdir()
output, work = Path("output-001.txt"), Path("work").absolute()
with CommandProcess(words, Path.cwd(), environment, output, objective="score", work=work) as process:
    process.follow(lambda metrics, is_waiting: print("reported", flush=True) or True, print)
"""


@pytest.mark.parametrize("victim", ["worker", "guard", "supervisor", "guard and worker", "command"])
def test_no_process_survives_whoever_is_killed(mark: str, victim: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER.format(script=SCRIPTED)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert worker.stdout is not None and worker.stdout.readline() == b"reported\n"
    process = psutil.Process(worker.pid)
    (guard,) = process.children()
    (supervisor,) = guard.children()
    (command,) = supervisor.children()[:1]
    known = {"worker": process, "guard": guard, "supervisor": supervisor, "command": command}
    for name in victim.split(" and "):
        known[name].send_signal(signal.SIGKILL)
    if victim == "guard":
        worker.kill()  # the command lives on with the supervisor alone, until its worker ends
    worker.wait(20)
    deadline = time.monotonic() + 10
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)
    if "worker" in victim or victim == "guard":
        assert not os.path.exists("work")
    worker.stdout.close()
    assert worker.stderr is not None
    worker.stderr.close()


def test_supervisor_costs_less_than_a_tenth_of_a_second_of_cpu(tmp_path: Path) -> None:
    times, work = [], tmp_path / "work"
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with CommandProcess(
            ["true"], tmp_path, dict(os.environ), tmp_path / "out", objective="score", work=work
        ) as process:
            assert process.follow(lambda metrics, is_waiting: True, print) == "exit 0\n"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.1, times


def test_sockets_of_killed_workers_are_removed(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = private_folder()
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as live:
        for listener, name in ((dead, "1-dead.sock"), (live, "2-live.sock")):
            listener.bind(str(folder / name))
            os.utime(folder / name, (0, 0))
        live.listen()
        dead.close()
        events_of(start(["echo", "score=1"]))
        assert [path.name for path in folder.glob("*.sock")] == ["2-live.sock"]
