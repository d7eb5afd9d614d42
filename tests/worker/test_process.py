from __future__ import annotations

import gc
import locale
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.sweep_folder import SweepFolder
from sweeper.spec import Sweep
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Task, WorkerContext

CHANGES = {
    "folder": "os.chdir('/')",
    "mask": "os.umask(0)",
    "new variable": "os.environ['LEFT_BY_A_TRIAL'] = 'x'",
    "changed variable": "os.environ['HOME'] = '/nowhere'",
    "removed variable": "del os.environ['HOME']",
    "path": "sys.path.insert(0, '/nowhere')",
    "stream": "sys.stdout = sys.__stderr__",
    "timer": "signal.setitimer(signal.ITIMER_PROF, 1000)",
    "limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
    "timeout": "socket.setdefaulttimeout(3)",
    "recursion": "sys.setrecursionlimit(5000)",
    "collector": "gc.disable()",
}
ENDS = {"return": "", "raise": "raise ValueError('no')", "exit": "sys.exit(3)"}


def state() -> list[Any]:
    mask = os.umask(0o077)
    os.umask(mask)
    timers = [signal.getitimer(timer)[0] for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    settings = locale.setlocale(locale.LC_ALL), socket.getdefaulttimeout(), sys.getrecursionlimit(), gc.isenabled()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return [os.getcwd(), mask, variables, list(sys.path), sys.stdout, timers, limits, *settings]


def run_task(code: str, tmp_path: Path, *, top: str = "") -> None:
    lines = ["import gc, os, resource, signal, socket, sys", top, "def train(params, trial):", f"    {code}"]
    Path("acting.py").write_text("\n".join([*lines, "    trial.report({'score': 1.0})"]))
    declared = {"trainable": "acting:train", "objective": {"metric": "score"}, "space": {"x": 1}}
    sweep = Sweep.from_mapping(
        {"name": "x", "budget": {"trials": 1, "epochs": 1}, "pruner": {"type": "none"}, **declared}
    )
    sys.modules.pop("acting", None)
    run = TaskRunner(WorkerContext(sweep, SweepFolder(tmp_path / "sweep"), code=tmp_path), Task(0, {"x": 1}))
    run.next_event()
    run.stop()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_trial_changes_in_its_process_is_restored(tmp_path: Path, change: str, end: str) -> None:
    run_task("pass", tmp_path)  # its import puts the folder on the path
    before = state()
    run_task(CHANGES[change] + (f"; {ENDS[end]}" if ENDS[end] else ""), tmp_path)
    assert state() == before


def test_removed_working_folder_does_not_end_the_worker(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    run_task("os.chdir('gone'); os.rmdir(os.getcwd())", tmp_path)
    assert os.getcwd() == str(tmp_path)


def test_variable_that_the_module_sets_when_imported_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_BY_A_MODULE", "before")
    run_task("pass", tmp_path, top="os.environ['SET_BY_A_MODULE'] = 'after'")
    assert os.environ["SET_BY_A_MODULE"] == "after"


THREADS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from sweeper.worker.process import has_own_threads

ended = threading.Event()
with ThreadPoolExecutor(1) as pool:
    pool.submit(int).result()
    print(has_own_threads())
    thread = threading.Thread(target=lambda: ended.wait(), daemon=True)
    thread.start()
    print(has_own_threads())
    ended.set()
    thread.join()
    print(has_own_threads())
"""


def test_thread_of_the_user_counts_and_an_idle_pool_does_not(tmp_path: Path) -> None:
    (tmp_path / "threads.py").write_text(THREADS)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "threads.py"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
