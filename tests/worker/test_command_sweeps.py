"""Sweeps of a command by the real command, with processes killed at random moments."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from sweeper.study.open import read_study
from tests.worker.processes import command_of, marked

ROOT = Path(__file__).parents[2]
SCRIPTED = ROOT / "tests/worker/scripted.py"
PATIENCE_S = 180.0

SWEEP = {
    "name": "scripted",
    "trainable": {"command": ["python", "scripted.py", "{height}", "{epochs}", "{checkpoint}", "{way}"]},
    "objective": {"metric": "score"},
    "budget": {"trials": 6, "epochs": 8, "parallel": 2, "max_failures": 50},
    "space": {
        "height": {"type": "float", "low": 0.0, "high": 1.0},
        "way": {"type": "categorical", "choices": ["lines", "calls"]},
    },
    "sampler": {"type": "random"},
    "pruner": {"type": "threshold", "lower": 6.0, "min_epochs": 4},
}


class Campaign:
    """One sweep in a folder, started again until it is done. All of its processes have a mark in their environment."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.mark = uuid4().hex
        folder.mkdir()
        shutil.copy(SCRIPTED, folder)
        (folder / "sweep.yaml").write_text(json.dumps(SWEEP | changes))

    def start(self, *options: str) -> subprocess.Popen[str]:
        own = {"PYTHONPATH": str(ROOT), "COMMAND_TEST_MARK": self.mark, "EPOCH_S": "0.2"}
        return subprocess.Popen(
            [sys.executable, "-m", "sweeper", "run", "sweep.yaml", *options],
            cwd=self.folder,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        run = self.start()
        output, _ = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0, output
        return output

    def history(self) -> list[list[str]]:
        """Return what each attempt wrote as it began: its trial, $SWEEPER_STEP, and the epoch of its checkpoint."""
        file = self.folder / "history"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def values(self) -> dict[int, tuple[str, list[float]]]:
        study = read_study("scripted", f"sqlite:///{self.folder / 'sweeper.db'}")
        reports = {
            row.number: [report.metrics["score"] for report in study.reports(row.number)] for row in study.rows()
        }
        return {row.number: (row.state, reports[row.number]) for row in study.rows()}

    def commands(self) -> list[psutil.Process]:
        """Return the scripts that run, with their supervisors and guards."""
        return [process for process in marked(self.mark) if "scripted.py" in command_of(process)]

    def wait_until_none_is_left(self, seconds: float = 30.0) -> None:
        """Wait until all processes but Ray's own have ended: those take long to notice that their driver was killed."""
        deadline = time.monotonic() + seconds
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, left

    def _processes(self) -> list[str]:
        commands = [command_of(process) for process in marked(self.mark)]
        return [
            command for command in commands if command and not command.startswith("ray::") and "/ray/" not in command
        ]

    def clean_up(self) -> None:
        for process in marked(self.mark):
            with suppress(psutil.NoSuchProcess):
                process.kill()


Make = Callable[..., Campaign]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Campaign] = []

    def make(name: str, **changes: Any) -> Campaign:
        made.append(Campaign(tmp_path / name, **changes))
        return made[-1]

    yield make
    for campaign in made:
        campaign.clean_up()


def disturb(campaign: Campaign, kinds: list[str], rng: random.Random) -> None:
    """Start the sweep, and kill something at a random moment of it, once for each kind. The driver ends the run."""
    run = campaign.start()
    for kind in kinds:
        deadline = time.monotonic() + PATIENCE_S
        while not campaign.commands() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 2.0))
        if kind in ("driver", "interrupt"):
            run.send_signal(signal.SIGKILL if kind == "driver" else signal.SIGINT)
            break
        with suppress(psutil.NoSuchProcess):
            candidates = campaign.commands()
            if kind == "worker":
                parents = [process.parent() for process in candidates]
                candidates = [parent for parent in parents if parent and command_of(parent).startswith("ray::")]
            if candidates:
                rng.choice(candidates).kill()
    output, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode in (0, -signal.SIGKILL, 130, 75), output
    campaign.wait_until_none_is_left()


def check(campaign: Campaign, whole: Campaign) -> None:
    campaign.finish()
    campaign.wait_until_none_is_left()
    assert campaign.values() == whole.values()
    assert all(float(step) == float(first) for _, step, first in campaign.history()), campaign.history()
    assert not list((campaign.folder / "sweeps/scripted/trials").glob("*/work-*"))


@pytest.mark.long
def test_killed_and_pruned_commands_give_the_values_of_an_undisturbed_sweep(make: Make) -> None:
    whole, campaign = make("whole"), make("disturbed")
    whole.finish()
    states = {state for state, _ in whole.values().values()}
    assert states == {"COMPLETE", "PRUNED"}
    rng = random.Random(1)
    disturb(campaign, ["command", "worker", rng.choice(["driver", "interrupt"])], rng)
    check(campaign, whole)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_commands_killed_at_twenty_random_moments_leave_no_process(make: Make) -> None:
    whole = make("whole")
    whole.finish()
    rng, moments = random.Random(2), 0
    while moments < 20:
        campaign = make(f"campaign-{moments}")
        for last in ("driver", "interrupt"):
            kinds = [rng.choice(["command", "worker"]) for _ in range(rng.randrange(3))] + [last]
            disturb(campaign, kinds, rng)
            moments += len(kinds)
        check(campaign, whole)
