"""Disks that are full and databases that are locked under a sweep that runs: it waits, and goes on by itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.harness import PAPER, PATIENCE, Campaign
from tests.faults.test_durability import fill
from tests.faults.test_processes import starts

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]

Say = Callable[[str, str], None]


@pytest.fixture
def small(campaign: Campaign) -> Iterator[Path]:
    """A file system of 8 MB that holds what a sweep writes, but for MLflow's store and the campaign's own files."""
    folder = campaign.folder / "small"
    folder.mkdir()
    mounted(folder, "8m")
    yield folder
    campaign.clean_up()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mounted(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)


@pytest.fixture
def small_for_ray(campaign: Campaign) -> Iterator[Path]:
    """A file system of 24 MB for Ray's own files, whose paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    mounted(folder, "24m")
    yield folder
    campaign.clean_up()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.mark.parametrize("what", ["sweeps", "sweeper.db"])
def test_a_full_disk_holds_a_sweep_up_and_loses_nothing(campaign: Campaign, say: Say, small: Path, what: str) -> None:
    if what == "sweeps":
        (small / what).mkdir()
    (campaign.folder / what).symlink_to(small / what)
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    filler = fill(small)
    campaign.wait_for(lambda: "disk full on" in campaign.said(), run)
    time.sleep(campaign.random.uniform(1, 5))
    standing = len(campaign.history())
    time.sleep(3)
    assert len(campaign.history()) <= standing + 2
    filler.unlink()
    assert run.wait(PATIENCE) == 0, campaign.said()
    campaign.judge()
    name = {"sweeps": "the checkpoints", "sweeper.db": "the study's database"}[what]
    say(f"a full disk under {name}", "one line says so; the sweep stands still, and goes on when there is room")


def test_a_database_that_another_process_locks_is_waited_for(campaign: Campaign, say: Say) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    for seconds, is_said in ((2, False), (30, True)):
        with closing(sqlite3.connect(campaign.folder / "sweeper.db", timeout=60, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            other.execute("ROLLBACK")
        campaign.wait_for_lines(4, run)
        assert ("is unavailable (locked by another process). Trials wait" in campaign.said()) == is_said, (
            campaign.said()
        )
    assert run.wait(PATIENCE) == 0, campaign.said()
    campaign.judge()
    say("the study's database locked for 2 s, and for 30 s", "the first is not noticed, of the second one line speaks")


def test_a_full_disk_under_the_files_of_ray_is_refused_at_first_and_later_not_noticed(
    campaign: Campaign, say: Say, small_for_ray: Path
) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    filler = fill(small_for_ray)
    run, asked = campaign.start(RAY_TMPDIR=str(small_for_ray)), time.monotonic()
    assert run.wait(PATIENCE) == 2, campaign.said()
    seconds = time.monotonic() - asked
    assert f"error: cannot write to {small_for_ray} (its disk is full, 0.0 MB free)" in campaign.said()
    assert not (campaign.folder / "sweeper.db").exists()
    filler.unlink()

    run = campaign.start(RAY_TMPDIR=str(small_for_ray))
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    filler = fill(small_for_ray)
    campaign.kill(campaign.random.choice(campaign.trainers()))
    assert run.wait(PATIENCE) == 0, campaign.said()
    campaign.judge()
    say(
        "a full disk under Ray's files",
        f"refused within {seconds:.1f} s; while a sweep runs, it goes on, a killed worker too",
    )
