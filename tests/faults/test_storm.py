"""Random faults, one after the other, during a large sweep and during one of real networks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import KERAS, PAPER, PATIENCE_S, Campaign
from tests.faults.test_durability import fill
from tests.faults.test_processes import rows_of, starts
from tests.tracking.tools import Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(4 * 3600)]

Record = Callable[[str, str], None]
INTERVAL_S = (10.0, 30.0)
"""Shortest and longest time from one fault to the next, in seconds."""


class Storm:
    """Random faults to one sweep, which is started again whenever it has ended."""

    def __init__(self, campaign: Campaign, server: Server, disk: Path | None) -> None:
        self.campaign = campaign
        self.done: Counter[str] = Counter()
        self._server = server
        self._disk = disk
        self._trials = int(campaign.sweep["budget"]["trials"])
        self._run = self._start()

    def inject_fault(self) -> None:
        """Inject one fault into a running sweep; first resume a sweep that was stopped, or extend one that is done."""
        if self._run.poll() is not None:
            if self._run.returncode in DONE:
                self._trials += 10
            self._run = self._start()
        fault = self.campaign.random.choice(FAULTS)
        if fault(self):
            self.done[fault.__name__.strip("_").replace("_", " ")] += 1

    def finish(self) -> None:
        """Run the sweep to its end, and deliver to MLflow what it missed if it was down then."""
        while self._run.wait(10 * PATIENCE_S) not in DONE:
            self._run = self._start()
        arguments = (str(self.campaign.sweep["name"]), "--tracking-uri", self.campaign.tracking_uri)
        done = self.campaign.sweeper("sync", *arguments)
        assert done.returncode == 0, done.stderr

    def _start(self) -> subprocess.Popen[bytes]:
        return self.campaign.start("--trials", str(self._trials))

    def _end(self, run: subprocess.Popen[bytes]) -> None:
        assert run.wait(PATIENCE_S) is not None
        self.campaign.wait_for_exit(30)

    def _kill_driver(self) -> bool:
        self.campaign.kill(self._run.pid)
        self._end(self._run)
        return True

    def _kill_worker(self) -> bool:
        trainers = self.campaign.trainers()
        if trainers:
            self.campaign.kill(self.campaign.random.choice(trainers))
        return bool(trainers)

    def _kill_raylet(self) -> bool:
        raylets = self.campaign.named("raylet")
        if raylets:
            self.campaign.kill(raylets[0].pid)
            self._end(self._run)
        return bool(raylets)

    def _terminate_driver(self) -> bool:
        self._run.terminate()
        self._end(self._run)
        return True

    def _interrupt_driver(self) -> bool:
        self._run.send_signal(signal.SIGINT)
        self._end(self._run)
        return True

    def _stop_worker_for_a_while(self) -> bool:
        trainers = self.campaign.trainers()
        if trainers:
            pid = self.campaign.random.choice(trainers)
            self.campaign.kill(pid, signal.SIGSTOP)
            time.sleep(self.campaign.random.uniform(1, 8))
            self.campaign.kill(pid, signal.SIGCONT)
        return bool(trainers)

    def _kill_mlflow(self) -> bool:
        self._server.kill()
        time.sleep(self.campaign.random.uniform(1, 10))
        self._server.start()
        return True

    def _fill_disk(self) -> bool:
        if self._disk is not None:
            filler = fill(self._disk)
            time.sleep(self.campaign.random.uniform(1, 10))
            filler.unlink()
        return self._disk is not None


FAULTS = [
    Storm._kill_driver,
    Storm._kill_worker,
    Storm._kill_worker,
    Storm._kill_raylet,
    Storm._terminate_driver,
    Storm._interrupt_driver,
    Storm._stop_worker_for_a_while,
    Storm._kill_mlflow,
    Storm._fill_disk,
]
DONE = (0, 3, 69)
"""Exit codes of a sweep that is done."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    yield server
    server.kill()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """Mount a file system of 256 MB for studies and checkpoints; yield None without the right to mount."""
    if os.geteuid() != 0:
        yield None
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_random_faults_lose_nothing(
    campaign: Campaign, record: Record, server: Server, disk: Path | None, pytestconfig: pytest.Config
) -> None:
    """Spend four fifths of `--minutes` on paper trials, and a fifth on networks, which are a tenth of all trials."""
    minutes = pytestconfig.getoption("--minutes")
    trials = max(10, round(minutes * 200 / 30))
    paper = {"trials": trials - trials // 10, "epochs": 40, "max_failures": 50}
    networks = {"trials": trials // 10, "epochs": 100, "max_failures": 50}
    seen = []
    for base, budget, share in ((PAPER, paper, 0.8), (KERAS, networks, 0.2)):
        name = str(base["name"])
        part = Campaign(campaign.folder / name, campaign.random.randrange(2**32))
        part.folder.mkdir()
        if disk is not None:
            (disk / name).mkdir()
            (disk / name / "sweeps").mkdir()
            for what in ("sweeps", "sweeper.db"):
                (part.folder / what).symlink_to(disk / name / what)
        pace = {"space": PAPER["space"] | {"pause": 0.5}} if base is PAPER else {}
        part.declare(base | pace, budget=budget, pruner={"type": "median", "n_startup_trials": 4, "min_epochs": 4})
        part.tracking_uri = server.url
        try:
            seen.append(_run_storm(part, server, disk, minutes * 60 * share))
        finally:
            part.clean_up()
    record(f"random faults for {minutes:g} minutes, one every 10 to 30 s", "; ".join(seen))


def _run_storm(part: Campaign, server: Server, disk: Path | None, seconds: float) -> str:
    storm = Storm(part, server, disk)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        storm.inject_fault()
        time.sleep(part.random.uniform(*INTERVAL_S))
    storm.finish()
    part.check()
    rows = rows_of(part)
    assert starts(part) <= sum(row.attempt for row in rows)
    faults = ", ".join(f"{count} x {name}" for name, count in sorted(storm.done.items()))
    return f"{part.sweep['name']}: {len(rows)} trials, {faults}; nothing lost, nothing duplicated"
